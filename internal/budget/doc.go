// Package budget bounds the bytes that a process holds in flight.
//
// A [Budget] is two things at once: a counter of reserved bytes with a limit,
// and the pool of the buffers that those bytes pay for. Idle pooled buffers
// count against the limit too, so that reserved + idle <= limit holds whenever
// no reservation was forced; what a process keeps resident for data is
// therefore the limit, not a multiple of it.
//
//	b := budget.New(256 << 20)
//	acct := b.Account()
//	buf, err := acct.Get(ctx, 8<<20) // waits while the budget is spent
//	if err != nil {
//		return err
//	}
//	defer buf.Release()
//
// # Progress
//
// An [Account] belongs to one ordered consumer, a stream. (A reader at offsets has
// none: it takes what room there is and never waits.) The
// first buffer of an account is always granted, even above the limit: a reader
// that holds nothing can always take its smallest window, so no set of readers
// can deadlock on the budget. The overdraft is bounded by one buffer for each
// live account. Waiters are served first come, first served.
//
// # Memory
//
// Buffers of 256 KiB and more are mapped outside the Go heap on Linux. Inside
// the heap a live set of L bytes lets the collector wait until 2 L are
// allocated, which would double what the limit promises; outside, it is exact.
// The price is the usual one: a released buffer must not be touched again.
//
// # Concurrency
//
// All methods may be called from any number of goroutines.
package budget
