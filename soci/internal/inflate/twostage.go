package inflate

import (
	"errors"
	"hash/crc32"
	"math"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
)

// hops are the sizes with which one member is decoded by several workers; tests
// make them small.
type segmentSizes struct {
	// enter is how much of a member is decoded serially before: small members are
	// not worth the goroutines.
	serialFirst int64 // compressed bytes
	// hop is how far from each other workers begin. Each begin costs the search for
	// a block and, until the history is known, symbols instead of bytes.
	spacing int64 // compressed bytes
	// ahead bounds what a segment may hold before it has to wait for the front, and
	// the output that is not read when another one begins.
	ahead int // bytes
	// queue bounds the output of the front that nobody has read.
	queue int // bytes
	// pieces bounds, for each worker, all output that is held and may be: no segment
	// begins beyond.
	pieces int // bytes
}

// The sizes were measured with two workers: from half of to four times these the
// rate is the same within 5 %, so that memory decides. A hop is 4 MB of tar or 5 ms of
// work, and a segment of symbols has room for it.
func defaultSegmentSizes() segmentSizes {
	return segmentSizes{serialFirst: 1 << 20, spacing: 1 << 20, ahead: 8 << 20, queue: 2 << 20, pieces: 11 << 20}
}

// twoStage decodes one member with several workers, in order.
//
// One of them is the front: it knows the history and decodes bytes, as a serial
// decoder does. Others begin some way ahead, where a block seems to begin, and
// decode symbols, until these depend on nothing before. When the front ends a
// block exactly where another began, that one's guess was right: it gets the
// history, goes on as the front from wherever it is, its symbols are resolved, and the
// worker that was the front begins anew, further ahead. So no worker waits for
// another, as little as possible is decoded as symbols, and nothing depends on how
// fast either way is. A guess that the front does not meet is thrown away.
//
// The goroutine that reads drives the source. All else is guarded by mu, which is
// not held while anything is decoded. No deadlock: the front waits for room in the
// queue, the reader then has something to read; a worker ahead waits for the source,
// which the reader reads while it has nothing else; what the reader needs resolved it
// resolves if nobody does.
type twoStage struct {
	src         *flate.Input
	workers     int
	maxSegments int // segments
	sizes       segmentSizes

	mu     sync.Mutex
	wake   *sync.Cond // something has changed
	wg     sync.WaitGroup
	active bool
	closed bool
	store  *store

	front        *flate.Decoder  // nil while a segment becomes it
	frontDecoder *segmentDecoder // what it is part of; nil for the first
	frontBusy    bool            // a worker has it
	frontCur     *cursor
	frontIn      *flate.Input
	frontPos     int64 // byte of the stream where it is
	end          error // why it ended

	segs    []*segment // ahead of the front, in order
	running int        // how many of them a worker has
	score   int        // how well guessing goes
	resume  int64      // no guesses before

	queue       []*piece // output
	queued      int      // bytes of output in it
	buffers     int      // bytes of their buffers
	frontQueued int      // those which the front has made
	reading     *piece   // was handed out

	freePieces []*piece // free
	decoders   []*segmentDecoder
	finders    []*blockFinder

	rec    *index.Recorder // nil: nothing is recorded
	marks  *marks          // of the first front
	base   int64           // bits of the source before the store
	broken error           // a panic of a decoder, which ends the stream

	stats twoStageStats
}

// twoStageStats count what was done, for tests and figures.
type twoStageStats struct {
	hits, misses   int
	symbols, bytes int64 // of output, by how they were decoded
}

// scout searches.
type blockFinder struct {
	find *flate.Finder
	buf  [searchStep + flate.Tail]byte
}

// The score decides whether guessing goes on: a stream of one block, or one of
// stored blocks, has none to find.
const (
	scoreBegin = 8
	scoreMost  = 16
	scoreHit   = 2
	// pauseHops is how far the front goes alone after too many misses.
	pauseSpacings = 16
)

// newTwoStage returns one that is not active.
func newTwoStage(src *flate.Input, workers int, sizes segmentSizes) *twoStage {
	t := &twoStage{src: src, workers: workers, maxSegments: workers + workers/2, sizes: sizes}
	t.wake = sync.NewCond(&t.mu)
	return t
}

// enter takes over from d, which decodes src, and starts the workers.
func (t *twoStage) enter(d *flate.Decoder) {
	t.store = &store{wake: t.wake}
	t.frontCur = &cursor{s: t.store}
	t.frontIn = flate.NewInput(t.frontCur)
	d.Switch(t.frontIn)
	t.base = t.src.Offset() * 8
	if t.rec != nil {
		t.marks = newMarks(t.rec.Span())
		t.marks.watchFront(d)
	}
	t.front, t.frontDecoder, t.frontBusy, t.frontPos, t.end = d, nil, false, 0, nil
	t.closed, t.score, t.resume = false, scoreBegin, 0
	t.active = true
	for range t.workers {
		t.wg.Go(t.work)
	}
}

