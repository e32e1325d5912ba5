package inflate

import (
	"errors"
	"hash/crc32"
	"io"
	"math"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/panics"
)

const (
	// pieceBytes is the number of bytes that a decoder outputs before it moves
	// its window. A SymbolDecoder outputs up to twice as much.
	pieceBytes = 256 << 10

	// searchStep is the number of bytes searched for a block at a time, and
	// searchMost the bound on the whole search. Encoders start a block every 10
	// to 60 KiB, except in stored data and in streams of one block, where
	// guessing is not worthwhile.
	searchStep = 64 << 10
	searchMost = 512 << 10
)

// piece is a part of the output.
type piece struct {
	buf     *flate.Window
	p       []byte       // in buf
	sum     uint32       // CRC-32 of p, once p holds bytes
	symbols bool         // p holds symbols
	table   *flate.Table // resolves the symbols
	taken   bool         // a goroutine is resolving it
	front   bool         // the front decoded it
	mark    *mark        // or nil
}

// ready reports whether p holds bytes.
func (p *piece) ready() bool { return !p.symbols }

// finish resolves the symbols of p.
func (p *piece) finish() {
	p.p = p.table.Resolve(p.p)
	p.sum = crc32.ChecksumIEEE(p.p)
}

// segmentDecoder decodes from any bit offset of the store.
type segmentDecoder struct {
	in      *flate.Input
	cur     cursor
	symbols *flate.SymbolDecoder
	marks   *marks // nil if nothing is recorded
}

// open makes sd decode from a bit offset of the store.
func (sd *segmentDecoder) open(s *store, bits int64, dead func() bool) {
	sd.cur = cursor{s: s, at: bits / 8, abandoned: dead}
	sd.in.ResetAt(&sd.cur, bits/8)
	sd.symbols.Reset(sd.in, uint(bits%8)) //nolint:gosec // G115: 0 to 7
	if sd.marks != nil {
		sd.marks.watch(sd.symbols)
	}
}

// segment is a part of the stream that is decoded before the data in front of
// it. The lock of its twoStage guards it, except for dec, which belongs to the
// worker until the segment is parked.
type segment struct {
	searchFrom int64 // byte of the stream at which the search for a block starts
	start      int64 // bit where a block seems to start, or 0 before one is found
	pos        int64 // byte that the decoder has reached
	held       []*piece
	size       int  // bytes of the buffers in held
	parked     bool // no worker decodes it
	abandoned  bool // its output is not needed
	dec        *segmentDecoder

	front bool         // the front has reached start, so the guess was right
	table *flate.Table // resolves the symbols, once front is set
}

// newSegmentLocked returns a new segment, or nil if none is needed, the memory
// is full, or its data has not arrived. mu must be held.
func (t *twoStage) newSegmentLocked() *segment {
	if t.running >= t.workers-1 || len(t.segs) >= t.maxSegments || t.queued >= t.sizes.ahead || t.frontPos < t.resume ||
		(len(t.segs)+1)*t.sizes.ahead+t.buffers > t.workers*t.sizes.pieces {
		return nil
	}
	from := t.frontPos + t.sizes.spacing
	if n := len(t.segs); n > 0 {
		last := t.segs[n-1]
		from = max(from, last.searchFrom+t.sizes.spacing, last.pos)
	}
	if t.store.end < from+searchStep && (t.store.err == nil || t.store.end < from+flate.Tail) {
		return nil
	}
	s := &segment{searchFrom: from, pos: from}
	t.segs = append(t.segs, s)
	t.running++
	return s
}

// nextStartLocked returns the first segment after s whose start is known, or
// nil if there is none. If s is nil, it searches all segments. mu must be held.
func (t *twoStage) nextStartLocked(s *segment) *segment {
	found := s == nil
	for _, o := range t.segs {
		if found && o.start > 0 {
			return o
		}
		found = found || o == s
	}
	return nil
}

// startOf returns the start of s in bits, or the largest number if s is nil.
func startOf(s *segment) int64 {
	if s == nil {
		return math.MaxInt64
	}
	return s.start
}

