package inflate

import (
	"math"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
)

const (
	// spanAhead bounds the unread output of a span other than the first. It has
	// room for a span of the default size and the block that ends it, in
	// windows of which an eighth is history.
	spanAhead = 10 << 20 // bytes
	// spanQueue bounds the unread output of the span that is being read.
	spanQueue = 2 << 20 // bytes
	// spanPieces times the number of workers bounds all output that is held.
	spanPieces = 11 << 20 // bytes
	// spanDepth times the number of workers bounds how far the source is read
	// ahead. It is the compressed size of a span in a layer that is compressed
	// to half its size.
	spanDepth = 4 << 20 // bytes

	// windowBytes is the size of a window, and pieceOut the part of it that is
	// output.
	windowBytes = len(flate.Window{})
	pieceOut    = windowBytes - flate.History
)

// indexedDecoder decodes the spans of an index with several workers, in order.
//
// A worker does not know the history of its span. It uses the history that the
// index claims, and determines which bytes of it the span refers to. Once the
// reader has returned all output before the span, it compares these bytes with
// that output, and the end of the previous span with the start of this span. If
// both match, the output of the span is correct, and the reader returns it.
// Otherwise the index is wrong, so the reader drops it, and the serial decoder
// continues from the end of the last correct span.
//
// The goroutine that reads also reads the source. mu guards everything else,
// and is not held while a worker decodes. There is no deadlock, because the
// span that is being read has a worker. That worker waits for room in its queue
// only while the reader has output to read, or it waits for the source, which
// the reader reads when it has no output.
type indexedDecoder struct {
	src     *flate.Input
	points  []index.Point // starts of the spans that do not exist yet
	out     int64         // bytes of output according to the index, or 0 if unknown
	workers int

	mu     sync.Mutex
	wake   *sync.Cond // broadcast at every change
	wg     sync.WaitGroup
	closed bool
	store  *store
	rec    *index.Recorder // nil if nothing is recorded; used only by the reader
	sent   int64           // bytes of output returned
	spans  []*span         // in order; the first is the one that is read
	todo   []*span         // spans that no worker has started
	free   []*chunk
	claims []*claim // free

	tail  []*chunk // chunks of the member that hold the last 32 KiB returned
	pos   position // end of the output that was returned
	stats indexedStats

	broken error // a panic of the source, which ends the stream; used only by the reader
}

// indexedStats holds counts for tests.
type indexedStats struct{ spans, dropped int }

// position is a position of a decoder.
type position struct {
	bits   int64 // of the source
	member bool  // a member has ended there
}

// span is the part of a blob between two points. The lock of its indexedDecoder
// guards it.
type span struct {
	point       index.Point
	first       bool  // it starts at the position of the serial decoder
	started     bool  // a worker decodes it, or has decoded it
	stop        int64 // start of the next span, in bits
	chunks      []*chunk
	size        int    // bytes of the buffers in chunks
	maxHeld     int    // bound on size while it is not the first
	probed      bool   // claim and refsUnknown are set
	refsUnknown bool   // the references to the history could not be determined
	headerLen   int    // length of the header of a member
	claim       *claim // the history it refers to; nil for a member
	verified    bool   // it was compared with the output before it and matches
	pos         int64  // byte of the source that its worker has reached
	done        bool
	end         position
	err         error // the error that ended it, nil at a position where decoding can continue
}

// claim is the history that an index claims for a span, and the bytes of it
// that the span refers to.
type claim struct {
	history [flate.History]byte
	refs    flate.Refs
}

// claimBytes is the memory of a claim. The memory bound includes claims,
// because an index may have many short spans.
const claimBytes = 2 * flate.History

// chunk is a piece of output, or the end of a member.
type chunk struct {
	buf *flate.Window
	p   []byte // in buf, or a copy
	sum uint32 // CRC-32 of p
	end bool   // the end of a member, with its CRC-32 and length
	crc uint32
	len uint32
}

// chunkBytes is the memory of a chunk without its output.
const chunkBytes = 128

// held returns the memory of c in bytes.
func (c *chunk) held() int {
	if c.buf != nil {
		return len(c.buf)
	}
	return len(c.p) + chunkBytes
}

// history returns the last 32 KiB that were returned of the current member, or
// all if there are fewer.
func (t *indexedDecoder) history() []byte {
	var buf []byte
	for _, c := range t.tail {
		buf = append(buf, c.p[max(0, len(c.p)-flate.History):]...)
	}
	return buf[max(0, len(buf)-flate.History):]
}

// sameBytes reports whether the actual history have agrees with the claimed
// history past in all bytes that refs marks.
func sameBytes(have []byte, past *[flate.History]byte, refs *flate.Refs) bool {
	gone := flate.History - len(have)
	for i, used := range refs {
		if used != 0 && (i < gone || have[i-gone] != past[i]) {
			return false
		}
	}
	return true
}

