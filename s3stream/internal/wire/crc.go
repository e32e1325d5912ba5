package wire

// Combine returns the CRC32C of A followed by B from those of A and B and the
// length of B in bytes, so that the sum of an object follows from those of its
// blocks without touching its bytes again.
//
// A CRC is a remainder modulo a polynomial over GF(2), and n bytes appended
// multiply what came before by x^(8n). The conditioning cancels out.
func Combine(a, b uint32, lenB int64) uint32 { return shift(a, lenB) ^ b }

// poly is the Castagnoli polynomial, bit-reflected: bit 31 is x^0.
const poly = 0x82f63b78

// powers[k] is x^(2^k) modulo poly.
var powers = func() (p [64]uint32) {
	p[0] = 1 << 30 // x
	for k := 1; k < len(p); k++ {
		p[k] = mul(p[k-1], p[k-1])
	}
	return p
}()

func mul(a, b uint32) uint32 {
	var p uint32
	for m := uint32(1 << 31); m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= poly
		}
	}
	return p
}

// shift returns a * x^(8n): 8n = sum of 2^(k+3) over the set bits k of n.
func shift(a uint32, n int64) uint32 {
	for k := 3; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			a = mul(powers[k], a)
		}
	}
	return a
}
