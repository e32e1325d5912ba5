package ranges

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/budget"
)

// gate is the door to one host: it holds the queue of attempts, the limiter and
// the hedger of the host, and the lanes (goroutines) that make the requests.
//
// Lock order: Engine.mu, then gate.mu. A gate's lock is never held during I/O,
// while another gate's is taken, or while an owner of a task is called.
//
// No deadlock: an attempt waits for a slot only while other attempts hold all
// of them, an attempt that holds one ends by success, failure, RetryPolicy.Over or
// cancellation, and then passes its slot on. Attempts hold no other resource
// that an attempt waits for (buffers are reserved before an attempt is queued).
type gate struct {
	e    *Engine
	host string
	wg   sync.WaitGroup // lanes and the monitor

	awake awakeClock   // the monitor's alone; see awakeTime
	lost  atomic.Int64 // awake.lost in nanoseconds, for all goroutines
	over  atomic.Int64 // requests that ended well

	logging atomic.Bool // a warning about a retry is being written

	mu       sync.Mutex // guards everything below and the tasks' fields that say so
	looked   int        // inflight at the monitor's last look: many that end at once leave none alone
	limiter  limiter
	hedger   hedger
	pace     pace
	urgent   list // heads of line and hedges, oldest first
	ahead    list // prefetch, oldest first
	delayed  list // retries that wait for their time, unordered
	lanes    []*lane
	idle     []*lane
	inflight int
	closed   bool
	good     time.Duration // when the host last sent a byte of a body, by awakeTime; 0 never
	retryLog RetryLog

	asleep bool          // the monitor waits for wake without a timer
	wake   chan struct{} // tells the monitor that something began; capacity 1
}

// awakeTime returns now without the time during which the process didn't run.
// Silence is measured by it.
func (g *gate) awakeTime(now time.Duration) time.Duration {
	return now - time.Duration(g.lost.Load())
}

func newGate(e *Engine, host string) *gate {
	g := &gate{
		e: e, host: host,
		limiter: newLimiter(e.opts.TargetRate, min(minConns, e.opts.MaxConns), e.opts.MaxConns),
		hedger:  newHedger(e.opts.Hedge),
		wake:    make(chan struct{}, 1),
	}
	g.wg.Go(g.monitor)
	return g
}

// taskOwner receives the events of a task that it has submitted. Every front end
// (streams, reads ahead, shared reads, fetches) has an owner of its own; those
// that need only some events embed ignoreEvents for the others.
//
// A gate's lock may be held during retried, late and ended: they must neither
// block nor call the gate.
type taskOwner interface {
	// started is called once, before the first request and without locks. The
	// owner sets the task's buffer here at the latest, and may extend its range.
	started()
	// answered is called without locks when an answer has told the size of the
	// object, if the server knows it.
	answered()
	// retried is called when an attempt has failed and another one will follow.
	retried()
	// late is called when an urgent task has received nothing for a while. It may
	// be called often.
	late()
	// ended is called once, when the task has its result and no request for it
	// runs. The task may be submitted again as soon as its owner knows.
	ended()
}

// ignoreEvents is embedded by task owners for events that they don't need.
type ignoreEvents struct{}

func (ignoreEvents) started()  {}
func (ignoreEvents) answered() {}
func (ignoreEvents) retried()  {}
func (ignoreEvents) late()     {}

// task is one range and the buffer that its bytes go into. Its owner fills the
// first block, submits it, and may touch it again after ended. Tasks are reused;
// nothing in here is allocated for a part.
type task struct {
	owner  taskOwner
	o      *Object
	off    int64  // object offset of buf[0]
	n      int64  // bytes asked for
	buf    []byte // where the bytes go; len = n. Set by owner.started at the latest
	sum    ChecksumAlgorithm
	urgent bool // its consumer waits for it; guarded by gate.mu while submitted
	// wantsBody: hand the whole answer over when the server ignored the range.
	wantsBody bool

	// Results, valid after ended.
	got  int    // bytes in buf; less than len(buf) only at the end of the object
	crc  uint64 // checksum of buf[:got]
	err  error
	body plainBody // set when the server ignored the range: the answer itself

	// Guarded by gate.mu while the task is submitted.
	fails     Retries
	attempts  int
	since     time.Duration // when it was submitted, by awakeTime
	readyAt   time.Duration
	a         [2]attempt // the request, and its hedge
	winner    *attempt
	spare     *budget.Buf // where the hedge puts its bytes; index 0 is t.off
	decided   bool        // the result is known; only running attempts are waited for
	startSent bool        // owner.started was called
}

