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

// A gate schedules the requests to one host. It holds the host's queue of
// attempts, its limiter and hedger, and the lanes (goroutines) that make the
// requests.
//
// Lock order: Engine.mu, then gate.mu. A gate's lock is never held during I/O,
// while another gate's lock is taken, or while taskOwner.started or
// taskOwner.answered runs.
//
// Attempts can't deadlock. An attempt waits for a slot only while other attempts
// hold all slots. An attempt that holds a slot ends by success, failure,
// RetryPolicy.CheckProgress or cancellation, and then passes its slot on.
// Attempts wait for no other resource: buffers are reserved before an attempt is
// queued.
type gate struct {
	e    *Engine
	host string
	wg   sync.WaitGroup // lanes and the monitor

	awake     awakeClock   // used only by the monitor; see awakeTime
	lost      atomic.Int64 // awake.lost in nanoseconds, for all goroutines
	completed atomic.Int64 // requests that ended well

	logging atomic.Bool // a goroutine is writing a warning about a retry

	mu           sync.Mutex // guards the fields below, and fields of tasks and lanes that say so
	inflightSeen int        // inflight at the monitor's last look; a request is not alone if many others have just ended
	limiter      limiter
	hedger       hedger
	pace         pace
	urgent       list // tasks that a consumer waits for, and hedges; oldest first
	ahead        list // tasks that are fetched ahead, oldest first
	delayed      list // retries whose pause has not ended; unordered
	lanes        []*lane
	idle         []*lane
	inflight     int
	closed       bool
	lastGood     time.Duration // awakeTime when the host last sent enough bytes of a body; 0 if never
	retryLog     RetryLog

	asleep bool          // the monitor waits for wake, without a timer
	wake   chan struct{} // wakes the monitor; capacity 1
}

// awakeTime returns now minus the time during which the process didn't run. The
// silence of a server is measured in this time.
func (g *gate) awakeTime(now time.Duration) time.Duration {
	return awakeAt(now, time.Duration(g.lost.Load()))
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
	// runs. The owner may submit the task again even before ended returns, so the
	// gate doesn't use the task afterwards.
	ended()
}

// ignoreEvents is embedded by task owners for events that they don't need.
type ignoreEvents struct{}

func (ignoreEvents) started()  {}
func (ignoreEvents) answered() {}
func (ignoreEvents) retried()  {}
func (ignoreEvents) late()     {}

// task is one range and the buffer that its bytes go into. Its owner fills the
// first block, submits it, and may touch it again after taskOwner.ended. Tasks
// are reused, and running one allocates nothing.
type task struct {
	owner  taskOwner
	o      *Object
	off    int64  // object offset of buf[0]
	n      int64  // number of requested bytes
	buf    []byte // receives the bytes; len = n. Set by owner.started at the latest
	sum    ChecksumAlgorithm
	urgent bool // a consumer waits for it; guarded by gate.mu while submitted
	// wantsBody makes the gate hand the whole answer over, in body, if the server
	// ignores the range.
	wantsBody bool

	// Results, valid after ended.
	got  int    // bytes in buf; less than len(buf) only at the end of the object
	crc  uint64 // checksum of buf[:got]
	err  error
	body plainBody // the answer itself, if the server ignored the range

	// Guarded by gate.mu while the task is submitted.
	fails     Retries
	attempts  int
	since     time.Duration // awakeTime when it was submitted
	readyAt   time.Duration
	a         [2]attempt // the request, and its hedge
	winner    *attempt
	spare     *budget.Buf // receives the hedge's bytes; its index 0 is t.off
	decided   bool        // the result is known; only running attempts are waited for
	startSent bool        // owner.started was called
	lost      *lostFirst  // a first attempt that failed while its hedge ran, or nil
}

// lostFirst is a first attempt that failed while its hedge could still win. If the
// hedge fails too, both are one failure, which began with the first attempt.
type lostFirst struct {
	start    time.Duration // of the attempt, in awakeTime
	progress int64         // bytes that it received
}

