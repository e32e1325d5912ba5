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
	key  string
	done chan struct{}
	once sync.Once
}

// newFlights returns flights for at most limit waiters, nil for limit <= 0.
func newFlights(limit int) *flights {
	if limit <= 0 {
		return nil
	}
	return &flights{byKey: map[string]*flight{}, limit: limit}
}

// join returns the flight of key, and whether the caller leads it: a leader
// must call land. It returns nil when there are too many waiters already;
// then the caller fetches without being in a flight.
func (f *flights) join(key string) (fl *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.byKey[key]; fl != nil {
		if f.waiting >= f.limit {
			return nil, false
		}
		f.waiting++
		return fl, false
	}
	fl = &flight{key: key, done: make(chan struct{})}
	f.byKey[key] = fl
	return fl, true
}

// land ends fl and wakes its waiters. It may be called more than once.
func (f *flights) land(fl *flight) {
	fl.once.Do(func() {
		f.mu.Lock()
		delete(f.byKey, fl.key)
		f.mu.Unlock()
		close(fl.done)
	})
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

// inFlight is the key of a context value that marks everything that happens
// on behalf of a leader.
type inFlight struct{}

// leading returns ctx marked for a leader.
func leading(ctx context.Context) context.Context { return context.WithValue(ctx, inFlight{}, true) }

// mayWait reports whether a query with ctx may wait for a flight. A query
// that some plugin makes while it works for a leader (to resolve a CNAME, say)
// must not: it could wait for its own leader, or two leaders for one another.
func mayWait(ctx context.Context) bool { return ctx.Value(inFlight{}) == nil }
