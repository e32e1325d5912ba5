package inflate

// The polynomial of CRC-32 (IEEE), reflected; 1<<31 is the polynomial 1.
const crcPoly = 0xedb88320

// crcOne is the polynomial 1 in the reflected order of bits.
const crcOne = 1 << 31

// combiner makes the CRC-32 of two pieces, one behind the other, from those of each:
// appending n bytes multiplies the CRC of what is before by x^8n.
type combiner struct {
	powers [64]uint32 // x^(8*2^k)
}

func newCombiner() *combiner {
	c := new(combiner)
	p := uint32(crcOne >> 8) // x^8
	for k := range c.powers {
		c.powers[k] = p
		p = crcTimes(p, p)
	}
	return c
}

// combine returns the CRC-32 of what has a, followed by n bytes that have b.
func (c *combiner) combine(a, b uint32, n int) uint32 {
	for k := 0; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			a = crcTimes(a, c.powers[k])
		}
	}
	return a ^ b
}

// crcTimes multiplies modulo the polynomial.
func crcTimes(a, b uint32) uint32 {
	var p uint32
	for m := uint32(crcOne); m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
		}
		b = b>>1 ^ crcPoly&-(b&1)
	}
	return p
}