// attempt is one request of a task.
type attempt struct {
	t     *task
	hedge bool

	prev, next *attempt // in one of the gate's lists
	in         *list

	// Guarded by gate.mu.
	lane      *lane // runs the attempt now; nil if none does
	fresh     bool
	cancelled bool
	clipped   bool // the answer ends before the range does; written by the lane alone

	// Set before the lane starts, then written by the lane alone.
	off int64  // object offset of buf[0]
	buf []byte // destination
	crc uint64
	n   int // bytes received into buf
	err error
}

func (a *attempt) queued() bool { return a.in != nil }

// policy returns how many requests the host may get at once now, and how large a
// part should be, at most most bytes.
func (g *gate) policy(most int64) (slots int, part int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.limiter.limit), g.pace.partBytes(most)
}

// submit queues a new task, and starts it if there is a slot.
func (g *gate) submit(t *task) {
	t.got, t.crc, t.err, t.body = 0, 0, nil, plainBody{}
	t.fails, t.attempts, t.winner, t.decided, t.startSent, t.lost = Retries{}, 0, nil, false, false, nil
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
	g.enqueueLocked(&t.a[0])
	g.dispatchLocked()
	g.mu.Unlock()
}

// enqueueLocked adds an attempt to the queue of its priority. mu must be held.
func (g *gate) enqueueLocked(a *attempt) {
	if a.t.urgent || a.hedge {
		g.urgent.pushBack(a)
	} else {
		g.ahead.pushBack(a)
	}
}

// promote moves a task before the read-ahead, because a consumer waits for it. It
// reports whether the task waits for a retry.
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

// cancel ends a task. Its owner is notified when no lane works on it any more.
func (g *gate) cancel(t *task, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.decided {
		return
	}
	t.decided, t.err = true, cause
	g.stopLocked(t)
}

// stopLocked takes the attempts of a decided task out of the queues, cancels the
// running ones, and completes the task if none runs. mu must be held.
func (g *gate) stopLocked(t *task) {
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

// dispatchLocked hands queued attempts to lanes while there are slots. mu must be
// held.
func (g *gate) dispatchLocked() {
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
			g.wakeIfAsleepLocked() // the monitor looks again when a pause ends
			return
		}
		a.in.remove(a)
		g.inflight++
		g.startLocked(a, now)
	}
}

// startLocked gives an attempt to an idle or a new lane. mu must be held.
func (g *gate) startLocked(a *attempt, now time.Duration) {
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
		g.hedger.requestSent()
	}
	a.lane, a.n, a.err, a.crc, a.cancelled, a.clipped = l, 0, nil, 0, false, false
	l.current, l.active, l.started = a, false, now
	l.work <- a
	g.wakeIfAsleepLocked()
}

// finishAttempt records the outcome of an attempt whose body is closed. It runs
// on the attempt's lane.
func (g *gate) finishAttempt(l *lane, a *attempt) {
	t := a.t
	g.mu.Lock()
	now := g.e.now()
	g.inflight--
	a.lane, l.current, l.active = nil, nil, false
	l.renewContextLocked()
	g.idle = append(g.idle, l)
	g.e.stats.received.Add(int64(a.n))
	if a.n >= leastGain {
		g.lastGood = max(g.lastGood, time.Duration(l.last.Load()))
	}

	if a.err == nil && !t.decided {
		g.completed.Add(1)
		g.lastGood = max(g.lastGood, g.awakeTime(now))
		g.limiter.done(now, int64(a.n))
		g.hedger.done(int64(len(a.buf)), now-l.started)
		if a.n > 0 {
			g.pace.done(l.started, l.first, now, int64(a.n))
		}
		t.winner, t.decided = a, true
		g.stopOtherLocked(t, a)
	} else if !t.decided {
		g.attemptFailedLocked(l, t, a, now)
	} else if w := t.winner; w != nil && a != w {
		twice := int64(a.n)
		if w.hedge { // the bytes before the hedge's first one are used
			twice = max(0, a.off+twice-w.off)
		}
		g.e.stats.wasted.Add(twice)
	}
	complete := t.decided && t.a[0].lane == nil && t.a[1].lane == nil
	g.dispatchLocked()
	g.mu.Unlock()
	if complete {
		t.complete()
	}
}

