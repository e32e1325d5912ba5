package dnsplugin

import (
	"context"
	"sync"
	"time"
)

// flightWait is how long a query waits for another one's answer before it
// asks by itself. Stub resolvers give up after 5 s (RES_TIMEOUT), so later
// nobody listens any more.
const flightWait = 5 * time.Second

// leadFor is how long a query may lead the others of its key alone. The source
// may have dropped it, so from then on the next query asks as well. A source
// that is merely slow gets one question more a second for the name.
const leadFor = time.Second

// flights lets the first query of a key fetch and the others of that key wait
// for it. It bounds the waiters, not the flights: each flight is a goroutine
// that the server has started anyway.
type flights struct {
	mu      sync.Mutex // guards all below; held for map operations only
	byKey   map[string]*flight
	waiting int
	limit   int
}

// flight is one fetch under way. done is closed when its answer is stored, or
// when it is certain that there is none to share.
type flight struct {
	key    string
	since  time.Time
	before *flight // a slower one of the same key, whose waiters this one's answer is for as well
	done   chan struct{}
	once   sync.Once
}

// newFlights returns flights for at most limit waiters, nil for limit <= 0.
func newFlights(limit int) *flights {
	if limit <= 0 {
		return nil
	}
	return &flights{byKey: map[string]*flight{}, limit: limit}
}

// join returns the flight of key, and whether the caller leads it: a leader
// must call land. A flight that has lasted for leadFor gets no more waiters,
// and one that asks again never waits. It returns nil when there are too many
// waiters already; then the caller fetches without being in a flight.
func (f *flights) join(key string, again bool, now time.Time) (fl *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.byKey[key]
	if fl := before; fl != nil && !again && now.Sub(fl.since) < leadFor {
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

// land ends fl, and those before it, and wakes the waiters. It may be called
// more than once.
func (f *flights) land(fl *flight) {
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

// wait returns when fl has landed, ctx has ended or flightWait is over.
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

// askAgain is the key of a context value that marks a query which asks although
// another one of its key is on its way.
type askAgain struct{}

// again returns ctx with that mark.
func again(ctx context.Context) context.Context { return context.WithValue(ctx, askAgain{}, true) }

// inFlight is the key of a context value that marks everything that happens
// on behalf of a leader.
type inFlight struct{}

// leading returns ctx marked for a leader.
func leading(ctx context.Context) context.Context { return context.WithValue(ctx, inFlight{}, true) }

// mayWait reports whether a query with ctx may wait for a flight. A query
// that some plugin makes while it works for a leader (to resolve a CNAME, say)
// must not: it could wait for its own leader, or two leaders for one another.
func mayWait(ctx context.Context) bool { return ctx.Value(inFlight{}) == nil }
