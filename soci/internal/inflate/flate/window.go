package flate

import "encoding/binary"

const (
	// History is how far back a match may reach.
	History = 32 << 10
	history = History

	// winSize is the history and the output that is decoded at a time. A power of
	// two: positions are masked. 256 KiB stay in the second cache level, and the
	// move of the history to the front is a seventh of the output.
	winSize = 256 << 10
	winMask = winSize - 1

	// outSlack is how far behind its limit a turn of a fast loop may write: two literals,
	// a match, and the rest of what that is copied in, at most 32 bytes.
	outSlack = 2 + maxMatch + 32

	// winLimit is where decoding stops for the window to be read.
	winLimit = winSize - outSlack

	maxMatch = 258 // the longest match
	wordLen  = 8   // bytes of a load or store
)

// A Window holds the history and what was decoded and not yet read. The word behind
// it lets one be loaded and stored at any masked position.
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

// match appends n bytes from dist back at op; byte by byte, for the slow loop.
func (w *Window) match(op, dist, n int) {
	for i := op; i < op+n; i++ {
		w[i] = w[i-dist]
	}
}

// repeat appends n bytes from dist back at op, for a distance below a word, and up
// to 7 bytes more. The pattern, repeated over a word, is stored as often as whole
// patterns fit.
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
