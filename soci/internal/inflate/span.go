package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
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
}

func newSpanWorker(t *indexed) *spanWorker {
	w := &spanWorker{t: t, m: &members{in: flate.NewInput(nil)}, probe: flate.NewProbe(), buf: make([]byte, probeBytes)}
	w.m.dec = flate.NewDecoder(w.m.in)
	return w
}

// decode decodes s up to its end, which it returns: the place where the next span
// begins, or one behind, or a member behind which there is none; or an error that the
// stream has, if s is right.
func (w *spanWorker) decode(s *span) (place, error) {
	bits := s.point.Bits
	in, d := w.m.in, w.m.dec
	if w.past = w.past[:0]; !s.first && s.point.Kind == index.Block {
		w.look(s)
	}
	w.cur = cursor{s: w.t.store, at: bits / 8}
	in.ResetAt(&w.cur, bits/8)
	if s.point.Kind == index.Member {
		err := w.m.open()
		s.head = int(in.Offset() - bits/8)
		if w.tell(s, nil, err != nil); err != nil {
			return place{bits, true}, err // unsure: the serial decoder says what it is
		}
		d.Reset(in)
	} else {
		d.ResetAt(in, uint(bits%8), w.past) //nolint:gosec // G115: 0 to 7
	}
	for {
		d.StopAt(s.stop)
		switch err := w.body(s); {
		case errors.Is(err, flate.ErrStopped):
			return place{bits: d.Bits()}, nil
		case err == io.EOF: //nolint:errorlint // the stream's own end is bare
		default:
			return place{bits: d.Bits()}, err
		}
		trailer := in.Peek(8)
		if len(trailer) < 8 {
			return place{bits: d.Bits()}, noEOF(in.Err())
		}
		end := &chunk{end: true, crc: binary.LittleEndian.Uint32(trailer), len: binary.LittleEndian.Uint32(trailer[4:])}
		in.Skip(8)
		w.t.put(s, end, in.Offset())
		here := place{in.Offset() * 8, true}
		if here.bits >= s.stop || sniff(in.Peek(2)) != Gzip || w.m.open() != nil {
			// An error of the header is found again by the serial decoder, which also
			// knows what may follow the last member.
			return here, nil //nolint:nilerr // so said above
		}
		d.Reset(in)
	}
}

// body decodes up to the end of a member or of the span.
func (w *spanWorker) body(s *span) error {
	d := w.m.dec
	var c *chunk
	for {
		if c == nil {
			if c = w.t.take(s); c == nil {
				return errAbandoned
			}
		}
		var err error
		if c.p, c.buf, err = d.NextIn(c.buf); err != nil {
			w.t.putBack(c)
			return err
		}
		c.sum = crc32.ChecksumIEEE(c.p)
		pos := max(s.point.Bits/8, d.Bits()/8)
		if len(c.p) <= flate.History {
			// A short member: it isn't to hold the memory of a long one.
			w.t.put(s, &chunk{p: bytes.Clone(c.p), sum: c.sum}, pos)
			continue
		}
		w.t.put(s, c, pos)
		c = nil
	}
}

// look finds out what s, which begins with a block, refers to.
func (w *spanWorker) look(s *span) {
	c := w.t.takeClaim()
	w.past = s.point.Window.Append(w.past[:0])
	gone := flate.History - len(w.past)
	clear(c.past[:gone])
	copy(c.past[gone:], w.past)
	at := s.point.Bits / 8
	cur := cursor{s: w.t.store, at: at}
	n, _ := io.ReadFull(&cur, w.buf)                                                     // an error of the source is found again
	known := w.probe.Refs(w.buf[:n], uint(s.point.Bits%8), max(0, s.stop-at*8), &c.refs) //nolint:gosec // G115: 0 to 7
	w.tell(s, c, !known)
}

// tell says what s refers to, and whether that is known.
func (w *spanWorker) tell(s *span, c *claim, unsure bool) {
	w.t.mu.Lock()
	s.claim, s.unsure, s.probed = c, unsure, true
	w.t.wake.Broadcast()
	w.t.mu.Unlock()
}