// attempt is one request of a task.
type attempt struct {
	t     *task
	hedge bool

	prev, next *attempt // in one of the gate's lists
	in         *list

	// Guarded by gate.mu.
	lane      *lane // runs it now; nil: not running
	fresh     bool
	cancelled bool
	clipped   bool // the answer ends before the range does; the lane's alone

	// Set before the lane starts, then written by the lane alone.
	off int64  // object offset of buf[0]
	buf []byte // destination
	crc uint64
	n   int // bytes received into buf
	err error
}

func (a *attempt) queued() bool { return a.in != nil }

// policy returns how many requests the host gets at once now, and the size of
// a part of at most most bytes.
func (g *gate) policy(most int64) (slots int, part int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.limiter.limit), g.pace.part(most)
}

// submit queues a new task.
func (g *gate) submit(t *task) {
	t.got, t.crc, t.err, t.body = 0, 0, nil, plainBody{}
	t.fails, t.attempts, t.winner, t.decided, t.startSent = Retries{}, 0, nil, false, false
	for i := range t.a {
		t.a[i] = attempt{t: t, hedge: i == 1}
	}
	g.mu.Lock()
	if g.closed {
		t.decided, t.err = true, ErrClosed
		g.mu.Unlock()
		t.complete()
		return
	}
	t.since = g.awakeTime(g.e.now())
	g.push(&t.a[0])
	g.dispatch()
	g.mu.Unlock()
}

func (g *gate) push(a *attempt) {
	if a.t.urgent || a.hedge {
		g.urgent.pushBack(a)
	} else {
		g.ahead.pushBack(a)
	}
}

// promote makes a task outrank prefetch: its consumer waits for it. It reports
// whether the task waits for a retry.
func (g *gate) promote(t *task) (retried bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &t.a[0]
	if !t.urgent {
		t.urgent = true
		if a.in == &g.ahead {
			g.ahead.remove(a)
			g.urgent.pushBack(a)
		}
	}
	return a.in == &g.delayed
}

// cancel ends a task; its owner learns it when no lane works on it any more.
func (g *gate) cancel(t *task, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.decided {
		return
	}
	t.decided, t.err = true, cause
	g.stop(t)
}

// stop takes the attempts of an ended task out of the queues, cancels the
// running ones and finishes the task if there are none.
func (g *gate) stop(t *task) {
	running := false
	for i := range t.a {
		a := &t.a[i]
		if a.in != nil {
			a.in.remove(a)
			if a.hedge {
				g.hedger.refund()
			}
		}
		if a.lane != nil {
			running = true
			if !a.cancelled {
				a.cancelled = true
				a.lane.cancel(context.Canceled)
			}
		}
	}
	if !running {
		t.complete()
	}
}

// dispatch hands queued attempts to lanes while there are slots.
func (g *gate) dispatch() {
	now := g.e.now()
	for {
		a := g.urgent.head
		if a == nil {
			a = g.ahead.head
		}
		if a == nil {
			return
		}
		if g.inflight >= g.limiter.slots(now) {
			g.limiter.wanted()
			g.poke() // the monitor looks again when a pause ends
			return
		}
		a.in.remove(a)
		g.inflight++
		g.run(a, now)
	}
}

// run gives an attempt to an idle or a new lane.
func (g *gate) run(a *attempt, now time.Duration) {
	var l *lane
	if n := len(g.idle); n > 0 {
		l = g.idle[n-1]
		g.idle = g.idle[:n-1]
	} else {
		l = newLane(g)
		g.lanes = append(g.lanes, l)
		g.wg.Go(l.loop)
	}
	if !a.hedge {
		g.hedger.begun()
	}
	a.lane, a.n, a.err, a.crc, a.cancelled, a.clipped = l, 0, nil, 0, false, false
	l.current, l.active, l.started = a, false, now
	l.work <- a
	g.poke()
}

