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
type hops struct {
	// enter is how much of a member is decoded serially before: small members are
	// not worth the goroutines.
	enter int64 // compressed bytes
	// hop is how far from each other workers begin. Each begin costs the search for
	// a block and, until the history is known, symbols instead of bytes.
	hop int64 // compressed bytes
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
func defaultHops() hops {
	return hops{enter: 1 << 20, hop: 1 << 20, ahead: 8 << 20, queue: 2 << 20, pieces: 11 << 20}
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
	src     *flate.Input
	workers int
	most    int // segments
	sizes   hops

	mu     sync.Mutex
	wake   *sync.Cond // something has changed
	wg     sync.WaitGroup
	active bool
	closed bool
	store  *store

	front     *flate.Decoder // nil while a segment becomes it
	frontEye  *eye           // what it is part of; nil for the first
	frontBusy bool           // a worker has it
	frontCur  *cursor
	frontIn   *flate.Input
	fpos      int64 // byte of the stream where it is
	end       error // why it ended

	segs    []*segment // ahead of the front, in order
	running int        // how many of them a worker has
	score   int        // how well guessing goes
	resume  int64      // no guesses before

	queue   []*piece // output
	queued  int      // bytes of output in it
	buffers int      // bytes of their buffers
	fqueued int      // those which the front has made
	reading *piece   // was handed out

	pieces []*piece // free
	eyes   []*eye
	scouts []*scout

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
type scout struct {
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
	pauseHops = 16
)

// newTwoStage returns one that is not active.
func newTwoStage(src *flate.Input, workers int, sizes hops) *twoStage {
	t := &twoStage{src: src, workers: workers, most: workers + workers/2, sizes: sizes}
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
	t.front, t.frontEye, t.frontBusy, t.fpos, t.end = d, nil, false, 0, nil
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
		t.drop(t.segs[0])
	}
	for _, p := range t.queue {
		t.givePiece(p)
	}
	t.queue, t.queued, t.fqueued, t.buffers, t.active = nil, 0, 0, 0, false
}

// next returns more output and its CRC-32, valid until the next call; at the end of
// the member, or of what can be decoded of it, the error of the decoder.
func (t *twoStage) next() ([]byte, uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reading != nil {
		t.givePiece(t.reading)
		t.reading = nil
	}
	if t.queued < t.sizes.queue/2 {
		t.read()
	}
	for {
		if len(t.queue) > 0 {
			p := t.queue[0]
			if !p.ready() && !p.taken {
				t.resolve(p)
				continue
			}
			if p.ready() {
				t.queue = t.queue[1:]
				t.queued -= len(p.p)
				t.buffers -= len(p.buf)
				if p.front {
					t.fqueued -= len(p.p)
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
		if !t.read() {
			t.wake.Wait()
		}
	}
}

// read reads more of the source, if it has more and there is room.
func (t *twoStage) read() bool {
	depth := t.sizes.hop*int64(t.most+1) + searchStep
	// Its cursor, not fpos: within a piece of what cannot be compressed the front
	// may need more than there is room for.
	if t.store.err != nil || t.end != nil || t.store.end-t.frontCur.at >= depth {
		return false
	}
	t.mu.Unlock()
	err := panics.Guard(func() { t.store.add(t.src) })
	t.mu.Lock()
	t.breaks(err)
	return err == nil
}

// work does what is most urgent, until close.
func (t *twoStage) work() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.closed {
		if p := t.unresolved(); p != nil {
			t.resolve(p)
		} else if t.end == nil && !t.frontBusy && t.fqueued < t.sizes.queue {
			t.frontBusy = true
			t.runFront()
		} else if t.end != nil {
			t.wake.Wait()
		} else if s := t.newSegment(); s != nil {
			t.speculate(s)
		} else {
			t.wake.Wait()
		}
	}
}

// breaks ends the stream, with what was decoded before, by a panic that was contained.
func (t *twoStage) breaks(err error) {
	if err != nil && t.broken == nil {
		t.broken = err
		t.wake.Broadcast()
	}
}

// unresolved returns the first piece of the queue that nobody resolves.
func (t *twoStage) unresolved() *piece {
	for _, p := range t.queue {
		if !p.ready() && !p.taken {
			return p
		}
	}
	return nil
}

// resolve makes bytes of a piece.
func (t *twoStage) resolve(p *piece) {
	p.taken = true
	t.mu.Unlock()
	err := panics.Guard(p.finish)
	t.mu.Lock()
	if err != nil { // it never becomes ready
		t.breaks(err)
		return
	}
	p.symbols = false
	t.wake.Broadcast()
}

// runFront decodes as the front, which the caller has, until the queue is full, the
// member ends, or another worker is the front.
func (t *twoStage) runFront() {
	for !t.closed && t.fqueued < t.sizes.queue {
		next := t.after(nil)
		if next != nil && next.start < t.front.Bits() {
			t.drop(next)
			continue
		}
		t.front.StopAt(stopAt(next))
		o := t.takePieceLocked()
		t.mu.Unlock()
		var err error
		bad := panics.Guard(func() {
			o.p, o.buf, err = t.front.NextIn(o.buf)
			o.mark = t.frontMarks().take(len(o.p))
			o.sum = crc32.ChecksumIEEE(o.p)
		})
		t.mu.Lock()
		if bad != nil {
			t.breaks(bad)
			t.end, t.frontBusy = bad, false
			return
		}
		t.fpos = t.front.Bits() / 8
		t.store.trim(t.frontCur.at)
		if len(o.p) > 0 {
			o.front = true
			t.fqueued += len(o.p)
			t.push(o)
		} else {
			t.givePiece(o)
		}
		switch {
		case err == nil:
		case errors.Is(err, flate.ErrStopped):
			if t.arrive() {
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
func (t *twoStage) arrive() bool {
	s := t.after(nil)
	if s == nil || s.start > t.front.Bits() {
		return false // it has been given up meanwhile
	}
	past := t.front.History()
	if s.start != t.front.Bits() || len(past) < flate.History {
		t.drop(s)
		return false
	}
	for t.segs[0] != s {
		t.drop(t.segs[0]) // still searching for a begin, here or further on
	}
	t.segs = t.segs[1:]
	t.stats.hits++
	t.score = min(scoreMost, t.score+scoreHit)
	s.front = true
	s.table = new(flate.Table)
	s.table.Fill(past)
	t.giveEye(t.frontEye)
	t.front, t.frontEye, t.frontCur, t.fpos = nil, nil, &s.e.cur, s.pos
	if !s.parked {
		t.wake.Broadcast() // it may wait for data, or we for its pieces
		t.flush(s)
		return true
	}
	t.adopt(s)
	return false
}

// flush makes the pieces of s output.
func (t *twoStage) flush(s *segment) {
	for _, p := range s.held {
		p.table = s.table
		t.push(p)
	}
	s.held = nil
}

// adopt makes the decoder of s the front.
func (t *twoStage) adopt(s *segment) {
	t.flush(s)
	s.e.blind.Resolve(s.table)
	t.front, t.frontEye = s.e.blind.Seeing(), s.e
	t.frontCur, t.frontIn = &s.e.cur, s.e.in
	t.frontCur.dead = nil
	t.fpos = t.front.Bits() / 8
}

// push makes a piece output.
func (t *twoStage) push(p *piece) {
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
func (t *twoStage) missed() {
	if t.closed || t.end != nil {
		return
	}
	t.stats.misses++
	if t.score--; t.score <= 0 {
		t.score = 1
		t.resume = t.fpos + pauseHops*t.sizes.hop
	}
}

func (t *twoStage) takePiece() *piece {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takePieceLocked()
}

func (t *twoStage) takePieceLocked() *piece {
	if n := len(t.pieces); n > 0 {
		p := t.pieces[n-1]
		t.pieces = t.pieces[:n-1]
		return p
	}
	return &piece{buf: new(flate.Window)}
}

func (t *twoStage) givePiece(p *piece) {
	*p = piece{buf: p.buf}
	t.pieces = append(t.pieces, p)
}

func (t *twoStage) takeEye() *eye {
	if n := len(t.eyes); n > 0 {
		e := t.eyes[n-1]
		t.eyes = t.eyes[:n-1]
		return e
	}
	e := &eye{in: flate.NewInput(nil), blind: flate.NewBlind()}
	if t.rec != nil {
		e.marks = newMarks(t.rec.Span())
	}
	return e
}

func (t *twoStage) giveEye(e *eye) {
	if e != nil {
		t.eyes = append(t.eyes, e)
	}
}

func (t *twoStage) takeScout() *scout {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.scouts); n > 0 {
		w := t.scouts[n-1]
		t.scouts = t.scouts[:n-1]
		return w
	}
	return &scout{find: flate.NewFinder()}
}

func (t *twoStage) giveScout(w *scout) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scouts = append(t.scouts, w)
}
