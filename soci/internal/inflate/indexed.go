package inflate

import (
	"math"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
)

const (
	// spanAhead bounds what a span that is not read yet may hold: one of the default
	// size and the block that ends it, in pieces that are a seventh history.
	spanAhead = 10 << 20 // bytes
	// spanQueue bounds what the span that is read may hold beyond.
	spanQueue = 2 << 20 // bytes
	// spanPieces bounds, for each worker, all output that is held.
	spanPieces = 11 << 20 // bytes
	// spanDepth is how far, for each worker, the source is read ahead: a span of a
	// layer that is compressed to half its size.
	spanDepth = 4 << 20 // bytes

	// windowBytes is what a piece of output holds, and pieceOut how much of that is output.
	windowBytes = len(flate.Window{})
	pieceOut    = windowBytes - flate.History
)

// indexed decodes the spans of an index with several workers, in order.
//
// A worker does not know the history of its span: it takes the index's word for it,
// and finds out which bytes of it the span really refers to. When everything before
// has been decoded, and handed out, the reader compares these bytes with what it
// has handed out itself, and the place where the span before ended with the one where
// this one began. Only then what the worker has made is as right as if it had been
// decoded serially, and is handed out. If not, the index is wrong: it is dropped, and the
// decoder goes on from where the last span ended.
//
// The goroutine that reads drives the source. All else is guarded by mu, which is not held
// while anything is decoded. No deadlock: the span that is to be read has a worker, which waits
// for room in its queue, so that the reader has something to read, or for the source, which the
// reader reads while it has nothing.
type indexed struct {
	src     *flate.Input
	points  []index.Point // not begun yet
	out     int64         // bytes of all output, as the index says; 0: not known
	workers int

	mu     sync.Mutex
	wake   *sync.Cond // something has changed
	wg     sync.WaitGroup
	closed bool
	store  *store
	rec    *index.Recorder // nil: nothing is recorded; used by the reader
	sent   int64           // bytes of output
	spans  []*span         // begun, in order; the first is the one that is read
	todo   []*span         // of them, those that nobody has begun to decode
	free   []*chunk
	claims []*claim // free

	tail  []*chunk // was handed out of the member: the last 32 KiB are in these
	pos   position // where all that was handed out ends
	stats indexedStats

	broken error // a panic of the source, which ends the stream; the reader's
}

// indexedStats are for tests.
type indexedStats struct{ spans, dropped int }

// place is where a decoder is.
type position struct {
	bits   int64 // of the source
	member bool  // a member has ended there
}

// span is what lies between two points. Apart from what only its worker uses, it is
// guarded by the lock of its indexed.
type span struct {
	point       index.Point
	first       bool  // it begins where the serial decoder was
	started     bool  // somebody decodes it, or has
	stop        int64 // bits; where the next one begins
	chunks      []*chunk
	size        int    // bytes held: of buffers
	maxHeld     int    // what it may hold while it is not the first
	probed      bool   // refs is there
	refsUnknown bool   // it could not be found out
	headerLen   int    // of a member: the length of its header
	claim       *claim // what it refers to; nil for a member
	verified    bool   // checked: it may be handed out
	pos         int64  // byte of the source that its worker has reached
	done        bool
	end         position
	err         error // why it ended there; nil if it is a place to go on from
}

// claim is the history that an index claims for a span, and what of it that refers to.
type claim struct {
	history [flate.History]byte
	refs    flate.Refs
}

// claimBytes is what a claim takes: an index may have many short spans.
const claimBytes = 2 * flate.History

// chunk is a piece of output, or the end of a member.
type chunk struct {
	buf *flate.Window
	p   []byte // in buf
	sum uint32
	end bool // of a member, with
	crc uint32
	len uint32
}

// chunkBytes is what a chunk takes beside its output.
const chunkBytes = 128

// held is the memory of c.
func (c *chunk) held() int {
	if c.buf != nil {
		return len(c.buf)
	}
	return len(c.p) + chunkBytes
}

// history returns the last 32 KiB, or all, of what was handed out of the member.
func (t *indexed) history() []byte {
	var buf []byte
	for _, c := range t.tail {
		buf = append(buf, c.p[max(0, len(c.p)-flate.History):]...)
	}
	return buf[max(0, len(buf)-flate.History):]
}

// same reports whether, of two histories, the bytes that are referred to are the same.
func sameBytes(have []byte, past *[flate.History]byte, refs *flate.Refs) bool {
	gone := flate.History - len(have)
	for i, used := range refs {
		if used != 0 && (i < gone || have[i-gone] != past[i]) {
			return false
		}
	}
	return true
}