// stopOtherLocked cancels the attempt of a hedged task that lost against won. mu must
// be held.
func (g *gate) stopOtherLocked(t *task, won *attempt) {
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

// attemptFailedLocked decides how a task continues after one of its attempts has
// failed. mu must be held.
func (g *gate) attemptFailedLocked(l *lane, t *task, a *attempt, now time.Duration) {
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
	start, progress := l.since, g.adoptBytesLocked(t, a)
	if other.lane != nil { // the hedge may still win
		t.lost = &lostFirst{start, progress}
		return
	}
	if t.lost != nil {
		start, progress = t.lost.start, progress+t.lost.progress
		t.lost = nil
	}
	up, policy := g.awakeTime(now), t.o.retryPolicy()
	v := t.fails.Next(policy, Failure{
		Err: err, Start: start, Now: up, Waited: start - max(t.since, g.lastGood), Progress: progress,
		Refused: g.limiter.recent, Rand: rand.Float64(),
	})
	if !v.Retry {
		t.err, t.decided = err, true
		if other.in != nil {
			other.in.remove(other)
			g.hedger.refund()
		}
		if kind == Retryable || kind == Throttled {
			g.failQueuedLocked(start, err)
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
		t.urgent = true // it keeps its slot
		g.enqueueLocked(p)
		return
	}
	t.owner.retried()
	g.e.stats.retries.Add(1)
	if t.got > 0 {
		g.e.stats.resumes.Add(1)
	}
	g.logRetryLocked(now, retry{object: t.o.spec.Name, offset: t.off + int64(t.got), attempt: t.attempts, after: v.After, err: err})
	if v.After > 0 {
		t.readyAt = now + v.After
		g.delayed.pushBack(p)
		g.wakeMonitorLocked() // the pause may end before the monitor's next look
	} else {
		t.urgent = true // it has waited already
		g.enqueueLocked(p)
	}
}

// failQueuedLocked is called when a task has failed for good with an attempt that
// started at started. It also fails the queued tasks that had waited for their
// whole Outage by then, because the host had its last chance with that attempt.
// Otherwise the tasks queued for a dead host would fail one by one, each only
// after an attempt of its own had timed out. mu must be held.
func (g *gate) failQueuedLocked(started time.Duration, err error) {
	for _, q := range []*list{&g.urgent, &g.ahead, &g.delayed} {
		for a := q.head; a != nil; {
			t, after := a.t, a.next
			if outage := t.o.retryPolicy().Outage; !a.hedge && !t.decided && started-max(t.since, g.lastGood) >= outage {
				t.decided = true
				t.err = &Fault{Kind: Retryable, Err: fmt.Errorf("host %s has not answered for %v; another request failed: %w", g.host, outage, err)}
				g.stopLocked(t)
			}
			a = after
		}
	}
}

// adoptBytesLocked keeps the bytes of a failed attempt that continue the task's
// bytes, and returns how many are new. mu must be held.
func (g *gate) adoptBytesLocked(t *task, a *attempt) int64 {
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

// complete publishes the result of a decided task on which no lane works.
func (t *task) complete() {
	if w := t.winner; w != nil {
		t.err = nil
		if w.hedge {
			// The hedge started inside the range. The first attempt has
			// written the bytes before it to t.buf.
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

// close ends the gate: queued tasks fail with ErrClosed, running ones are
// cancelled. Its goroutines end when their requests have ended.
func (g *gate) close() {
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
				g.stopLocked(t)
			} else {
				q.remove(a)
			}
		}
	}
	for _, l := range g.lanes {
		if a := l.current; a != nil && a.lane == l && !a.t.decided {
			a.t.decided, a.t.err = true, ErrClosed
			g.stopLocked(a.t)
		}
		close(l.work)
	}
	close(g.wake)
}

// wakeIfAsleepLocked wakes the monitor if it sleeps without a timer. mu must be
// held.
func (g *gate) wakeIfAsleepLocked() {
	if g.asleep {
		g.wakeMonitorLocked()
	}
}

// wakeMonitorLocked makes the monitor look again now. mu must be held.
func (g *gate) wakeMonitorLocked() {
	if g.closed {
		return
	}
	g.asleep = false
	select {
	case g.wake <- struct{}{}:
	default: // the monitor has a wake-up pending
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
