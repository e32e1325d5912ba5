package inflate

import (
	"bytes"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// markEvery is how much output there is between two places that a worker offers to
// an index: each costs a copy of the compressed bytes that follow.
const markEvery = 1 << 20 // bytes

// mark is where a block begins in a piece of output, behind 32 KiB of it at least.
type mark struct {
	bits  int64 // in the store
	off   int   // in the piece
	ahead []byte
	skip  uint
}

// marks finds the places for an index in what one decoder makes; the goroutine that
// decodes uses it. Whether a place is due is not known before what is in front of it is
// decoded, so these are candidates.
type marks struct {
	every int // bytes of output
	since int // behind the last one that was found, of what was taken
	found []mark
}

// newMarks returns marks for an index with points in a distance of span.
func newMarks(span int64) *marks {
	return &marks{every: int(min(markEvery, span/8))}
}

// watcher is a Decoder or a Blind.
type watcher interface {
	Pending() int
	Bits() int64
	Ahead() (p []byte, skip uint)
}

// watch begins anew with b, which begins a segment.
func (m *marks) watch(b *flate.SymbolDecoder) {
	m.since, m.found = m.every, nil
	b.Watch(func() { m.noteBlock(b) })
}

// watchFront begins anew with d.
func (m *marks) watchFront(d *flate.Decoder) {
	m.since, m.found = m.every, nil
	d.Watch(func(flate.Mark) { m.noteBlock(d) })
}

// look is called where a block begins.
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

// take returns the mark in the next n bytes, or symbols, of what was decoded.
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

// record makes t find places for an index.
func (t *twoStage) setRecorder(rec *index.Recorder) { t.rec = rec }

// frontMarks returns the marks of what the front decodes.
func (t *twoStage) frontMarksLocked() *marks {
	if t.frontDecoder != nil {
		return t.frontDecoder.marks
	}
	return t.marks
}

// note tells rec of the mark in p, which has so many bytes of output before it.
func (p *piece) recordMark(rec *index.Recorder, base, out int64) {
	if k := p.mark; rec != nil && k != nil {
		if out += int64(k.off); rec.Due(out) {
			rec.Block(base+k.bits, out, p.p[k.off-flate.History:k.off], k.ahead, k.skip)
		}
	}
}
