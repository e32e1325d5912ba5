package budget

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Budget is a limit on reserved bytes, and the pool of the buffers that the bytes
// are reserved for. It is safe for concurrent use. Make one with [New].
type Budget struct {
	limit int64

	mu    sync.Mutex // guards the fields below; a leaf lock
	inUse int64      // reserved bytes, including forced ones
	idle  int64      // bytes of pooled buffers; inUse + idle <= max(limit, inUse)
	peak  int64      // largest inUse so far
	free  [classes][][]byte
	spare []*Buf // released Bufs, for reuse
	// waiters is the queue of blocked reservations, oldest first. Free bytes go to
	// its head only; an account that holds nothing doesn't wait for its turn (see
	// wakeLocked).
	waiters []*waiter
	pool    sync.Pool // *waiter
}

// waiter is one blocked reservation.
type waiter struct {
	n     int64
	acct  *Account // nil for a plain Acquire
	ready chan struct{}
}

// New returns a budget of limit bytes; a limit <= 0 means [DefaultLimit].
func New(limit int64) *Budget {
	if limit <= 0 {
		limit = DefaultLimit()
	}
	b := &Budget{limit: limit}
	b.pool.New = func() any { return &waiter{ready: make(chan struct{}, 1)} }
	return b
}

var process = sync.OnceValue(func() *Budget { return New(0) })

// Process returns the budget of the process, which packages use if their options
// name no other one. It has [DefaultLimit] bytes.
func Process() *Budget { return process() }

// Limit returns the limit in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// InUse returns the number of reserved bytes.
func (b *Budget) InUse() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.inUse }

// Peak returns the largest value that InUse ever had.
func (b *Budget) Peak() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.peak }

// Idle returns the number of bytes of unused pooled buffers.
func (b *Budget) Idle() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.idle }

// Acquire reserves n bytes and waits until they fit. A reservation above the limit
// is granted when no other byte is reserved. The error is the cause of ctx.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	return b.acquire(ctx, n, nil)
}

// TryAcquire reserves n bytes if they fit and no other reservation waits.
func (b *Budget) TryAcquire(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || !b.fitsLocked(n) {
		return false
	}
	b.takeLocked(n)
	return true
}

// Force reserves n bytes even above the limit.
func (b *Budget) Force(n int64) {
	b.mu.Lock()
	b.takeLocked(n)
	b.mu.Unlock()
}

// Release returns n reserved bytes. It panics if fewer than n bytes are reserved,
// because that is a bug of the caller.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked(n)
}

// releaseLocked is Release with mu held.
func (b *Budget) releaseLocked(n int64) {
	b.inUse -= n
	if b.inUse < 0 {
		panic(fmt.Sprintf("budget: released %d bytes more than were reserved", -b.inUse))
	}
	b.wakeLocked()
}

// fitsLocked reports whether n more bytes stay within the limit. A reservation
// above the limit fits into an empty budget, because it could never be granted
// otherwise. mu must be held.
func (b *Budget) fitsLocked(n int64) bool { return b.inUse+n <= b.limit || b.inUse == 0 }

// takeLocked reserves n bytes, and unmaps idle buffers until reserved and idle
// bytes together are within the limit. mu must be held.
func (b *Budget) takeLocked(n int64) {
	b.inUse += n
	b.peak = max(b.peak, b.inUse)
	b.trimLocked(max(0, b.limit-b.inUse))
}

// acquire is Acquire for an account, which may be nil.
func (b *Budget) acquire(ctx context.Context, n int64, acct *Account) error {
	b.mu.Lock()
	if (len(b.waiters) == 0 && b.fitsLocked(n)) || acct.empty() {
		b.takeLocked(n)
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
			b.wakeLocked() // this waiter may have blocked smaller ones
			return context.Cause(ctx)
		}
	}
	<-w.ready // the bytes were granted before the lock was taken, so give them back
	b.pool.Put(w)
	acct.add(-n)
	b.releaseLocked(n)
	return context.Cause(ctx)
}

// wakeLocked grants waiters from the head while they fit, and every waiter whose
// account holds nothing; an account may have released its buffers while it waited.
// mu must be held.
func (b *Budget) wakeLocked() {
	kept := b.waiters[:0]
	blocked := false
	for _, w := range b.waiters {
		if (!blocked && b.fitsLocked(w.n)) || w.acct.empty() {
			b.takeLocked(w.n)
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

// Account counts the bytes that one ordered consumer holds of a budget. While it
// holds nothing, its next reservation is always granted.
type Account struct {
	b    *Budget
	held atomic.Int64 // written under b.mu, read anywhere
}

// Account returns a new account of b.
func (b *Budget) Account() *Account { return &Account{b: b} }

// Held returns the number of bytes in unreleased buffers of the account.
func (a *Account) Held() int64 { return a.held.Load() }

func (a *Account) empty() bool { return a != nil && a.held.Load() == 0 }

func (a *Account) add(n int64) {
	if a != nil {
		a.held.Add(n)
	}
}
