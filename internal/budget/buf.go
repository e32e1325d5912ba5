package budget

import (
	"context"
	"math/bits"
	"sync/atomic"

	"github.com/penstock/penstock/internal/invariants"
)

const (
	// minClassBits makes 16 KiB the smallest buffer. Below it the bookkeeping costs
	// more than the memory.
	minClassBits = 14
	// Four sizes for each power of two waste at most a fifth of a buffer. They go
	// up to 2^40 bytes, far above any part.
	stepsPerDouble = 4
	classes        = (40 - minClassBits) * stepsPerDouble
	// mapAbove is the size from which buffers live outside the Go heap. Smaller
	// ones aren't worth a memory mapping each.
	mapAbove = 256 << 10
)

// classOf returns the size class of a buffer of n bytes, and the size of the class.
func classOf(n int) (class, size int) {
	if n <= 1<<minClassBits {
		return 0, 1 << minClassBits
	}
	top := bits.Len(uint(n-1)) - 1 // 2^top < n <= 2^(top+1)
	quarter := 1 << top / stepsPerDouble
	steps := (n - 1<<top + quarter - 1) / quarter // 1..4
	return (top-minClassBits)*stepsPerDouble + steps, 1<<top + steps*quarter
}

// Buf is a reference-counted buffer. It starts with one reference; the last
// Release returns it to the pool, after which its bytes must not be touched.
//
// Its bytes are reserved from the start, but it gets memory in the first call of
// Bytes. A hundred queued requests hold a hundred reservations, and the few that
// run share the few pieces of memory that are warm in the cache.
type Buf struct {
	b     *Budget
	acct  *Account
	mem   []byte // whole capacity; nil until Bytes is called
	n     int    // length
	size  int    // reserved bytes
	class int
	refs  atomic.Int32
}

// Len returns the number of bytes.
func (f *Buf) Len() int { return f.n }

// Bytes returns the buffer's Len bytes, which are valid until the last Release. The
// first call must have returned before another goroutine calls Bytes.
func (f *Buf) Bytes() []byte {
	if f.mem == nil {
		f.mem = f.b.memory(f.class, f.size)
	}
	return f.mem[:f.n]
}

// Truncate shortens the buffer to n bytes. It panics if n is above Len.
func (f *Buf) Truncate(n int) {
	if n > f.n {
		panic("budget: Truncate beyond the length of the buffer")
	}
	f.n = n
}

// Retain adds a reference.
func (f *Buf) Retain() {
	if f.refs.Add(1) <= 1 {
		panic("budget: Retain of a released buffer")
	}
}

// Release drops a reference. The last one returns the buffer.
func (f *Buf) Release() {
	switch n := f.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("budget: buffer released twice")
	}
	b, acct, size, mem := f.b, f.acct, int64(f.size), f.mem
	f.acct, f.mem = nil, nil
	invariants.Poison(mem)
	b.mu.Lock()
	defer b.mu.Unlock()
	acct.add(-size)
	b.inUse -= size
	if mem != nil {
		b.free[f.class] = append(b.free[f.class], mem)
		b.idle += size
	}
	b.spare = append(b.spare, f)
	b.wakeLocked() // may reserve the freed bytes, and so trim the pool
	b.trimLocked(max(0, b.limit-b.inUse))
}

// Get reserves and returns a buffer of n bytes. It waits until the buffer fits.
func (b *Budget) Get(ctx context.Context, n int) (*Buf, error) {
	class, size := classOf(n)
	if err := b.acquire(ctx, int64(size), nil); err != nil {
		return nil, err
	}
	return b.make(class, size, n, nil), nil
}

// TryGet is Get without waiting. It returns nil if the buffer doesn't fit.
func (b *Budget) TryGet(n int) *Buf {
	class, size := classOf(n)
	if !b.TryAcquire(int64(size)) {
		return nil
	}
	return b.make(class, size, n, nil)
}

// MustGet is Get without waiting. It always returns a buffer, and may exceed the
// limit.
func (b *Budget) MustGet(n int) *Buf {
	class, size := classOf(n)
	b.Force(int64(size))
	return b.make(class, size, n, nil)
}

// Get reserves and returns a buffer of n bytes. It waits until the buffer fits,
// unless the account holds nothing.
func (a *Account) Get(ctx context.Context, n int) (*Buf, error) {
	class, size := classOf(n)
	if err := a.b.acquire(ctx, int64(size), a); err != nil {
		return nil, err
	}
	return a.b.make(class, size, n, a), nil
}

// TryGet is Get without waiting. It returns nil if the buffer doesn't fit. An
// account that holds nothing always gets its buffer.
func (a *Account) TryGet(n int) *Buf {
	class, size := classOf(n)
	b := a.b
	b.mu.Lock()
	if !(len(b.waiters) == 0 && b.fitsLocked(int64(size))) && !a.empty() {
		b.mu.Unlock()
		return nil
	}
	b.takeLocked(int64(size))
	a.add(int64(size))
	b.mu.Unlock()
	return b.make(class, size, n, a)
}

// make returns a buffer for bytes that are reserved already.
func (b *Budget) make(class, size, n int, acct *Account) *Buf {
	b.mu.Lock()
	var f *Buf
	if l := len(b.spare); l > 0 {
		f = b.spare[l-1]
		b.spare[l-1] = nil
		b.spare = b.spare[:l-1]
	}
	b.mu.Unlock()
	if f == nil {
		f = &Buf{b: b}
	}
	f.class, f.size, f.n, f.acct = class, size, n, acct
	f.refs.Store(1)
	return f
}

// memory returns pooled or new memory of a class. It prefers the most recently used
// memory, which may still be in the cache.
func (b *Budget) memory(class, size int) []byte {
	b.mu.Lock()
	var m []byte
	if l := len(b.free[class]); l > 0 {
		m = b.free[class][l-1]
		b.free[class][l-1] = nil
		b.free[class] = b.free[class][:l-1]
		b.idle -= int64(size)
	}
	b.mu.Unlock()
	if m == nil {
		m = alloc(size)
	}
	return m
}

// Trim returns all idle buffers to the system.
func (b *Budget) Trim() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trimLocked(0)
}

// trimLocked unmaps idle buffers, largest class first, until at most keep idle
// bytes remain. mu must be held.
func (b *Budget) trimLocked(keep int64) {
	for class := classes - 1; class >= 0 && b.idle > keep; class-- {
		l := b.free[class]
		for len(l) > 0 && b.idle > keep {
			m := l[len(l)-1]
			l[len(l)-1] = nil
			l = l[:len(l)-1]
			b.idle -= int64(len(m))
			free(m)
		}
		b.free[class] = l
	}
}
