package budget

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Budget is a byte budget and the pool of the buffers that it pays for. Make
// one with [New].
type Budget struct {
	limit int64

	mu    sync.Mutex // guards what follows; a leaf lock, nothing is called under it
	inUse int64      // reserved bytes, forced ones included
	idle  int64      // bytes of pooled buffers; inUse + idle <= max(limit, inUse)
	peak  int64      // largest inUse seen
	free  [classes][][]byte
	spare []*Buf // bookkeeping of released buffers, for reuse
	// waiters is the queue of blocked reservations, oldest first. Only the
	// head is ever granted by room; an account that holds nothing is granted
	// out of turn (see wake).
	waiters []*waiter
	pool    sync.Pool // *waiter
}

// waiter is one blocked reservation.
type waiter struct {
	n     int64
	acct  *Account // nil for a plain Acquire
	ready chan struct{}
}

// New returns a budget of limit bytes; limit <= 0 means [DefaultLimit].
func New(limit int64) *Budget {
	if limit <= 0 {
		limit = DefaultLimit()
	}
	b := &Budget{limit: limit}
	b.pool.New = func() any { return &waiter{ready: make(chan struct{}, 1)} }
	return b
}

var process = sync.OnceValue(func() *Budget { return New(0) })

// Process returns the budget that all packages of this process share when no
// other is given; it has [DefaultLimit] bytes.
func Process() *Budget { return process() }

// Limit returns the limit in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// InUse returns the bytes reserved now.
func (b *Budget) InUse() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.inUse }

// Peak returns the largest value that InUse ever had.
func (b *Budget) Peak() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.peak }

// Idle returns the bytes of pooled buffers that nobody uses.
func (b *Budget) Idle() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.idle }

// Acquire reserves n bytes, waiting for room. A request above the limit is
// granted when nothing else is reserved. The error is ctx's.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	return b.acquire(ctx, n, nil)
}

// TryAcquire reserves n bytes if there is room and nobody waits before us.
func (b *Budget) TryAcquire(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || !b.fits(n) {
		return false
	}
	b.take(n)
	return true
}

// Force reserves n bytes whether or not there is room.
func (b *Budget) Force(n int64) {
	b.mu.Lock()
	b.take(n)
	b.mu.Unlock()
}

// Release gives n reserved bytes back. It panics when more is released than
// was reserved: that is a bug of the caller, and counting on would hide it.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveBack(n)
}

func (b *Budget) giveBack(n int64) {
	b.inUse -= n
	if b.inUse < 0 {
		panic(fmt.Sprintf("budget: released %d bytes more than were reserved", -b.inUse))
	}
	b.wake()
}

// fits reports whether n more bytes stay within the limit. A reservation above
// the limit fits an empty budget, else it could never be granted.
func (b *Budget) fits(n int64) bool { return b.inUse+n <= b.limit || b.inUse == 0 }

// take counts n bytes as reserved and unmaps idle buffers that no longer fit
// beside them.
func (b *Budget) take(n int64) {
	b.inUse += n
	b.peak = max(b.peak, b.inUse)
	b.trim(max(0, b.limit-b.inUse))
}

func (b *Budget) acquire(ctx context.Context, n int64, acct *Account) error {
	b.mu.Lock()
	if (len(b.waiters) == 0 && b.fits(n)) || acct.empty() {
		b.take(n)
		acct.add(n)
		b.mu.Unlock()
		return nil
	}
	w := b.pool.Get().(*waiter)
	w.n, w.acct = n, acct
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()

	select {
	case <-w.ready:
		b.pool.Put(w)
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, o := range b.waiters {
		if o == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.pool.Put(w)
			b.wake() // we may have blocked a smaller one behind us
			return context.Cause(ctx)
		}
	}
	<-w.ready // granted between Done and the lock: hand it on
	b.pool.Put(w)
	acct.add(-n)
	b.giveBack(n)
	return context.Cause(ctx)
}

// wake grants waiters from the head while there is room, and every waiter
// whose account holds nothing (its own releases may have emptied it while it
// stood in line behind others).
func (b *Budget) wake() {
	kept := b.waiters[:0]
	blocked := false
	for _, w := range b.waiters {
		if (!blocked && b.fits(w.n)) || w.acct.empty() {
			b.take(w.n)
			w.acct.add(w.n)
			w.ready <- struct{}{}
			continue
		}
		blocked = true
		kept = append(kept, w)
	}
	clear(b.waiters[len(kept):])
	b.waiters = kept
}

// Account tracks what one ordered consumer holds of a budget. While it holds
// nothing, its next reservation is always granted.
type Account struct {
	b    *Budget
	held atomic.Int64 // written under b.mu, read anywhere
}

// Account returns a new account of b.
func (b *Budget) Account() *Account { return &Account{b: b} }

// Held returns the bytes of this account's buffers that are not yet released.
func (a *Account) Held() int64 { return a.held.Load() }

func (a *Account) empty() bool { return a != nil && a.held.Load() == 0 }

func (a *Account) add(n int64) {
	if a != nil {
		a.held.Add(n)
	}
}
