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

// probeBytes is the number of compressed bytes that determine the references of
// the first 32 KiB of output: 32 KiB of incompressible data, and the headers of
// blocks.
const probeBytes = 48 << 10

// spanWorker decodes spans. One goroutine uses it.
type spanWorker struct {
	t     *indexedDecoder
	m     *members // for headers
	cur   cursor
	probe *flate.Probe
	buf   []byte
	past  []byte // history of the span

	span  *span    // being decoded, or nil
	pos   int64    // byte of the source that w has reached
	ended bool     // the span has ended, at end and with err
	end   position // a position at or after the start of the next span, or the end of the last member
	err   error    // the error of the stream, if the span is correct
}

func newSpanWorker(t *indexedDecoder) *spanWorker {
	w := &spanWorker{t: t, m: &members{in: flate.NewInput(nil)}, probe: flate.NewProbe(), buf: make([]byte, probeBytes)}
	w.m.dec = flate.NewDecoder(w.m.in)
	return w
}

// guard runs fn, a step of decoding s. If it panics, s ends with an error.
func (w *spanWorker) guard(s *span, fn func()) {
	if err := panics.Guard(fn); err != nil {
		w.span, w.ended, w.end, w.err = s, true, position{bits: w.pos * 8}, err
		w.t.mu.Lock()
		s.probed = true
		w.t.mu.Unlock()
	}
}

// decode decodes all of s.
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

// startSpan prepares w for decoding s with the claimed history.
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
		w.endSpan(position{bits, true}, err) // refsUnknown: the serial decoder reports the error
		return
	}
	d.Reset(in)
}

// source returns a reader of the store from an offset on, valid until the next
// call.
func (w *spanWorker) source(off int64) io.Reader {
	w.cur = cursor{s: w.t.store, at: off}
	return &w.cur
}

// endSpan records the position at which the span ended, and the error if there
// was one.
func (w *spanWorker) endSpan(at position, err error) {
	if src := w.m.in.Err(); err != nil && src != nil && src != io.EOF {
		err = sourceError{src}
	}
	w.ended, w.end, w.err = true, at, err
}

// nextChunk returns the next chunk of the span: c filled with output, a new
// chunk with a copy of short output, or a new chunk for the end of a member. It
// returns nil if the span has ended.
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
			// A copy, so that a short member does not hold the memory of a long
			// one.
			return &chunk{p: bytes.Clone(p), sum: crc32.ChecksumIEEE(p)}
		}
		c.p, c.sum = p, crc32.ChecksumIEEE(p)
		return c
	case errors.Is(err, flate.ErrStopped):
		w.endSpan(position{bits: d.Bits()}, nil)
		return nil
	case err != io.EOF: //nolint:errorlint // the decoder returns io.EOF unwrapped
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
	if w.pos*8 >= w.span.stop || detectFormat(in.Peek(2)) != Gzip || w.m.readHeader() != nil {
		// The serial decoder finds an error in the header again, and checks the
		// bytes after the last member.
		w.endSpan(position{w.pos * 8, true}, nil)
		return end
	}
	d.Reset(in)
	return end
}

// probeSpan determines which bytes of its history the span s refers to. s must
// start with a block.
func (w *spanWorker) probeSpan(s *span) {
	c := w.t.takeClaim()
	w.past = s.point.Window.Append(w.past[:0])
	gone := flate.History - len(w.past)
	clear(c.history[:gone])
	copy(c.history[gone:], w.past)
	at := s.point.Bits / 8
	n, _ := io.ReadFull(w.source(at), w.buf)                                             // decoding reads the same bytes again and reports an error of the source
	known := w.probe.Refs(w.buf[:n], uint(s.point.Bits%8), max(0, s.stop-at*8), &c.refs) //nolint:gosec // G115: 0 to 7
	w.reportProbe(s, c, !known)
}

// reportProbe publishes the references of s, and whether they are known.
func (w *spanWorker) reportProbe(s *span, c *claim, unsure bool) {
	w.t.mu.Lock()
	s.claim, s.refsUnknown, s.probed = c, unsure, true
	w.t.wake.Broadcast()
	w.t.mu.Unlock()
}
