package flate

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

const (
	// headerMost exceeds the size of the header of a dynamic block: 17 bits, 19
	// lengths of 3 bits, and 316 lengths of at most 14 bits.
	headerMost = 600 // bytes

	// codesAt is the offset in a block header at which the lengths of the code
	// for code lengths start.
	codesAt = 17 // bits

	// kraftFull is the sum of 2^(7-length) over a complete code of at most 7
	// bits.
	kraftFull = 1 << 7
)

// A Finder guesses where blocks start.
type Finder struct {
	kraft [1 << 12]uint16 // the sum of 2^(7-length) for each group of four lengths
	d     Decoder
	in    Input
	src   bytes.Reader
}

// NewFinder returns a Finder.
func NewFinder() *Finder {
	f := new(Finder)
	for i := range f.kraft {
		for v := i; v > 0; v >>= 3 {
			if n := v & 7; n > 0 {
				f.kraft[i] += kraftFull >> n
			}
		}
	}
	return f
}

// Tail is the number of bytes at the end of p that Find does not search,
// because a header that starts there may be incomplete. A caller should append
// that many bytes to the part that it wants searched, unless the source ends.
const Tail = headerMost + 2*wordLen

// Find returns the first bit of p, at from or later and at least Tail bytes
// before the end, where a dynamic block that is not the last one seems to
// start, or -1. A valid header starts at the returned bit. Find finds every
// header with complete codes, as encoders write them.
func (f *Finder) Find(p []byte, from int) int {
	for i := from / 8; i+Tail <= len(p); i += 6 {
		m := candidates(binary.LittleEndian.Uint64(p[i:]))
		if i == from/8 {
			m &= ^uint64(0) << (from % 8)
		}
		for ; m != 0; m &= m - 1 {
			at := i*8 + bits.TrailingZeros64(m)
			if f.fullCode(p, at) && f.header(p, at) {
				return at
			}
		}
	}
	return -1
}

// candidates returns a mask of the first 48 bits of w where the first 13 bits
// of a header may start: not final, dynamic, at most 286 and 30 codes.
func candidates(w uint64) uint64 {
	m := ^w & ^(w >> 1) & (w >> 2)
	m &^= w >> 4 & (w >> 5) & (w >> 6) & (w >> 7)
	m &^= w >> 9 & (w >> 10) & (w >> 11) & (w >> 12)
	return m & (1<<48 - 1)
}

// fullCode reports whether the code for code lengths is complete. About one in
// a few hundred random codes is.
func (f *Finder) fullCode(p []byte, at int) bool {
	at += codesAt - 4
	w := binary.LittleEndian.Uint64(p[at/8:]) >> (at % 8)
	n := 3 * (w&15 + 4)
	at += 4
	w = binary.LittleEndian.Uint64(p[at/8:]) >> (at % 8) & (1<<n - 1)
	k := f.kraft[w&0xfff] + f.kraft[w>>12&0xfff] + f.kraft[w>>24&0xfff] + f.kraft[w>>36&0xfff] + f.kraft[w>>48]
	return k == kraftFull
}

// header reports whether a valid block header with complete codes starts at bit
// at of p.
func (f *Finder) header(p []byte, at int) bool {
	at += 3
	f.src.Reset(p[at/8 : min(len(p), at/8+headerMost)])
	f.in.Reset(&f.src)
	f.d.in = &f.in
	if f.d.start(uint(at % 8)); f.d.err != nil { //nolint:gosec // G115: 0 to 7
		return false
	}
	var lens [maxLit + maxDist]uint8
	nlit, ndist, err := f.d.readCodes(&lens)
	if err != nil || lens[endBlock] == 0 {
		return false
	}
	return completeCode(lens[:nlit]) && completeDistances(lens[nlit:nlit+ndist])
}

// completeCode reports whether a code uses its whole space.
func completeCode(lens []uint8) bool {
	sum := 0
	for _, n := range lens {
		if n > 0 {
			sum += 1 << (maxBits - n)
		}
	}
	return sum == 1<<maxBits
}

// completeDistances is completeCode for a distance code, which may also consist
// of a single code or be empty.
func completeDistances(lens []uint8) bool {
	used, last := 0, uint8(0)
	for _, n := range lens {
		if n > 0 {
			used++
			last = n
		}
	}
	return used == 0 || used == 1 && last == 1 || completeCode(lens)
}
