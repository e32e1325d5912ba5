package ranges

import "sync/atomic"

// backlog counts the parts of a stream that have ended and are not delivered yet.
// The gate's goroutines add to it; the stream's consumer takes from it and waits.
type backlog struct {
	ended atomic.Int64
	// wakeAt is the number of ended parts at which the consumer, which waits for
	// the head, wants to be woken; 0 if it doesn't wait.
	wakeAt   atomic.Int64
	headLate atomic.Bool   // the head has received nothing for a while
	wake     chan struct{} // capacity 1
}

// partEnded adds a part.
func (b *backlog) partEnded() {
	n := b.ended.Add(1)
	if at := b.wakeAt.Load(); at > 0 && n >= at {
		signal(b.wake)
	}
}

// headIsLate records that the head is late, and wakes the consumer once for it.
func (b *backlog) headIsLate() {
	if !b.headLate.Swap(true) {
		signal(b.wake)
	}
}

// wakeWhen asks to be woken when n parts have ended, at once if they have.
func (b *backlog) wakeWhen(n int64) {
	b.wakeAt.Store(n)
	if b.ended.Load() >= n {
		signal(b.wake)
	}
}

// signal sends a token to a channel of capacity 1, unless it holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
