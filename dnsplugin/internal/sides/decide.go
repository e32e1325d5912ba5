package sides

import (
	"time"

	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// Decide returns the action for a query that e answers at the instant at, the
// TTL of a reply from e, and whether it is stale. e is nil if no entry answers
// the query. It counts the hit if prefetching is on, and writes nothing else.
func (s *Sides) Decide(e *store.Entry, at store.Instant) (action Action, ttl uint32, stale bool) {
	if e == nil {
		return Ask, 0, false
	}
	f := Facts{Left: e.Left(at), TTL: e.TTL, Attempt: attemptOf(e, at)}
	if f.Left > 0 && s.Prefetch.Amount > 0 {
		f.Hits = s.countHit(e, at)
	}
	return s.Policy.Decide(f)
}

// Peek is Decide for a caller that does not answer the query itself: it counts
// no hit, so it does not see whether the entry is due for a prefetch.
func (s *Sides) Peek(e *store.Entry, at store.Instant) Action {
	if e == nil {
		return Ask
	}
	action, _, _ := s.Policy.Decide(Facts{Left: e.Left(at), TTL: e.TTL, Attempt: attemptOf(e, at)})
	return action
}

func attemptOf(e *store.Entry, at store.Instant) Attempt {
	switch {
	case e.Refreshing.Load():
		return Running
	case store.Instant(e.RetryAfter.Load()) > at:
		return Paused
	}
	return NoAttempt
}

// sampleEvery is how often hits of an entry that is already popular are noted.
// Counting each would make all cores write to the most-used entries all the
// time. It makes a gap between hits look longer by at most this much.
const sampleEvery = time.Second

// countHit counts a hit on e and returns the number of hits without a gap that
// is too long. It takes no lock, and writes to a popular entry only once per
// Sampling.
func (s *Sides) countHit(e *store.Entry, at store.Instant) uint32 {
	hits, last := e.Hits.Load(), store.Instant(e.LastHit.Load())
	switch {
	case last < at-store.Instant(s.Prefetch.Duration) && e.LastHit.CompareAndSwap(int64(last), int64(at)):
		e.Hits.Store(1)
		hits = 1
	case int64(hits) < int64(s.Prefetch.Amount):
		e.LastHit.Store(int64(at))
		hits = e.Hits.Add(1)
	case at-last >= s.Sampling:
		e.LastHit.Store(int64(at))
	}
	return hits
}

// Claim claims the refresh of e and reports whether the caller may run it; the
// caller then calls [Sides.Release]. At most one refresh of an entry runs at a
// time, so their number is bounded by distinct entries, not by queries. A stale
// entry is not claimed during the pause after a failed refresh.
func (s *Sides) Claim(e *store.Entry, at store.Instant, stale bool) bool {
	paused := func() bool { return stale && s.Stale.Recheck > 0 && store.Instant(e.RetryAfter.Load()) > at }
	if paused() || !e.Refreshing.CompareAndSwap(false, true) {
		return false
	}
	if paused() { // another refresh failed since the first look
		e.Refreshing.Store(false)
		return false
	}
	return true
}

// Unclaim gives back a claim without having tried.
func (s *Sides) Unclaim(e *store.Entry) { e.Refreshing.Store(false) }

// Release ends the refresh of e, whose question is id. If e was stale and the
// refresh failed, no other starts for the recheck pause. Eviction may have
// moved the entry in the meantime, so the pause applies to its copy as well.
func (s *Sides) Release(e *store.Entry, id *Ident, at store.Instant, stale, refreshed bool) {
	after := int64(0)
	pause := stale && s.Stale.Recheck > 0 && !refreshed
	if pause {
		after = int64(at.Add(s.Stale.Recheck))
	}
	// In this order: a caller that claims next must see the pause.
	e.RetryAfter.Store(after)
	e.Refreshing.Store(false)
	if !pause {
		return
	}
	// A later response that did not count as a refresh has no pause of its own.
	if moved, _ := s.Lookup(id, at); moved != nil && moved != e && moved.Stored == e.Stored {
		moved.RetryAfter.Store(after)
	}
}
