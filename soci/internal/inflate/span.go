package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
)

// probeBytes of the source tell what the first 32 KiB of output refer to: as many, for
// data that cannot be compressed, and the headers of blocks.
const probeBytes = 48 << 10

// spanWorker decodes spans; one goroutine uses it.
type spanWorker struct {
	t     *indexed
	m     *members // for headers
	cur   cursor
	probe *flate.Probe
	buf   []byte
	past  []byte // history of the span

	span  *span    // in work; nil: none
	pos   int64    // byte of the source that was reached
	ended bool     // s was decoded up to
	end   position // the place where the next span begins, or one behind, or a member behind which there is none, with
	err   error    // that the stream has, if s is right
}

func newSpanWorker(t *indexed) *spanWorker {
	w := &spanWorker{t: t, m: &members{in: flate.NewInput(nil)}, probe: flate.NewProbe(), buf: make([]byte, probeBytes)}
	w.m.dec = flate.NewDecoder(w.m.in)
	return w
}

// contain runs fn, a step of decoding s. A panic ends the span with an error.
func (w *spanWorker) guard(s *span, fn func()) {
	if err := panics.Guard(fn); err != nil {
		w.span, w.ended, w.end, w.err = s, true, position{bits: w.pos * 8}, err
		w.t.mu.Lock()
		s.probed = true
		w.t.mu.Unlock()
	}
}

// decode decodes s as a worker does, all at once.
func (w *spanWorker) decode(s *span) {
	w.startSpan(s)
	var spare *chunk
	for !w.ended {
		if spare == nil {
			if spare = w.t.takeChunk(s); spare == nil {
				w.endSpan(position{}, errAbandoned)
				break
			}
		}
		c := w.nextChunk(spare)
		if c != nil {
			w.t.addChunk(s, c, w.pos)
			if c == spare {
				spare = nil
			}
		}
	}
	if spare != nil {
		w.t.putChunk(spare)
	}
}

// begin makes w decode s. The history is what s claims.
func (w *spanWorker) startSpan(s *span) {
	bits := s.point.Bits
	in, d := w.m.in, w.m.dec
	w.span, w.pos, w.ended, w.err = s, bits/8, false, nil
	if w.past = w.past[:0]; !s.first && s.point.Kind == index.Block {
		w.probeSpan(s)
	}
	in.ResetAt(w.source(bits/8), bits/8)
	if s.point.Kind != index.Member {
		d.ResetAt(in, uint(bits%8), w.past) //nolint:gosec // G115: 0 to 7
		return
	}
	err := w.m.readHeader()
	s.headerLen = int(in.Offset() - bits/8)
	if w.reportProbe(s, nil, err != nil); err != nil {
		w.endSpan(position{bits, true}, err) // unsure: the serial decoder says what it is
		return
	}
	d.Reset(in)
}

// source returns what there is of the source from an offset on; valid until the next call.
func (w *spanWorker) source(off int64) io.Reader {
	w.cur = cursor{s: w.t.store, at: off}
	return &w.cur
}

// stop notes where, and why, the span is over.
func (w *spanWorker) endSpan(at position, err error) {
	if src := w.m.in.Err(); err != nil && src != nil && src != io.EOF {
		err = sourceError{src}
	}
	w.ended, w.end, w.err = true, at, err
}

// more returns what the span has next, nil if that is nothing: the end of a member, or
// output, in c or a copy.
func (w *spanWorker) nextChunk(c *chunk) *chunk {
	in, d := w.m.in, w.m.dec
	d.StopAt(w.span.stop)
	var p []byte
	var err error
	p, c.buf, err = d.NextIn(c.buf)
	switch {
	case err == nil:
		w.pos = max(w.pos, d.Bits()/8)
		if len(p) <= flate.History {
			// A short member: it isn't to hold the memory of a long one.
			return &chunk{p: bytes.Clone(p), sum: crc32.ChecksumIEEE(p)}
		}
		c.p, c.sum = p, crc32.ChecksumIEEE(p)
		return c
	case errors.Is(err, flate.ErrStopped):
		w.endSpan(position{bits: d.Bits()}, nil)
		return nil
	case err != io.EOF: //nolint:errorlint // the stream's own end is bare
		w.endSpan(position{bits: d.Bits()}, err)
		return nil
	}
	trailer := in.Peek(8)
	if len(trailer) < 8 {
		w.endSpan(position{bits: d.Bits()}, noEOF(in.Err()))
		return nil
	}
	end := &chunk{end: true, crc: binary.LittleEndian.Uint32(trailer), len: binary.LittleEndian.Uint32(trailer[4:])}
	in.Skip(8)
	w.pos = in.Offset()
	if w.pos*8 >= w.span.stop || sniff(in.Peek(2)) != Gzip || w.m.readHeader() != nil {
		// An error of the header is found again by the serial decoder, which also
		// knows what may follow the last member.
		w.endSpan(position{w.pos * 8, true}, nil)
		return end
	}
	d.Reset(in)
	return end
}

// look finds out what s, which begins with a block, refers to.
func (w *spanWorker) probeSpan(s *span) {
	c := w.t.takeClaim()
	w.past = s.point.Window.Append(w.past[:0])
	gone := flate.History - len(w.past)
	clear(c.history[:gone])
	copy(c.history[gone:], w.past)
	at := s.point.Bits / 8
	n, _ := io.ReadFull(w.source(at), w.buf)                                             // an error of the source is found again
	known := w.probe.Refs(w.buf[:n], uint(s.point.Bits%8), max(0, s.stop-at*8), &c.refs) //nolint:gosec // G115: 0 to 7
	w.reportProbe(s, c, !known)
}

// tell says what s refers to, and whether that is known.
func (w *spanWorker) reportProbe(s *span, c *claim, unsure bool) {
	w.t.mu.Lock()
	s.claim, s.refsUnknown, s.probed = c, unsure, true
	w.t.wake.Broadcast()
	w.t.mu.Unlock()
}
