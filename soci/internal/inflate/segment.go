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
	// pieceBytes is how much output is handed on at a time: what a decoder makes
	// before it moves its window. A Blind makes up to twice that.
	pieceBytes = 256 << 10

	// searchStep is how much is searched for a block at a time, and searchMost at
	// all: encoders begin one every 10 to 60 KiB, except in what they store or in
	// streams of one block, which are not worth guessing in.
	searchStep = 64 << 10  // bytes
	searchMost = 512 << 10 // bytes
)

// A piece of output, in order behind others.
type piece struct {
	buf     *flate.Window
	p       []byte       // in buf
	sum     uint32       // CRC-32 of p, when it is ready
	symbols bool         // p is symbols
	table   *flate.Table // what resolves them
	taken   bool         // somebody resolves it
	front   bool         // the front made it
	mark    *mark        // nil: none
}

// ready reports whether p is output.
func (p *piece) ready() bool { return !p.symbols }

// finish resolves a piece that was taken.
func (p *piece) finish() {
	p.p = p.table.Resolve(p.p)
	p.sum = crc32.ChecksumIEEE(p.p)
}

// An eye is what decodes: it can begin anywhere in the store.
type segmentDecoder struct {
	in      *flate.Input
	cur     cursor
	symbols *flate.SymbolDecoder
	marks   *marks // nil: nothing is recorded
}

// open makes e decode from a bit of the store.
func (e *segmentDecoder) open(s *store, bits int64, dead func() bool) {
	e.cur = cursor{s: s, at: bits / 8, abandoned: dead}
	e.in.ResetAt(&e.cur, bits/8)
	e.symbols.Reset(e.in, uint(bits%8)) //nolint:gosec // G115: 0 to 7
	if e.marks != nil {
		e.marks.watch(e.symbols)
	}
}

// A segment is a part of the stream that is decoded before what is in front of it.
// It is guarded by the lock of its twoStage, apart from e, which belongs to the
// worker until it is parked.
type segment struct {
	searchFrom int64 // byte of the stream from which on a block is searched
	start      int64 // bit at which one seems to begin; 0: not found yet
	pos        int64 // byte that has been reached
	held       []*piece
	size       int // bytes of their buffers
	parked     bool
	abandoned  bool // nobody needs it
	dec        *segmentDecoder

	front bool         // what is before has been decoded up to start: it is right
	table *flate.Table // then resolves its symbols
}

// newSegment makes the next segment, if one is wanted and can be begun.
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

// after returns the first segment behind s, or of all, of which the begin is known.
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

// stopAt returns where a decoder should stop before s: an end of all places for nil.
func startOf(s *segment) int64 {
	if s == nil {
		return math.MaxInt64
	}
	return s.start
}

// speculate finds the begin of s and decodes from there, until the front comes by
// or there is a reason to park.
func (t *twoStage) speculateLocked(s *segment) {
	e := t.takeDecoderLocked()
	t.mu.Unlock()
	var start int64
	bad := panics.Guard(func() {
		if start = t.search(s, e); start > 0 {
			// Before the begin is known to others: the front may be there at once, and
			// then e's cursor is the front's.
			e.open(t.store, start, func() bool { return s.abandoned })
		}
	})
	t.mu.Lock()
	if bad != nil {
		start = 0
	}
	if start <= 0 || s.abandoned {
		t.giveUpLocked(s, e)
		return
	}
	s.start, s.dec = start, e
	for !s.front {
		next := t.nextStartLocked(s)
		switch {
		case s.abandoned || t.closed:
			t.giveUpLocked(s, e)
			return
		case s.size >= t.sizes.ahead:
			t.parkLocked(s)
			return
		}
		e.symbols.StopAt(startOf(next))
		t.mu.Unlock()
		var pieces []*piece
		var err error
		if bad := panics.Guard(func() { pieces, err = t.decode(e) }); bad != nil {
			err = bad
		}
		t.mu.Lock()
		if _, bad := errors.AsType[*panics.Error](err); bad && s.front {
			t.failLocked(err) // it was already the only one to decode here
		}
		s.pos = e.symbols.Bits() / 8
		for _, p := range pieces {
			s.held = append(s.held, p)
			s.size += len(p.buf)
		}
		switch {
		case err == nil, s.front, errors.Is(err, flate.ErrStopped) && startOf(t.nextStartLocked(s)) > e.symbols.Bits():
		case errors.Is(err, flate.ErrStopped), err == io.EOF:
			// The next segment begins here or is wrong; the front will tell.
			t.parkLocked(s)
			return
		default:
			t.giveUpLocked(s, e)
			return
		}
	}
	t.running--
	t.promoteLocked(s)
	t.runFrontLocked()
}

// search returns the bit at which a block seems to begin in s, or 0.
func (t *twoStage) search(s *segment, e *segmentDecoder) int64 {
	w := t.takeFinder()
	defer t.putFinder(w)
	for at := s.searchFrom; at < s.searchFrom+min(searchMost, t.sizes.spacing); at += searchStep {
		t.mu.Lock()
		n := t.store.copyAt(w.buf[:], at)
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

// decode returns what e makes next, and what was in its way then.
func (t *twoStage) decode(e *segmentDecoder) (out []*piece, err error) {
	if d := e.symbols.ByteDecoder(); d != nil {
		o := t.takePiece()
		if o.p, o.buf, err = d.NextIn(o.buf); len(o.p) == 0 {
			t.mu.Lock()
			t.putPieceLocked(o)
			t.mu.Unlock()
			return nil, err
		}
		o.mark = e.marks.takeMark(len(o.p))
		o.sum = crc32.ChecksumIEEE(o.p)
		return []*piece{o}, err
	}
	p, err := e.symbols.Next()
	for len(p) > 0 {
		o := t.takePiece()
		n := copy(o.buf[:], p)
		o.p, p = o.buf[:n], p[n:]
		o.symbols = true
		o.mark = e.marks.takeMark(n / 2)
		out = append(out, o)
	}
	return out, err
}

// park leaves s until the front comes by.
func (t *twoStage) parkLocked(s *segment) {
	s.parked = true
	t.running--
	t.wake.Broadcast()
}

// fail gives s up: there is no block, or it was none, or the front is past it.
func (t *twoStage) giveUpLocked(s *segment, e *segmentDecoder) {
	t.running--
	s.parked, s.dec = true, e
	t.dropLocked(s)
	t.wake.Broadcast()
}

// drop removes s, of which the worker learns by itself.
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