// finish takes the outcome of an attempt whose lane has let go of its body.
// It runs on the lane.
func (g *gate) finish(l *lane, a *attempt) {
	t := a.t
	g.mu.Lock()
	now := g.e.now()
	g.inflight--
	a.lane, l.current, l.active = nil, nil, false
	l.renew()
	g.idle = append(g.idle, l)
	g.e.stats.received.Add(int64(a.n))
	if a.n >= leastGain {
		g.good = max(g.good, time.Duration(l.last.Load()))
	}

	if a.err == nil && !t.decided {
		g.over.Add(1)
		g.good = max(g.good, g.awakeTime(now))
		g.limiter.done(now, int64(a.n))
		g.hedger.done(int64(len(a.buf)), now-l.started)
		if a.n > 0 {
			g.pace.done(l.started, l.first, now, int64(a.n))
		}
		t.winner, t.decided = a, true
		g.stopOther(t, a)
	} else if !t.decided {
		g.failed(l, t, a, now)
	} else if w := t.winner; w != nil && a != w {
		twice := int64(a.n)
		if w.hedge { // what precedes the hedge is used
			twice = max(0, a.off+twice-w.off)
		}
		g.e.stats.wasted.Add(twice)
	}
	complete := t.decided && t.a[0].lane == nil && t.a[1].lane == nil
	g.dispatch()
	g.mu.Unlock()
	if complete {
		t.complete()
	}
}

// stopOther cancels the loser of a hedged pair.
func (g *gate) stopOther(t *task, won *attempt) {
	other := &t.a[0]
	if won == other {
		other = &t.a[1]
	} else {
		g.e.stats.hedgeWins.Add(1)
	}
	if other.in != nil {
		other.in.remove(other)
		g.hedger.refund()
	}
	if other.lane != nil && !other.cancelled {
		other.cancelled = true
		other.lane.cancel(context.Canceled)
	}
}

// failed decides what becomes of a task one of whose attempts failed.
func (g *gate) failed(l *lane, t *task, a *attempt, now time.Duration) {
	err := a.err
	kind, after, _ := classify(err)
	if kind == Throttled {
		g.e.stats.throttled.Add(1)
		g.limiter.throttle(now, l.started, g.e.opts.Retry.hostPause(after))
	}
	if errors.Is(err, ErrStalled) || errors.Is(err, ErrSlow) {
		g.e.stats.stalls.Add(1)
	}
	other := &t.a[0]
	if !a.hedge {
		other = &t.a[1]
	}
	if a.hedge && other.lane != nil {
		// The first attempt still writes to t.buf and may win.
		g.e.stats.wasted.Add(int64(a.n))
		return
	}
	progress := g.adopt(t, a)
	if other.lane != nil {
		return // the hedge may still win
	}
	up, policy := g.awakeTime(now), t.o.retryPolicy()
	v := t.fails.Next(policy, Failure{
		Err: err, Start: l.since, Now: up, Waited: l.since - max(t.since, g.good), Progress: progress,
		Refused: g.limiter.recent, Rand: rand.Float64(),
	})
	if !v.Retry {
		t.err, t.decided = err, true
		if other.in != nil {
			other.in.remove(other)
			g.hedger.refund()
		}
		if kind == Retryable || kind == Throttled {
			g.giveUp(l.since, err)
		}
		return
	}
	if other.in != nil { // a queued hedge becomes the retry
		other.in.remove(other)
		g.hedger.refund()
	}
	p := &t.a[0]
	p.fresh = v.Fresh
	if a.clipped && errors.Is(err, errClipped) && v.After == 0 {
		t.urgent = true // it goes on with its slot
		g.push(p)
		return
	}
	t.owner.retried()
	g.e.stats.retries.Add(1)
	if t.got > 0 {
		g.e.stats.resumes.Add(1)
	}
	g.logRetry(now, retry{object: t.o.spec.Name, offset: t.off + int64(t.got), attempt: t.attempts, after: v.After, err: err})
	if v.After > 0 {
		t.readyAt = now + v.After
		g.delayed.pushBack(p)
		g.nudge() // its pause may be shorter than the monitor's nap
	} else {
		t.urgent = true // it has waited long enough
		g.push(p)
	}
}

