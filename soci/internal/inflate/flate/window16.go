package flate

import "encoding/binary"

const (
	// winSize16 has room for as many symbols as a Window has bytes. It still
	// fits in the second-level cache.
	winSize16 = 512 << 10 // bytes
	winMask16 = winSize16 - 1

	// outSlack16 and winLimit16 are outSlack and winLimit for symbols, in
	// bytes.
	outSlack16 = (2+maxMatch)*symLen + 40
	winLimit16 = winSize16 - outSlack16
)

// window16 is a window of symbols, addressed in bytes.
type window16 [winSize16 + wordLen]byte

func (w *window16) load64(i int) uint64 {
	i &= winMask16
	return binary.LittleEndian.Uint64(w[i : i+wordLen])
}

func (w *window16) store64(i int, v uint64) {
	i &= winMask16
	binary.LittleEndian.PutUint64(w[i:i+wordLen], v)
}

func (w *window16) store16(i int, v uint16) {
	i &= winMask16
	binary.LittleEndian.PutUint16(w[i:i+symLen], v)
}

// match copies n bytes from op-dist to op.
func (w *window16) match(op, dist, n int) {
	for i := op; i < op+n; i++ {
		w[i] = w[i-dist]
	}
}

// repeat copies n bytes, and up to 6 more, from op-dist to op, for distances of
// one, two or three symbols.
func (w *window16) repeat(op, dist, n int) {
	v := w.load64(op - dist)
	step := wordLen
	switch dist {
	case 1 * symLen:
		v &= 1<<16 - 1
		v |= v << 16
		v |= v << 32
	case 2 * symLen:
		v &= 1<<32 - 1
		v |= v << 32
	default:
		v &= 1<<48 - 1
		v |= v << 48
		step = 3 * symLen
	}
	for end := op + n; op < end; op += step {
		w.store64(op, v)
	}
}