// remember notes that c is handed out, and frees what was before and is not needed.
func (t *indexed) rememberLocked(c *chunk) {
	if c.end {
		for _, o := range t.tail {
			t.putChunkLocked(o)
		}
		t.tail = t.tail[:0]
		return
	}
	t.tail = append(t.tail, c)
	behind := 0
	for i := len(t.tail) - 1; i > 0; i-- {
		if behind += len(t.tail[i].p); behind >= flate.History {
			for _, o := range t.tail[:i] {
				t.putChunkLocked(o)
			}
			t.tail = append(t.tail[:0], t.tail[i:]...)
			return
		}
	}
}

// newIndexed takes over where the first block of a member begins; nil if the index
// has no point ahead.
func newIndexed(src *flate.Input, x *index.Index, workers int, rec *index.Recorder) *indexed {
	off := src.Offset()
	points := x.Points
	for len(points) > 0 && points[0].Bits <= off*8 {
		points = points[1:]
	}
	if len(points) == 0 || workers < 2 {
		return nil
	}
	t := &indexed{src: src, points: points, out: x.Out, workers: workers, rec: rec, pos: position{bits: off * 8}}
	t.wake = sync.NewCond(&t.mu)
	t.store = &store{wake: t.wake, base: off, end: off}
	first := &span{point: index.Point{Kind: index.Block, Bits: off * 8}, first: true, verified: true, probed: true, stop: points[0].Bits, pos: off}
	t.spans, t.todo = []*span{first}, []*span{first}
	return t
}

// start starts the workers.
func (t *indexed) start() {
	for range t.workers {
		t.wg.Go(t.work)
	}
}

// close stops the workers.
func (t *indexed) close() {
	t.mu.Lock()
	t.closed, t.store.closed = true, true
	t.wake.Broadcast()
	t.mu.Unlock()
	t.wg.Wait()
	t.spans, t.free = nil, nil
}

// leave stops the workers and gives what was read and not decoded back to the source,
// which is then at the byte of the place where the decoding is.
func (t *indexed) leave() position {
	t.close()
	t.src.Prepend(t.store.from(t.pos.bits / 8)...)
	return t.pos
}

// next returns more output, valid until the next call; nil where the serial decoder
// has to go on, and an error where it would have one.
func (t *indexed) next() (*chunk, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		s := t.spans[0]
		switch {
		case !s.verified && s.probed:
			if !t.verifyLocked(s) {
				t.stats.dropped++
				return nil, nil
			}
			s.verified = true
			t.wake.Broadcast()
			continue
		case s.verified && len(s.chunks) > 0:
			c := s.chunks[0]
			s.chunks = s.chunks[1:]
			s.size -= c.held()
			t.sent += int64(len(c.p))
			t.rememberLocked(c)
			t.wake.Broadcast()
			return c, nil
		case s.verified && s.done:
			t.stats.spans++
			if t.pos = s.end; s.err != nil {
				return nil, s.err
			}
			if t.spans = t.spans[1:]; len(t.spans) == 0 && !t.addSpanLocked() {
				return nil, nil
			}
			t.wake.Broadcast()
			continue
		}
		if !t.readLocked() {
			if t.broken != nil {
				return nil, t.broken
			}
			t.wake.Wait()
		}
	}
}

// finish notes that the span of w is over.
func (t *indexed) finishLocked(w *spanWorker) {
	s := w.span
	s.end, s.err, s.done = w.end, w.err, true
	w.span = nil
	t.wake.Broadcast()
}

// check reports whether s is the continuation of what was handed out.
func (t *indexed) verifyLocked(s *span) bool {
	if s.refsUnknown || s.point.Bits != t.pos.bits || (s.point.Kind == index.Member) != t.pos.member {
		return false
	}
	if s.claim == nil {
		if t.rec != nil && s.headerLen > 0 {
			t.rec.Add(index.Point{Kind: index.Member, Bits: s.point.Bits, Out: t.sent, Header: s.headerLen})
		}
		return true
	}
	past := t.history()
	ok := sameBytes(past, &s.claim.history, &s.claim.refs)
	if ok && t.rec != nil {
		t.rec.Add(index.Point{Kind: index.Block, Bits: s.point.Bits, Out: t.sent, Window: index.NewWindow(past, &s.claim.refs)})
	}
	// Its worker is past the look, and has copied the history to its window.
	t.claims, s.claim = append(t.claims, s.claim), nil
	return ok
}