// speculateLocked finds the start of s and decodes from there, until s becomes
// the front or has to be parked. mu must be held; it is released while
// decoding.
func (t *twoStage) speculateLocked(s *segment) {
	sd := t.takeDecoderLocked()
	t.mu.Unlock()
	var start int64
	bad := panics.Guard(func() {
		if start = t.search(s, sd); start > 0 {
			// open must run before start is published. Once it is, the front
			// may reach start at any moment, and then the cursor of sd belongs
			// to the front.
			sd.open(t.store, start, func() bool { return s.abandoned })
		}
	})
	t.mu.Lock()
	if bad != nil {
		start = 0
	}
	if start <= 0 || s.abandoned {
		t.giveUpLocked(s, sd)
		return
	}
	s.start, s.dec = start, sd
	if t.sizes.opened != nil {
		t.sizes.opened(t, s)
	}
	for !s.front {
		next := t.nextStartLocked(s)
		switch {
		case s.abandoned || t.closed:
			t.giveUpLocked(s, sd)
			return
		case s.size >= t.sizes.ahead:
			t.parkLocked(s)
			return
		}
		sd.symbols.StopAt(startOf(next))
		t.mu.Unlock()
		var pieces []*piece
		var err error
		if bad := panics.Guard(func() { pieces, err = t.decode(sd) }); bad != nil {
			err = bad
		}
		t.mu.Lock()
		if _, bad := errors.AsType[*panics.Error](err); bad && s.front {
			t.failLocked(err) // s is the front, so no other goroutine can decode this part
		}
		s.pos = sd.symbols.Bits() / 8
		for _, p := range pieces {
			s.held = append(s.held, p)
			s.size += len(p.buf)
		}
		switch {
		case err == nil, s.front, errors.Is(err, flate.ErrStopped) && startOf(t.nextStartLocked(s)) > sd.symbols.Bits():
		case errors.Is(err, flate.ErrStopped), err == io.EOF:
			// Either the next segment starts here, or its guess was wrong. Only
			// the front can tell.
			t.parkLocked(s)
			return
		default:
			t.giveUpLocked(s, sd)
			return
		}
	}
	t.running--
	t.promoteLocked(s)
	t.runFrontLocked()
}

// search returns the bit where a block seems to start in s, or 0.
func (t *twoStage) search(s *segment, sd *segmentDecoder) int64 {
	w := t.takeFinder()
	defer t.putFinder(w)
	for at := s.searchFrom; at < s.searchFrom+min(searchMost, t.sizes.spacing); at += searchStep {
		t.mu.Lock()
		n := t.store.copyLocked(w.buf[:], at)
		over := s.abandoned || t.closed || t.frontPos >= at
		t.mu.Unlock()
		if over {
			return 0
		}
		if bit := w.find.Find(w.buf[:n], 0); bit >= 0 {
			return at*8 + int64(bit)
		}
		if n < len(w.buf) {
			return 0
		}
	}
	return 0
}

// decode returns the next output of sd and the error that ended it.
func (t *twoStage) decode(sd *segmentDecoder) (out []*piece, err error) {
	if d := sd.symbols.ByteDecoder(); d != nil {
		o := t.takePiece()
		if o.p, o.buf, err = d.NextIn(o.buf); len(o.p) == 0 {
			t.mu.Lock()
			t.putPieceLocked(o)
			t.mu.Unlock()
			return nil, err
		}
		o.mark = sd.marks.takeMark(len(o.p))
		o.sum = crc32.ChecksumIEEE(o.p)
		return []*piece{o}, err
	}
	p, err := sd.symbols.Next()
	for len(p) > 0 {
		o := t.takePiece()
		n := copy(o.buf[:], p)
		o.p, p = o.buf[:n], p[n:]
		o.symbols = true
		o.mark = sd.marks.takeMark(n / 2)
		out = append(out, o)
	}
	return out, err
}

// parkLocked stops decoding s until the front reaches it. mu must be held.
func (t *twoStage) parkLocked(s *segment) {
	s.parked = true
	t.running--
	t.wake.Broadcast()
}

// giveUpLocked drops s, because no block was found in it, its guess was wrong,
// or its output is no longer needed. mu must be held.
func (t *twoStage) giveUpLocked(s *segment, sd *segmentDecoder) {
	t.running--
	s.parked, s.dec = true, sd
	t.dropLocked(s)
	t.wake.Broadcast()
}

// dropLocked removes s. If a worker decodes s, it stops at its next check of
// abandoned. mu must be held.
func (t *twoStage) dropLocked(s *segment) {
	if !s.abandoned {
		t.missedLocked()
	}
	s.abandoned = true
	for i, o := range t.segs {
		if o == s {
			t.segs = append(t.segs[:i], t.segs[i+1:]...)
			break
		}
	}
	if s.parked {
		for _, p := range s.held {
			t.putPieceLocked(p)
		}
		t.putDecoderLocked(s.dec)
		s.held, s.dec = nil, nil
	}
}