// giveUp fails the queued tasks whose time was up when the attempt that has just
// failed for good began: it was the last one for them too. Otherwise a long queue
// on a dead host would take as many times the bound of one request as the queue is
// longer than the number of slots. The caller holds g.mu.
func (g *gate) giveUp(began time.Duration, err error) {
	for _, q := range []*list{&g.urgent, &g.ahead, &g.delayed} {
		for a := q.head; a != nil; {
			t, after := a.t, a.next
			if outage := t.o.retryPolicy().Outage; !a.hedge && !t.decided && began-max(t.since, g.good) >= outage {
				t.decided = true
				t.err = &Fault{Kind: Retryable, Err: fmt.Errorf("host %s has not answered for %v; another request failed: %w", g.host, outage, err)}
				g.stop(t)
			}
			a = after
		}
	}
}

// adopt keeps the bytes of a failed attempt where they continue those that the
// task has, and returns how many are new.
func (g *gate) adopt(t *task, a *attempt) int64 {
	end := a.off - t.off + int64(a.n) // task offset of the end of a's bytes
	fresh := end - int64(t.got)
	if a.n == 0 || fresh <= 0 || a.off-t.off > int64(t.got) {
		g.e.stats.wasted.Add(int64(a.n))
		return 0
	}
	g.e.stats.wasted.Add(int64(a.n) - fresh)
	if a.hedge {
		copy(t.buf[t.got:end], a.buf[int64(t.got)-(a.off-t.off):])
		t.crc = t.sum.update(t.crc, t.buf[t.got:end])
	} else {
		t.crc = a.crc
	}
	t.got = int(end)
	return fresh
}

// complete publishes a task that ended and that no lane works on.
func (t *task) complete() {
	if w := t.winner; w != nil {
		t.err = nil
		if w.hedge {
			// The hedge started inside the part: what precedes it is in
			// t.buf already, written by the first attempt before.
			from := int(w.off - t.off)
			t.got = from + copy(t.buf[from:], w.buf[:w.n])
			t.crc = t.sum.update(0, t.buf[:t.got])
		} else {
			t.got, t.crc = int(w.off-t.off)+w.n, w.crc
		}
	}
	if t.spare != nil {
		t.spare.Release()
		t.spare = nil
	}
	t.owner.ended()
}

// shut ends the gate: queued tasks fail, running ones are cancelled.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	for _, q := range []*list{&g.urgent, &g.ahead, &g.delayed} {
		for a := q.head; a != nil; a = q.head {
			t := a.t
			if !t.decided {
				t.decided, t.err = true, ErrClosed
				g.stop(t)
			} else {
				q.remove(a)
			}
		}
	}
	for _, l := range g.lanes {
		if a := l.current; a != nil && a.lane == l && !a.t.decided {
			a.t.decided, a.t.err = true, ErrClosed
			g.stop(a.t)
		}
		close(l.work)
	}
	close(g.wake)
}

// poke wakes the monitor if it sleeps without a timer.
func (g *gate) poke() {
	if g.asleep {
		g.nudge()
	}
}

// nudge makes the monitor look again now. The caller holds g.mu.
func (g *gate) nudge() {
	if g.closed {
		return
	}
	g.asleep = false
	select {
	case g.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// list is a doubly linked list of attempts.
type list struct{ head, tail *attempt }

func (q *list) pushBack(a *attempt) {
	a.in, a.prev, a.next = q, q.tail, nil
	if q.tail != nil {
		q.tail.next = a
	} else {
		q.head = a
	}
	q.tail = a
}

func (q *list) remove(a *attempt) {
	if a.prev != nil {
		a.prev.next = a.next
	} else {
		q.head = a.next
	}
	if a.next != nil {
		a.next.prev = a.prev
	} else {
		q.tail = a.prev
	}
	a.in, a.prev, a.next = nil, nil, nil
}
