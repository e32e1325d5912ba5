package flate

import "math/bits"

const (
	maxBits  = 15 // longest code
	maxLit   = 286
	maxDist  = 30
	litSyms  = 288 // the fixed code has two more that must not occur
	distSyms = 32
	endBlock = 256

	litBits  = 11
	litMask  = 1<<litBits - 1
	distBits = 9
	distMask = 1<<distBits - 1

	// The most entries of a table with its second levels, for the numbers of
	// symbols and primary bits above, computed by enough.c of zlib.
	litSize  = 2342
	distSize = 594
)

// An entry of the literal/length table:
//
//	bits  0-7   number of bits to consume, with the extra bits of a length
//	bits  8-13  number of bits of its code
//	bit   31    set for a literal: bits 16-23 are the byte
//	bit   30    set for a special entry, see below
//	otherwise   bits 16-31 are the base of a length, without its extra bits
//
// Special entries: with subFlag a link to a second level (bits 8-23 are its
// start, bits 24-27 the number of bits that index it), with endFlag the end of
// the block, with neither an invalid code.
const (
	litFlag     = 1 << 31
	specialFlag = 1 << 30
	subFlag     = 1 << 29
	endFlag     = 1 << 28
)

// An entry of the distance table:
//
//	bits  0-7   number of bits to consume, with the extra bits
//	bits  8-13  number of bits of its code
//	bit   15    set for a special entry: with bit 14 a link to a second level (bits
//	            16-31 are its start, bits 8-11 the number of bits that index it),
//	            without bit 14 an invalid code
//	bits 16-31  the base of the distance, without its extra bits
const (
	distSpecial = 1 << 15
	distSub     = 1 << 14
)

// codeShift is the position of the code length in an entry. codeBit adds one
// bit to the code length and to the bits to consume. So the extra bits are the
// bits to consume after the bits of the code are shifted out.
const (
	codeShift = 8
	codeBit   = 1<<codeShift | 1
)

// code is a Huffman code in its canonical form, for decoding bit by bit.
type code struct {
	count    [maxBits + 1]uint16 // codes of each length
	sorted   [litSyms]uint16     // symbols by code
	min, max int                 // shortest and longest length, 0 for an empty code
	need     int                 // bits that compress/flate reads before it decodes a symbol
}

// init sorts the symbols. It returns true for the lengths that compress/flate
// accepts, which are complete codes, a single code of one bit, and empty codes.
func (c *code) init(lens []uint8) bool {
	c.count = [maxBits + 1]uint16{}
	for _, n := range lens {
		c.count[n]++
	}
	c.count[0] = 0
	c.min, c.max = 0, 0
	var offs [maxBits + 2]uint16
	left := 1
	for n := 1; n <= maxBits; n++ {
		k := int(c.count[n])
		left = left<<1 - k
		if left < 0 {
			return false
		}
		offs[n+1] = offs[n] + c.count[n]
		if k > 0 {
			if c.min == 0 {
				c.min = n
			}
			c.max = n
		}
	}
	c.need = c.min
	if left > 0 && c.max > 0 && !(c.max == 1 && c.count[1] == 1) {
		return false
	}
	for s, n := range lens {
		if n != 0 {
			c.sorted[offs[n]] = uint16(s)
			offs[n]++
		}
	}
	return true
}

// fill builds a decoding table. tab has 1<<primary entries, followed by room
// for the second levels. sym[s] is the entry of a symbol without its bits, bad
// the entry of an invalid code, and link returns the entry for a second level.
//
// The table is filled for the shortest codes and doubled whenever the length
// grows, as in libdeflate, so that most entries are written by copying halves
// of the table.
//
//nolint:gosec // G115: lengths of codes are small
func (c *code) fill(tab, sym []uint32, primary int, bad uint32, link func(off, bits uint32) uint32) {
	if c.max <= 1 { // empty, or a single code, for which the bit 1 is invalid
		for i := range 1 << primary {
			tab[i] = bad
		}
		if c.max == 0 {
			return
		}
		if c.count[1] == 1 {
			for i := 0; i < 1<<primary; i += 2 {
				tab[i] = sym[c.sorted[0]] + codeBit
			}
			return
		}
	}
	// Codes come in increasing order. cw is the code with its bits reversed.
	n := c.min
	end := 1 << n
	cw := 0
	next := 0
	k := int(c.count[n])
	for n <= primary {
		for ; k > 0; k-- {
			tab[cw] = sym[c.sorted[next]] + uint32(n)*codeBit
			next++
			if cw == end-1 { // all ones: the last code
				for ; n < primary; n++ {
					copy(tab[end:2*end], tab[:end])
					end <<= 1
				}
				return
			}
			bit := 1 << (bits.Len(uint(cw^(end-1))) - 1)
			cw = cw&(bit-1) | bit
		}
		for k == 0 {
			n++
			if n <= primary {
				copy(tab[end:2*end], tab[:end])
				end <<= 1
			}
			k = int(c.count[n])
		}
	}
	// Second levels.
	end = 1 << primary
	prefix := -1
	start := 0
	for {
		if p := cw & (1<<primary - 1); p != prefix {
			// Wide enough for all codes with prefix p.
			prefix = p
			width := n - primary
			space := k
			for space < 1<<width {
				width++
				space = space<<1 + int(c.count[primary+width])
			}
			start = end
			end += 1 << width
			tab[p] = link(uint32(start), uint32(width))
		}
		e := sym[c.sorted[next]] + uint32(n-primary)*codeBit
		next++
		for i := start + cw>>primary; i < end; i += 1 << (n - primary) {
			tab[i] = e
		}
		if cw == 1<<n-1 {
			return
		}
		bit := 1 << (bits.Len(uint(cw^(1<<n-1))) - 1)
		cw = cw&(bit-1) | bit
		k--
		for k == 0 {
			n++
			k = int(c.count[n])
		}
	}
}

// litSymbols returns the entries of the literal/length symbols, without their
// code bits.
func litSymbols() (sym [litSyms]uint32) {
	for s := range sym {
		switch {
		case s < endBlock:
			sym[s] = litFlag | uint32(s)<<16
		case s == endBlock:
			sym[s] = specialFlag | endFlag
		case s < 265:
			sym[s] = uint32(s-257+3) << 16
		case s < 285:
			x := uint32(s-261) >> 2
			base := uint32(4+(s-261)&3)<<x + 3
			sym[s] = base<<16 | x
		case s == maxLit-1:
			sym[s] = maxMatch << 16
		default:
			sym[s] = specialFlag
		}
	}
	return sym
}

// distSymbols returns the entries of the distance symbols, without their code
// bits.
func distSymbols() (sym [distSyms]uint32) {
	for s := range sym {
		switch {
		case s < 4:
			sym[s] = uint32(s+1) << 16
		case s < maxDist:
			x := uint32(s-2) >> 1
			base := uint32(2+s&1)<<x + 1
			sym[s] = base<<16 | x
		default:
			sym[s] = distSpecial
		}
	}
	return sym
}
