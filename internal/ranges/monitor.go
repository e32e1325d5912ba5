package ranges

import "time"

const (
	// tick is the time between two looks at running requests: an eighth of the
	// shortest time after which a hedge is due.
	tick = 5 * time.Millisecond
	// idleTicks is how many looks without a request the monitor makes before it
	// sleeps. Waking it for every single read of an otherwise idle mount would
	// cost more than these looks.
	idleTicks = 200
	// lateHead is how long the head of a stream may be silent before the stream
	// requests more parts for its other slots. It is longer than a receiver may
	// hold bytes back (8 ms), and a fraction of the time until a hedge.
	lateHead = 15 * time.Millisecond
)

// monitor is the goroutine of a gate that reads the clock. It queues retries whose
// pause has ended, hedges late requests, and ends silent ones.
func (g *gate) monitor() {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for quiet := 0; ; {
		g.mu.Lock()
		if g.closed {
			g.mu.Unlock()
			return
		}
		now := g.e.now()
		g.awake.look(now)
		g.lost.Store(int64(g.awake.lost))
		busy, next := g.checkLocked(now)
		if busy {
			quiet = 0
		} else {
			quiet++
		}
		g.asleep = quiet >= idleTicks
		asleep := g.asleep
		g.mu.Unlock()
		if asleep {
			if _, ok := <-g.wake; !ok {
				return
			}
			quiet = 0
			g.awake.expect(g.e.now())
			continue
		}
		g.awake.expect(now + next)
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-g.wake: // a new pause, or the gate is closed
		}
	}
}

// checkLocked does one look of the monitor. It reports whether requests run or
// wait, and the time until the next look. mu must be held.
func (g *gate) checkLocked(now time.Duration) (busy bool, next time.Duration) {
	next = tick
	for a := g.delayed.head; a != nil; {
		after := a.next
		if a.t.readyAt <= now {
			g.delayed.remove(a)
			a.t.urgent = true // it has waited already
			g.enqueueLocked(a)
		} else {
			next = min(next, a.t.readyAt-now)
		}
		a = after
	}
	for _, l := range g.lanes {
		if a := l.current; a != nil && l.active && !a.t.decided && !a.cancelled {
			g.watchLocked(l, a, now)
		}
	}
	g.dispatchLocked()
	g.inflightSeen = g.inflight
	if wait := g.limiter.pausedUntil - now; wait > 0 {
		next = min(next, wait)
	}
	return g.inflight > 0 || g.delayed.head != nil || g.urgent.head != nil || g.ahead.head != nil, next
}

// watchLocked ends or hedges one running request if that is due. mu must be held.
func (g *gate) watchLocked(l *lane, a *attempt, now time.Duration) {
	up, completed, last := g.awakeTime(now), g.completed.Load(), l.last.Load()
	// The awake clock goes back when it subtracts lost time. Times that are then
	// in the future are set to the present.
	l.since = min(l.since, up)
	if last > int64(up) {
		l.last.CompareAndSwap(last, int64(up))
	}
	r := running{
		start: l.since, lastByte: min(time.Duration(last), up), got: l.got.Load(), want: l.want.Load(),
		others: max(g.inflight, g.inflightSeen) - 1, sinceStart: completed - l.completedAtStart, sinceByte: completed - l.completedAtByte.Load(),
	}
	if r.got >= leastGain {
		g.lastGood = max(g.lastGood, r.lastByte)
	}
	if err := g.e.opts.Retry.CheckProgress(&l.progress, up, r.lastByte, r.got); err != nil {
		a.cancelled = true
		l.cancel(err)
		return
	}
	t := a.t
	if t.urgent && up-r.lastByte >= max(lateHead, 2*g.pace.latency()) {
		t.owner.late()
	}
	h := &t.a[1]
	if a.hedge || h.lane != nil || h.queued() || t.fails.isLast(t.o.retryPolicy(), l.since) || !g.hedger.due(up, r) || !g.hedger.spend() {
		return
	}
	if t.spare == nil {
		// A hedge takes its buffer from the budget like any request. If the budget
		// is empty, memory is the bottleneck, and a second copy would not help.
		if t.spare = g.e.opts.Budget.TryGet(len(t.buf)); t.spare == nil {
			g.hedger.refund()
			return
		}
	}
	// The bytes that the first attempt has received are final. The hedge requests
	// the rest of the range, even if the first answer ends before the range does.
	from, end := int(a.off-t.off)+int(r.got), len(t.buf)
	if size, _ := t.o.known(); size >= 0 {
		end = int(min(int64(end), size-t.off))
	}
	if from >= end {
		g.hedger.refund()
		return
	}
	h.off, h.buf, h.fresh = t.off+int64(from), t.spare.Bytes()[from:end], true
	g.e.opts.Log.Debug("range hedged", "object", t.o.spec.Name, "offset", h.off, "after", now-l.started)
	g.enqueueLocked(h)
}
