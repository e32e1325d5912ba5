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

// segmentSizes are the sizes for decoding one member with several workers.
// Tests make them small.
type segmentSizes struct {
	// serialFirst is the size of the part of a member that is decoded serially
	// first, because starting goroutines does not pay for small members.
	serialFirst int64 // compressed bytes
	// spacing is the distance between the starts of segments. Each start costs
	// a search for a block and, until the history is known, symbols instead of
	// bytes.
	spacing int64 // compressed bytes
	// ahead bounds the memory of a segment, which is parked once it holds that
	// much. No segment starts while there is as much unread output.
	ahead int // bytes
	// queue bounds the unread output of the front.
	queue int // bytes
	// pieces times the number of workers bounds the output of all segments and
	// the queue. No segment starts if it could exceed the bound.
	pieces int // bytes
	// opened, unless nil, is called when the decoder of a segment has been opened
	// and has not read yet. mu is held. It is for tests.
	opened func(*twoStage, *segment)
}

// defaultSegmentSizes returns sizes that were measured with two workers. From
// half to four times these sizes the rate is the same within 5 %, so they were
// chosen for their low memory use. The spacing corresponds to 4 MB of tar or 5
// ms of work, and a segment has room for the symbols of that much tar.
func defaultSegmentSizes() segmentSizes {
	return segmentSizes{serialFirst: 1 << 20, spacing: 1 << 20, ahead: 8 << 20, queue: 2 << 20, pieces: 11 << 20}
}

// twoStage decodes one member with several workers, in order.
//
// One worker is the front. It knows the history and decodes bytes, as a serial
// decoder does. The others start further ahead, where a block seems to start,
// and decode symbols until these no longer depend on the unknown history. When
// the front ends a block exactly where a segment started, the guess of that
// segment was right: it gets the history, its symbols are resolved, its worker
// becomes the front from the position it has reached, and the former front
// starts another segment further ahead. So no worker waits for another, as
// little as possible is decoded as symbols, and the design works whatever the
// rates of the two ways of decoding are. A segment is dropped if the front
// passes its start without ending a block there.
//
// The goroutine that reads also reads the source. mu guards everything else,
// and is not held while a worker decodes. There is no deadlock: the front waits
// for room in the queue only while the reader has output to read; the workers
// ahead wait for the source, which the reader reads when it has no output; and
// the reader resolves the pieces that it needs if no worker does.
type twoStage struct {
	src         *flate.Input
	workers     int
	maxSegments int
	sizes       segmentSizes

	mu     sync.Mutex
	wake   *sync.Cond // broadcast at every change
	wg     sync.WaitGroup
	active bool
	closed bool
	store  *store

	front        *flate.Decoder  // nil while a segment becomes the front
	frontDecoder *segmentDecoder // holds front; nil for the first front
	frontBusy    bool            // a worker decodes with front
	frontCur     *cursor
	frontIn      *flate.Input
	frontPos     int64 // byte of the stream that the front has reached
	end          error // the error that ended the front

	segs    []*segment // ahead of the front, in order
	running int        // number of segments that a worker decodes
	score   int        // rises with right guesses, falls with wrong ones
	resume  int64      // no segment starts until the front has reached this byte of the stream

	queue       []*piece // output in order
	queued      int      // bytes of output in queue
	buffers     int      // bytes of the buffers in queue
	frontQueued int      // bytes of output in queue that the front decoded
	reading     *piece   // the piece that next returned last

	freePieces []*piece
	decoders   []*segmentDecoder // free
	finders    []*blockFinder    // free

	rec    *index.Recorder // nil if nothing is recorded
	marks  *marks          // marks of the first front
	base   int64           // number of bits of the source before the store
	broken error           // a panic of a decoder, which ends the stream

	stats twoStageStats
}

// twoStageStats holds counts for tests and benchmarks.
type twoStageStats struct {
	hits, misses   int
	symbols, bytes int64 // output decoded as symbols and as bytes
}

// blockFinder searches for blocks.
type blockFinder struct {
	find *flate.Finder
	buf  [searchStep + flate.Tail]byte
}

// The constants of the score, which decides whether segments start. It keeps
// workers from guessing in a stream of one block, or of stored blocks, where no
// guess is right.
const (
	scoreBegin = 8
	scoreMost  = 16
	scoreHit   = 2
	// pauseSpacings is the distance, in spacings, for which the front decodes
	// alone after too many misses.
	pauseSpacings = 16
)

// newTwoStage returns a twoStage that is not active.
func newTwoStage(src *flate.Input, workers int, sizes segmentSizes) *twoStage {
	t := &twoStage{src: src, workers: workers, maxSegments: workers + workers/2, sizes: sizes}
	t.wake = sync.NewCond(&t.mu)
	return t
}

// enter makes d, which decodes src, the front and starts the workers.
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

// leave stops the workers and gives the input that was not decoded back to the
// source. It returns the decoder of the front, which can continue from there.
func (t *twoStage) leave() *flate.Decoder {
	t.close()
	t.front.StopAt(math.MaxInt64)
	t.front.Switch(t.src)
	t.src.Prepend(append([][]byte{t.frontIn.Rest()}, t.store.rest(t.frontCur.at)...)...)
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
	// No worker is left, so mu is not needed.
	for len(t.segs) > 0 {
		t.dropLocked(t.segs[0])
	}
	for _, p := range t.queue {
		t.putPieceLocked(p)
	}
	t.queue, t.queued, t.frontQueued, t.buffers, t.active = nil, 0, 0, 0, false
}

// next returns the next output and its CRC-32, valid until the next call. After
// the last output it returns the error of the decoder, io.EOF at the end of the
// member.
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

