package flate

import "math/bits"

const (
	maxBits  = 15 // longest code
	maxLit   = 286
	maxDist  = 30
	litSyms  = 288 // the fixed code has two that must not occur
	distSyms = 32
	endBlock = 256

	litBits  = 11
	litMask  = 1<<litBits - 1
	distBits = 9
	distMask = 1<<distBits - 1

	// Most entries that a table and its second levels can take, for the numbers of
	// symbols and primary bits above; found by zlib's enough.c.
	litSize  = 2342
	distSize = 594
)

// An entry of the literal/length table says what the next bits mean:
//
//	bits  0-7   how many bits it takes, extra bits of a length included
//	bits  8-13  how many bits its code takes
//	bit   31    a literal: 16-23 the byte
//	bit   30    special: neither, see below
//	otherwise   a length: 16-31 it, less what the extra bits add
//
// Special entries: with subFlag a link to a second level (8-23 where it begins,
// 24-27 how many bits index it), with endFlag the end of the block, with neither a
// code that does not exist.
const (
	litFlag     = 1 << 31
	specialFlag = 1 << 30
	subFlag     = 1 << 29
	endFlag     = 1 << 28
)

// An entry of the distance table:
//
//	bits  0-7   how many bits it takes, extra bits included
//	bits  8-13  how many bits its code takes
//	bit   15    special: with bit 14 a link to a second level (16-31 where it
//	            begins, 8-11 how many bits index it), else no code
//	bits 16-31  the distance, less what the extra bits add
const (
	distSpecial = 1 << 15
	distSub     = 1 << 14
)

// codeShift is where an entry has the bits of its code, and codeBit what one of these
// adds to an entry, which is that many bits longer, too. So extra bits are what is left
// of the bits that an entry takes when those of the code are shifted out.
const (
	codeShift = 8
	codeBit   = 1<<codeShift | 1
)

// code is a Huffman code in its canonical form, for decoding bit by bit.
type code struct {
	count    [maxBits + 1]uint16 // codes of each length
	sorted   [litSyms]uint16     // symbols by code
	min, max int                 // shortest and longest length; 0 without any code
	need     int                 // compress/flate wants this many bits before it decodes anything
}

// init sorts the symbols; false when the lengths are no code. Accepted are what
// compress/flate accepts: complete codes, one single code of one bit, and none.
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

// fill builds a decoding table: tab has 1<<primary entries followed by room for
// the second levels, sym[s] is the entry of a symbol less its bits, bad is the
// entry of a code that doesn't exist, and link makes one that leads to a second level.
//
// The table is filled for the shortest codes and doubled whenever the length grows,
// as libdeflate does: most entries are written by copies of whole halves.
//
//nolint:gosec // G115: lengths of codes are small
func (c *code) fill(tab, sym []uint32, primary int, bad uint32, link func(off, bits uint32) uint32) {
	if c.max <= 1 { // nothing, or the single code: the bit 1 has no meaning
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
	// Codes in increasing order, bit-reversed: cw is the reversed code. The table
	// is filled for the current length and doubled when the length grows.
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
			// As wide as the codes that begin with p need: until the space is used up.
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

// litSymbols are the entries of the literal/length symbols, less their bits.
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

// distSymbols are the entries of the distance symbols, less their bits.
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