// leave stops the workers, gives what was read and not decoded back to the source,
// and returns the decoder that goes on from there.
func (t *twoStage) leave() *flate.Decoder {
	t.close()
	t.front.StopAt(math.MaxInt64)
	t.front.Switch(t.src)
	t.src.Prepend(append([][]byte{t.frontIn.Rest()}, t.store.from(t.frontCur.at)...)...)
	return t.front
}

// close stops the workers.
func (t *twoStage) close() {
	t.mu.Lock()
	t.closed = true
	t.store.closed = true
	t.wake.Broadcast()
	t.mu.Unlock()
	t.wg.Wait()
	for len(t.segs) > 0 {
		t.dropLocked(t.segs[0])
	}
	for _, p := range t.queue {
		t.putPieceLocked(p)
	}
	t.queue, t.queued, t.frontQueued, t.buffers, t.active = nil, 0, 0, 0, false
}

// next returns more output and its CRC-32, valid until the next call; at the end of
// the member, or of what can be decoded of it, the error of the decoder.
func (t *twoStage) next() ([]byte, uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reading != nil {
		t.putPieceLocked(t.reading)
		t.reading = nil
	}
	if t.queued < t.sizes.queue/2 {
		t.readLocked()
	}
	for {
		if len(t.queue) > 0 {
			p := t.queue[0]
			if !p.ready() && !p.taken {
				t.resolveLocked(p)
				continue
			}
			if p.ready() {
				t.queue = t.queue[1:]
				t.queued -= len(p.p)
				t.buffers -= len(p.buf)
				if p.front {
					t.frontQueued -= len(p.p)
				}
				t.reading = p
				t.wake.Broadcast()
				return p.p, p.sum, nil
			}
		} else if t.end != nil {
			return nil, 0, t.end
		}
		if t.broken != nil {
			return nil, 0, t.broken
		}
		if !t.readLocked() {
			t.wake.Wait()
		}
	}
}

// read reads more of the source, if it has more and there is room.
func (t *twoStage) readLocked() bool {
	depth := t.sizes.spacing*int64(t.maxSegments+1) + searchStep
	// Its cursor, not fpos: within a piece of what cannot be compressed the front
	// may need more than there is room for.
	if t.store.err != nil || t.end != nil || t.store.end-t.frontCur.at >= depth {
		return false
	}
	t.mu.Unlock()
	err := panics.Guard(func() { t.store.readMore(t.src) })
	t.mu.Lock()
	t.failLocked(err)
	return err == nil
}

// work does what is most urgent, until close.
func (t *twoStage) work() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.closed {
		if p := t.unresolvedLocked(); p != nil {
			t.resolveLocked(p)
		} else if t.end == nil && !t.frontBusy && t.frontQueued < t.sizes.queue {
			t.frontBusy = true
			t.runFrontLocked()
		} else if t.end != nil {
			t.wake.Wait()
		} else if s := t.newSegmentLocked(); s != nil {
			t.speculateLocked(s)
		} else {
			t.wake.Wait()
		}
	}
}

// breaks ends the stream, with what was decoded before, by a panic that was contained.
func (t *twoStage) failLocked(err error) {
	if err != nil && t.broken == nil {
		t.broken = err
		t.wake.Broadcast()
	}
}

// unresolved returns the first piece of the queue that nobody resolves.
func (t *twoStage) unresolvedLocked() *piece {
	for _, p := range t.queue {
		if !p.ready() && !p.taken {
			return p
		}
	}
	return nil
}

// resolve makes bytes of a piece.
func (t *twoStage) resolveLocked(p *piece) {
	p.taken = true
	t.mu.Unlock()
	err := panics.Guard(p.finish)
	t.mu.Lock()
	if err != nil { // it never becomes ready
		t.failLocked(err)
		return
	}
	p.symbols = false
	t.wake.Broadcast()
}

