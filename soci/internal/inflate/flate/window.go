package flate

import "encoding/binary"

const (
	// History is the largest distance of a match in bytes.
	History = 32 << 10
	history = History

	// winSize is the size of the history and of the output that is decoded at a
	// time. It is a power of two, so that positions can be masked. 256 KiB stay
	// in the second-level cache, and moving the history to the front copies a
	// seventh of the output.
	winSize = 256 << 10
	winMask = winSize - 1

	// outSlack is the number of bytes that an iteration of a fast loop may
	// write past its limit: two literals, a match, and at most 32 bytes more,
	// because a match is copied in words.
	outSlack = 2 + maxMatch + 32

	// winLimit is the position at which the window is full.
	winLimit = winSize - outSlack

	maxMatch = 258 // the longest match
	wordLen  = 8   // bytes of a load or store
)

// A Window holds the history and the decoded output. It is padded by a word, so
// that a word can be loaded and stored at any masked position.
type Window [winSize + wordLen]byte

func (w *Window) load64(i int) uint64 {
	i &= winMask
	return binary.LittleEndian.Uint64(w[i : i+wordLen])
}

func (w *Window) store64(i int, v uint64) {
	i &= winMask
	binary.LittleEndian.PutUint64(w[i:i+wordLen], v)
}

func (w *Window) store8(i int, v uint8) { w[i&winMask] = v }

// match copies n bytes from op-dist to op, byte by byte, for the slow loop.
func (w *Window) match(op, dist, n int) {
	for i := op; i < op+n; i++ {
		w[i] = w[i-dist]
	}
}

// repeat copies n bytes, and up to 7 more, from op-dist to op, where dist is
// less than a word. It stores words, each filled with as many whole repetitions
// of the pattern as fit.
func (w *Window) repeat(op, dist, n int) {
	v := w.load64(op-dist) & (1<<(8*uint(dist)&63) - 1)
	for have := dist; have < wordLen; have *= 2 {
		v |= v << (8 * uint(have) & 63)
	}
	step := wordLen - wordLen%dist
	for end := op + n; op < end; op += step {
		w.store64(op, v)
	}
}
