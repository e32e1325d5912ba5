package dnsplugin

import (
	"context"
	"sync"
	"time"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// flightWait is how long a query waits for another query's answer before it
// asks the source itself. Stub resolvers give up after 5 s (RES_TIMEOUT).
const flightWait = 5 * time.Second

// flights lets the first query of a key fetch while the others of that key
// wait. It bounds the waiters, but not the flights, because each flight is a
// goroutine that the server has already started.
type flights struct {
	mu      sync.Mutex // guards all below; held for map operations only
	byKey   map[string]*flight
	waiting int
	limit   int
}

// flight is one running fetch. done is closed when its answer is stored, or
// when it has failed to bring an answer that can be shared.
type flight struct {
	key    string
	since  time.Time
	before *flight // a slower one of the same key; the answer is for its waiters as well
	done   chan struct{}
	once   sync.Once
}

// newFlights returns flights for at most limit waiters, or nil if limit <= 0.
func newFlights(limit int) *flights {
	if limit <= 0 {
		return nil
	}
	return &flights{byKey: map[string]*flight{}, limit: limit}
}

// join returns the flight of key and whether the caller leads it. A leader must
// call finish. A flight that is older than sides.LeadFor accepts no more waiters, and
// a query that asks again never waits. join returns nil if there are too many
// waiters; the caller then fetches outside of any flight.
func (f *flights) join(key string, again bool, now time.Time) (fl *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.byKey[key]
	if fl := before; fl != nil && !again && now.Sub(fl.since) < sides.LeadFor {
		if f.waiting >= f.limit {
			return nil, false
		}
		f.waiting++
		return fl, false
	}
	fl = &flight{key: key, since: now, before: before, done: make(chan struct{})}
	f.byKey[key] = fl
	return fl, true
}

// finish ends fl and the slower flights before it, and wakes their waiters. It
// may be called more than once.
func (f *flights) finish(fl *flight) {
	for ; fl != nil; fl = fl.before {
		fl.once.Do(func() {
			f.mu.Lock()
			if f.byKey[fl.key] == fl {
				delete(f.byKey, fl.key)
			}
			f.mu.Unlock()
			close(fl.done)
		})
	}
}

// wait returns when fl is finished, ctx has ended or flightWait is over.
func (f *flights) wait(ctx context.Context, fl *flight) {
	t := time.NewTimer(flightWait)
	defer t.Stop()
	select {
	case <-fl.done:
	case <-ctx.Done():
	case <-t.C:
	}
	f.mu.Lock()
	f.waiting--
	f.mu.Unlock()
}

// inFlight is the key of a context value that marks all work on behalf of a
// leader.
type inFlight struct{}

// leading returns ctx marked for a leader.
func leading(ctx context.Context) context.Context { return context.WithValue(ctx, inFlight{}, true) }

// mayWait reports whether a query with ctx may wait for a flight. A query that
// a plugin makes while it works for a leader, for example to resolve a CNAME,
// may not: it could wait for its own leader, or two leaders for each other.
func mayWait(ctx context.Context) bool { return ctx.Value(inFlight{}) == nil }