// readLocked reads from the source if it has more data and the store has room.
// mu must be held; it is released while reading.
func (t *twoStage) readLocked() bool {
	depth := t.sizes.spacing*int64(t.maxSegments+1) + searchStep
	// The depth counts from the cursor and not from frontPos, because frontPos
	// moves only after each piece, and one piece of incompressible data may
	// need more input than depth.
	if t.store.err != nil || t.end != nil || t.store.end-t.frontCur.at >= depth {
		return false
	}
	t.mu.Unlock()
	err := panics.Guard(func() { t.store.readMore(t.src) })
	t.mu.Lock()
	t.failLocked(err)
	return err == nil
}

// work repeatedly does the most urgent work, until close.
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

// failLocked makes the stream end with the error of a panic, unless err is nil.
// next returns all complete output first. mu must be held.
func (t *twoStage) failLocked(err error) {
	if err != nil && t.broken == nil {
		t.broken = err
		t.wake.Broadcast()
	}
}

// unresolvedLocked returns the first piece of the queue that no goroutine
// resolves. mu must be held.
func (t *twoStage) unresolvedLocked() *piece {
	for _, p := range t.queue {
		if !p.ready() && !p.taken {
			return p
		}
	}
	return nil
}

// resolveLocked turns the symbols of a piece into bytes. mu must be held; it is
// released while resolving.
func (t *twoStage) resolveLocked(p *piece) {
	p.taken = true
	t.mu.Unlock()
	err := panics.Guard(p.finish)
	t.mu.Lock()
	if err != nil { // p stays unresolved
		t.failLocked(err)
		return
	}
	p.symbols = false
	t.wake.Broadcast()
}

// runFrontLocked decodes with the front until the queue is full, the member
// ends, or another worker becomes the front. The caller must have set
// frontBusy. mu must be held; it is released while decoding.
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
			o.mark = t.frontMarks().takeMark(len(o.p))
			o.sum = crc32.ChecksumIEEE(o.p)
		})
		t.mu.Lock()
		if bad != nil {
			t.failLocked(bad)
			t.end, t.frontBusy = bad, false
			return
		}
		t.frontPos = t.front.Bits() / 8
		t.store.trimLocked(t.frontCur.at)
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
		case errors.Is(err, errAbandoned) && t.closed:
		default:
			t.end = err
			t.frontBusy = false
			t.wake.Broadcast()
			return
		}
	}
	t.frontBusy = false
}

// handOverLocked is called when the front has stopped where a segment starts.
// It reports whether the worker of that segment is now the front. mu must be
// held.
func (t *twoStage) handOverLocked() bool {
	s := t.nextStartLocked(nil)
	if s == nil || s.start > t.front.Bits() {
		return false // the segment was dropped in the meantime
	}
	past := t.front.History()
	// The store keeps data from the front's cursor on, which is ahead of the
	// front's position. A decoder that was opened a moment ago may not have read
	// its first block yet, and cannot continue once the store has dropped it.
	if s.start != t.front.Bits() || len(past) < flate.History || s.dec.cur.at < t.store.base {
		t.dropLocked(s)
		return false
	}
	for t.segs[0] != s {
		t.dropLocked(t.segs[0]) // still searches for a block before s
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
		t.wake.Broadcast() // its worker may be waiting for data, or the reader for its pieces
		t.flushHeldLocked(s)
		return true
	}
	t.promoteLocked(s)
	return false
}

// flushHeldLocked moves the pieces of s to the queue. mu must be held.
func (t *twoStage) flushHeldLocked(s *segment) {
	for _, p := range s.held {
		p.table = s.table
		t.pushLocked(p)
	}
	s.held = nil
}

// promoteLocked makes the decoder of s the front. mu must be held.
func (t *twoStage) promoteLocked(s *segment) {
	t.flushHeldLocked(s)
	s.dec.symbols.Resolve(s.table)
	t.front, t.frontDecoder = s.dec.symbols.ByteDecoder(), s.dec
	t.frontCur, t.frontIn = &s.dec.cur, s.dec.in
	t.frontCur.abandoned = nil
	t.frontPos = t.front.Bits() / 8
}

// pushLocked appends a piece to the queue. mu must be held.
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

// missedLocked counts a wrong guess, or a search that found no block. mu must
// be held.
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

// takePieceLocked returns a free piece or a new one. mu must be held.
func (t *twoStage) takePieceLocked() *piece {
	if n := len(t.freePieces); n > 0 {
		p := t.freePieces[n-1]
		t.freePieces = t.freePieces[:n-1]
		return p
	}
	return &piece{buf: new(flate.Window)}
}

// putPieceLocked frees a piece. mu must be held.
func (t *twoStage) putPieceLocked(p *piece) {
	*p = piece{buf: p.buf}
	t.freePieces = append(t.freePieces, p)
}

// takeDecoderLocked returns a free decoder or a new one. mu must be held.
func (t *twoStage) takeDecoderLocked() *segmentDecoder {
	if n := len(t.decoders); n > 0 {
		sd := t.decoders[n-1]
		t.decoders = t.decoders[:n-1]
		return sd
	}
	sd := &segmentDecoder{in: flate.NewInput(nil), symbols: flate.NewSymbolDecoder()}
	if t.rec != nil {
		sd.marks = newMarks(t.rec.Span())
	}
	return sd
}

// putDecoderLocked frees a decoder, unless it is nil. mu must be held.
func (t *twoStage) putDecoderLocked(sd *segmentDecoder) {
	if sd != nil {
		t.decoders = append(t.decoders, sd)
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