// read reads more of the source, if it has more and there is room.
func (t *indexed) readLocked() bool {
	t.store.trim(t.keepFromLocked())
	if t.store.err != nil || t.store.end-t.spans[0].pos >= int64(t.workers)*spanDepth {
		return false
	}
	t.mu.Unlock()
	t.broken = panics.Guard(func() { t.store.readMore(t.src) })
	t.mu.Lock()
	return t.broken == nil
}

// keep is the first byte of the source that may be needed.
func (t *indexed) keepFromLocked() int64 {
	if s := t.spans[0]; s.verified {
		return s.pos // errors from here on are the stream's
	}
	return t.pos.bits / 8
}

// begin makes a span of the next point.
func (t *indexed) addSpanLocked() bool {
	if len(t.points) == 0 {
		return false
	}
	s := &span{point: t.points[0], stop: math.MaxInt64, pos: t.points[0].Bits / 8, maxHeld: t.maxHeldLocked()}
	if t.points = t.points[1:]; len(t.points) > 0 {
		s.stop = t.points[0].Bits
	}
	t.spans, t.todo = append(t.spans, s), append(t.todo, s)
	return true
}

// most is what the span of the next point will hold, as far as the index knows, and
// at most spanAhead. One that turns out to be longer waits until it is the first.
func (t *indexed) maxHeldLocked() int {
	end := t.out
	if len(t.points) > 1 {
		end = t.points[1].Out
	}
	n := end - t.points[0].Out
	if n <= 0 || n >= spanAhead {
		return spanAhead
	}
	return min(spanAhead, (int(n)/pieceOut+2)*windowBytes)
}

// room reports whether next may be decoded, and held.
func (t *indexed) hasRoomLocked(next *span) bool {
	held := next.maxHeld + claimBytes
	for i, s := range t.spans {
		switch {
		case !s.started:
			continue
		case i == 0:
			held += max(spanQueue, s.size)
		case s.done:
			held += s.size
		default:
			held += s.maxHeld
		}
		held += claimBytes
	}
	return held <= t.workers*spanPieces
}

// work decodes spans until close.
func (t *indexed) work() {
	w := newSpanWorker(t)
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.closed {
		s := t.pickLocked()
		if s == nil {
			t.wake.Wait()
			continue
		}
		t.mu.Unlock()
		w.guard(s, func() { w.decode(s) })
		t.mu.Lock()
		t.finishLocked(w)
	}
}

// pick takes the next span for a worker; nil if there is none, or no room for its output.
func (t *indexed) pickLocked() *span {
	if len(t.todo) == 0 && !t.addSpanLocked() {
		return nil
	}
	s := t.todo[0]
	if !t.hasRoomLocked(s) {
		return nil
	}
	t.todo = t.todo[1:]
	s.started = true
	return s
}

// take returns a chunk for s when it may hold one more; nil when closed.
func (t *indexed) takeChunk(s *span) *chunk {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.closed {
		most := s.maxHeld
		if t.spans[0] == s {
			most = spanQueue
		}
		if s.size < most {
			return t.newChunkLocked()
		}
		t.wake.Wait()
	}
	return nil
}

// chunk returns an empty one.
func (t *indexed) newChunkLocked() *chunk {
	if n := len(t.free); n > 0 {
		c := t.free[n-1]
		t.free = t.free[:n-1]
		return c
	}
	return &chunk{buf: new(flate.Window)}
}

// takeClaim returns one for a span; there are no more than spans.
func (t *indexed) takeClaim() *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.claims); n > 0 {
		c := t.claims[n-1]
		t.claims = t.claims[:n-1]
		return c
	}
	return new(claim)
}

// put makes c output of s, whose worker has reached a byte of the source.
func (t *indexed) addChunk(s *span, c *chunk, pos int64) {
	t.mu.Lock()
	s.chunks = append(s.chunks, c)
	s.size += c.held()
	s.pos = pos
	t.wake.Broadcast()
	t.mu.Unlock()
}

// putBack gives back a chunk that was taken and is not needed.
func (t *indexed) putChunk(c *chunk) {
	t.mu.Lock()
	t.putChunkLocked(c)
	t.mu.Unlock()
}

func (t *indexed) putChunkLocked(c *chunk) {
	if c.buf != nil { // what is short, and the end of a member, have none
		*c = chunk{buf: c.buf}
		t.free = append(t.free, c)
	}
}
