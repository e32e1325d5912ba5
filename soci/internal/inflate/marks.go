package inflate

import (
	"bytes"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// markEvery is the distance between two marks of a worker, in bytes of output.
// Each mark costs a copy of the compressed bytes that follow it.
const markEvery = 1 << 20

// mark is the start of a block in a piece of output. It lies at least 32 KiB
// after the start of the piece, so that the piece holds its history.
type mark struct {
	bits  int64  // offset in the store
	off   int    // offset in the piece
	ahead []byte // the compressed bytes that follow, for Recorder.Block
	skip  uint   // bits of ahead before the block
}

// marks collects candidates for index points in the output of one decoder. A
// mark becomes a point if one is due there, which is known only once all
// earlier output is decoded. Only the goroutine of the decoder uses it.
type marks struct {
	every int // bytes of output between marks
	since int // bytes of output taken since the last mark
	found []mark
}

// newMarks returns the marks for an index whose points are span bytes apart.
func newMarks(span int64) *marks {
	return &marks{every: int(min(markEvery, span/8))}
}

// watcher is a Decoder or a SymbolDecoder.
type watcher interface {
	Pending() int
	Bits() int64
	Ahead() (p []byte, skip uint)
}

// watch collects the marks of b, which starts a segment.
func (m *marks) watch(b *flate.SymbolDecoder) {
	m.since, m.found = m.every, nil
	b.Watch(func() { m.noteBlock(b) })
}

// watchFront collects the marks of d.
func (m *marks) watchFront(d *flate.Decoder) {
	m.since, m.found = m.every, nil
	d.Watch(func(flate.Mark) { m.noteBlock(d) })
}

// noteBlock is called at the start of each block.
func (m *marks) noteBlock(d watcher) {
	off := d.Pending()
	if n := len(m.found); n > 0 && off-m.found[n-1].off < m.every || n == 0 && off+m.since < m.every || off < flate.History {
		return
	}
	k := mark{bits: d.Bits(), off: off}
	k.ahead, k.skip = d.Ahead()
	k.ahead = bytes.Clone(k.ahead)
	m.found = append(m.found, k)
}

// takeMark returns the last mark in the next n bytes, or symbols, of output.
func (m *marks) takeMark(n int) (k *mark) {
	if m == nil {
		return nil
	}
	m.since = min(m.since, m.every) + n
	rest := m.found[:0]
	for _, f := range m.found {
		switch {
		case f.off >= n:
			f.off -= n
			rest = append(rest, f)
		case f.off >= flate.History:
			k = &f
			m.since = n - f.off
		}
	}
	m.found = rest
	return k
}

// setRecorder makes t collect index points for rec.
func (t *twoStage) setRecorder(rec *index.Recorder) { t.rec = rec }

// frontMarks returns the marks of the front. Only the goroutine that decodes
// with the front may call it.
func (t *twoStage) frontMarks() *marks {
	if t.frontDecoder != nil {
		return t.frontDecoder.marks
	}
	return t.marks
}

// recordMark records the mark in p. The output before p has out bytes.
func (p *piece) recordMark(rec *index.Recorder, base, out int64) {
	if k := p.mark; rec != nil && k != nil {
		if out += int64(k.off); rec.Due(out) {
			rec.Block(base+k.bits, out, p.p[k.off-flate.History:k.off], k.ahead, k.skip)
		}
	}
}