// runFront decodes as the front, which the caller has, until the queue is full, the
// member ends, or another worker is the front.
func (t *twoStage) runFrontLocked() {
	for !t.closed && t.frontQueued < t.sizes.queue {
		next := t.nextStartLocked(nil)
		if next != nil && next.start < t.front.Bits() {
			t.dropLocked(next)
			continue
		}
		t.front.StopAt(startOf(next))
		o := t.takePieceLocked()
		t.mu.Unlock()
		var err error
		bad := panics.Guard(func() {
			o.p, o.buf, err = t.front.NextIn(o.buf)
			o.mark = t.frontMarksLocked().takeMark(len(o.p))
			o.sum = crc32.ChecksumIEEE(o.p)
		})
		t.mu.Lock()
		if bad != nil {
			t.failLocked(bad)
			t.end, t.frontBusy = bad, false
			return
		}
		t.frontPos = t.front.Bits() / 8
		t.store.trim(t.frontCur.at)
		if len(o.p) > 0 {
			o.front = true
			t.frontQueued += len(o.p)
			t.pushLocked(o)
		} else {
			t.putPieceLocked(o)
		}
		switch {
		case err == nil:
		case errors.Is(err, flate.ErrStopped):
			if t.handOverLocked() {
				return
			}
		case errors.Is(err, errAbandoned):
		default:
			t.end = err
			t.frontBusy = false
			t.wake.Broadcast()
			return
		}
	}
	t.frontBusy = false
}

// arrive is called when the front has stopped where a segment should begin. It
// reports whether another worker goes on as the front.
func (t *twoStage) handOverLocked() bool {
	s := t.nextStartLocked(nil)
	if s == nil || s.start > t.front.Bits() {
		return false // it has been given up meanwhile
	}
	past := t.front.History()
	if s.start != t.front.Bits() || len(past) < flate.History {
		t.dropLocked(s)
		return false
	}
	for t.segs[0] != s {
		t.dropLocked(t.segs[0]) // still searching for a begin, here or further on
	}
	t.segs = t.segs[1:]
	t.stats.hits++
	t.score = min(scoreMost, t.score+scoreHit)
	s.front = true
	s.table = new(flate.Table)
	s.table.Fill(past)
	t.putDecoderLocked(t.frontDecoder)
	t.front, t.frontDecoder, t.frontCur, t.frontPos = nil, nil, &s.dec.cur, s.pos
	if !s.parked {
		t.wake.Broadcast() // it may wait for data, or we for its pieces
		t.flushHeldLocked(s)
		return true
	}
	t.promoteLocked(s)
	return false
}

// flush makes the pieces of s output.
func (t *twoStage) flushHeldLocked(s *segment) {
	for _, p := range s.held {
		p.table = s.table
		t.pushLocked(p)
	}
	s.held = nil
}

// adopt makes the decoder of s the front.
func (t *twoStage) promoteLocked(s *segment) {
	t.flushHeldLocked(s)
	s.dec.symbols.Resolve(s.table)
	t.front, t.frontDecoder = s.dec.symbols.ByteDecoder(), s.dec
	t.frontCur, t.frontIn = &s.dec.cur, s.dec.in
	t.frontCur.abandoned = nil
	t.frontPos = t.front.Bits() / 8
}

// push makes a piece output.
func (t *twoStage) pushLocked(p *piece) {
	n := len(p.p)
	if p.symbols {
		n /= 2
		t.stats.symbols += int64(n)
	} else {
		t.stats.bytes += int64(n)
	}
	t.queue = append(t.queue, p)
	t.queued += n
	t.buffers += len(p.buf)
	t.wake.Broadcast()
}

// missed counts a guess that was wrong or none.
func (t *twoStage) missedLocked() {
	if t.closed || t.end != nil {
		return
	}
	t.stats.misses++
	if t.score--; t.score <= 0 {
		t.score = 1
		t.resume = t.frontPos + pauseSpacings*t.sizes.spacing
	}
}

func (t *twoStage) takePiece() *piece {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takePieceLocked()
}

func (t *twoStage) takePieceLocked() *piece {
	if n := len(t.freePieces); n > 0 {
		p := t.freePieces[n-1]
		t.freePieces = t.freePieces[:n-1]
		return p
	}
	return &piece{buf: new(flate.Window)}
}

func (t *twoStage) putPieceLocked(p *piece) {
	*p = piece{buf: p.buf}
	t.freePieces = append(t.freePieces, p)
}

func (t *twoStage) takeDecoderLocked() *segmentDecoder {
	if n := len(t.decoders); n > 0 {
		e := t.decoders[n-1]
		t.decoders = t.decoders[:n-1]
		return e
	}
	e := &segmentDecoder{in: flate.NewInput(nil), symbols: flate.NewSymbolDecoder()}
	if t.rec != nil {
		e.marks = newMarks(t.rec.Span())
	}
	return e
}

func (t *twoStage) putDecoderLocked(e *segmentDecoder) {
	if e != nil {
		t.decoders = append(t.decoders, e)
	}
}

func (t *twoStage) takeFinder() *blockFinder {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.finders); n > 0 {
		w := t.finders[n-1]
		t.finders = t.finders[:n-1]
		return w
	}
	return &blockFinder{find: flate.NewFinder()}
}

func (t *twoStage) putFinder(w *blockFinder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finders = append(t.finders, w)
}