// rememberLocked adds c, which is being returned, to tail and frees the chunks
// that are no longer needed for the history. mu must be held.
func (t *indexedDecoder) rememberLocked(c *chunk) {
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

// newIndexed returns a decoder that takes over at the position of src, which
// must be the first block of a member. It returns nil if the index has no later
// point, or if workers is less than 2.
func newIndexed(src *flate.Input, x *index.Index, workers int, rec *index.Recorder) *indexedDecoder {
	off := src.Offset()
	points := x.Points
	for len(points) > 0 && points[0].Bits <= off*8 {
		points = points[1:]
	}
	if len(points) == 0 || workers < 2 {
		return nil
	}
	t := &indexedDecoder{src: src, points: points, out: x.Out, workers: workers, rec: rec, pos: position{bits: off * 8}}
	t.wake = sync.NewCond(&t.mu)
	t.store = &store{wake: t.wake, base: off, end: off}
	first := &span{point: index.Point{Kind: index.Block, Bits: off * 8}, first: true, verified: true, probed: true, stop: points[0].Bits, pos: off}
	t.spans, t.todo = []*span{first}, []*span{first}
	return t
}

// start starts the workers.
func (t *indexedDecoder) start() {
	for range t.workers {
		t.wg.Go(t.work)
	}
}

// close stops the workers.
func (t *indexedDecoder) close() {
	t.mu.Lock()
	t.closed, t.store.closed = true, true
	t.wake.Broadcast()
	t.mu.Unlock()
	t.wg.Wait()
	t.spans, t.free = nil, nil
}

// leave stops the workers and gives the input that was not decoded back to the
// source. It returns the position where decoding must continue; the next byte
// of the source is the byte that contains this position.
func (t *indexedDecoder) leave() position {
	t.close()
	t.src.Prepend(t.store.rest(t.pos.bits / 8)...)
	return t.pos
}

// next returns the next output, valid until the next call. It returns a nil
// chunk and no error where the serial decoder must take over. Its errors are
// those that a serial decoder would return.
func (t *indexedDecoder) next() (*chunk, error) {
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

// finishLocked records the end of the span of w. mu must be held.
func (t *indexedDecoder) finishLocked(w *spanWorker) {
	s := w.span
	s.end, s.err, s.done = w.end, w.err, true
	w.span = nil
	t.wake.Broadcast()
}

// verifyLocked reports whether s continues the output that was returned. mu
// must be held.
func (t *indexedDecoder) verifyLocked(s *span) bool {
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
	// Its worker has copied the history to its window, so the claim can be
	// reused.
	t.claims, s.claim = append(t.claims, s.claim), nil
	return ok
}

// readLocked reads from the source if it has more data and the store has room.
// mu must be held; it is released while reading.
func (t *indexedDecoder) readLocked() bool {
	t.store.trimLocked(t.keepFromLocked())
	if t.store.err != nil || t.store.end-t.spans[0].pos >= int64(t.workers)*spanDepth {
		return false
	}
	t.mu.Unlock()
	t.broken = panics.Guard(func() { t.store.readMore(t.src) })
	t.mu.Lock()
	return t.broken == nil
}

// keepFromLocked returns the first byte of the source that may still be needed.
// mu must be held.
func (t *indexedDecoder) keepFromLocked() int64 {
	if s := t.spans[0]; s.verified {
		return s.pos // a verified span is never decoded again
	}
	return t.pos.bits / 8
}

// addSpanLocked appends the span of the next point, if there is one. mu must be
// held.
func (t *indexedDecoder) addSpanLocked() bool {
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

// maxHeldLocked returns the memory that the span of the next point needs
// according to the index, at most spanAhead. The worker of a span that turns
// out to be longer waits until that span is the first. mu must be held.
func (t *indexedDecoder) maxHeldLocked() int {
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

// hasRoomLocked reports whether memory is left for the output of next. mu must
// be held.
func (t *indexedDecoder) hasRoomLocked(next *span) bool {
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
func (t *indexedDecoder) work() {
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

// pickLocked returns the next span to decode, or nil if no span is left or the
// memory bound does not allow its output. mu must be held.
func (t *indexedDecoder) pickLocked() *span {
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

// takeChunk waits until s may hold another chunk, and returns one. It returns
// nil after close.
func (t *indexedDecoder) takeChunk(s *span) *chunk {
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

// newChunkLocked returns a free chunk or a new one. mu must be held.
func (t *indexedDecoder) newChunkLocked() *chunk {
	if n := len(t.free); n > 0 {
		c := t.free[n-1]
		t.free = t.free[:n-1]
		return c
	}
	return &chunk{buf: new(flate.Window)}
}

// takeClaim returns a free claim or a new one.
func (t *indexedDecoder) takeClaim() *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.claims); n > 0 {
		c := t.claims[n-1]
		t.claims = t.claims[:n-1]
		return c
	}
	return new(claim)
}

// addChunk appends c to the output of s, whose worker has reached byte pos of
// the source.
func (t *indexedDecoder) addChunk(s *span, c *chunk, pos int64) {
	t.mu.Lock()
	s.chunks = append(s.chunks, c)
	s.size += c.held()
	s.pos = pos
	t.wake.Broadcast()
	t.mu.Unlock()
}

// putChunk frees a chunk that the worker did not need.
func (t *indexedDecoder) putChunk(c *chunk) {
	t.mu.Lock()
	t.putChunkLocked(c)
	t.mu.Unlock()
}

// putChunkLocked frees a chunk. mu must be held.
func (t *indexedDecoder) putChunkLocked(c *chunk) {
	if c.buf != nil { // copies of short output and ends of members have no buffer
		*c = chunk{buf: c.buf}
		t.free = append(t.free, c)
	}
}
