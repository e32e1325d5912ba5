package ranges

import "time"

const (
	// tick is how often running requests are looked at: a tenth of the
	// shortest time after which a hedge is due.
	tick = 5 * time.Millisecond
	// idleTicks without anything to watch before the monitor sleeps: waking it
	// for each single read of an otherwise idle mount would cost more.
	idleTicks = 200
	// lateHead is how long the head of a stream may be silent before its other
	// slots are given more to do: longer than a receiver may sit on bytes (8 ms),
	// a fraction of the time until a hedge.
	lateHead = 15 * time.Millisecond
)

// monitor is the goroutine that looks at the clock for a gate: it queues
// retries whose pause is over, asks late requests again, and ends silent ones.
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
		busy, next := g.check(now)
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
		case <-g.wake: // closed; the loop's head sees it
		}
	}
}

// check does what the time asks for. It reports whether there is anything left
// to watch, and when to look again. The caller holds g.mu.
func (g *gate) check(now time.Duration) (busy bool, next time.Duration) {
	next = tick
	for a := g.delayed.head; a != nil; {
		after := a.next
		if a.t.readyAt <= now {
			g.delayed.remove(a)
			a.t.urgent = true // it has waited long enough
			g.push(a)
		} else {
			next = min(next, a.t.readyAt-now)
		}
		a = after
	}
	for _, l := range g.lanes {
		if a := l.current; a != nil && l.active && !a.t.decided && !a.cancelled {
			g.watch(l, a, now)
		}
	}
	g.dispatch()
	g.looked = g.inflight
	if wait := g.limiter.pausedUntil - now; wait > 0 {
		next = min(next, wait)
	}
	return g.inflight > 0 || g.delayed.head != nil || g.urgent.head != nil || g.ahead.head != nil, next
}

// watch looks at one running request.
func (g *gate) watch(l *lane, a *attempt, now time.Duration) {
	up, over, last := g.awakeTime(now), g.over.Load(), l.last.Load()
	// What happened before the clock was put back happened now.
	l.since = min(l.since, up)
	if last > int64(up) {
		l.last.CompareAndSwap(last, int64(up))
	}
	r := running{
		start: l.since, lastByte: min(time.Duration(last), up), got: l.got.Load(), want: l.want.Load(),
		others: max(g.inflight, g.looked) - 1, sinceStart: over - l.overStart, sinceByte: over - l.overByte.Load(),
	}
	if r.got >= leastGain {
		g.good = max(g.good, r.lastByte)
	}
	if err := g.e.opts.Retry.Over(&l.progress, up, r.lastByte, r.got); err != nil {
		a.cancelled = true
		l.cancel(err)
		return
	}
	t := a.t
	if t.urgent && up-r.lastByte >= max(lateHead, 2*g.pace.latency()) {
		t.owner.late()
	}
	h := &t.a[1]
	if a.hedge || h.lane != nil || h.queued() || !g.hedger.due(up, r) || !g.hedger.spend() {
		return
	}
	if t.spare == nil {
		// A hedge takes bytes from the budget like any request; when there are
		// none, memory is the bottleneck and a second copy would not help.
		if t.spare = g.e.opts.Budget.TryGet(len(t.buf)); t.spare == nil {
			g.hedger.refund()
			return
		}
	}
	// What the first attempt has received is final: the hedge asks for the rest of
	// the range, also when the answer to the first one ends before.
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
	g.push(h)
}
