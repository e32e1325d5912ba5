// Package budget bounds the bytes that a process holds in flight.
//
// A [Budget] is a counter of reserved bytes with a limit, and the pool of the
// buffers that the bytes are reserved for. Idle pooled buffers count against the
// limit as well, so reserved + idle <= limit unless reservations alone exceed it
// (see Progress). A process therefore keeps about limit bytes of data resident,
// not a multiple of it.
//
//	b := budget.New(256 << 20)
//	acct := b.Account()
//	buf, err := acct.Get(ctx, 8<<20) // waits while the budget is used up
//	if err != nil {
//		return err
//	}
//	defer buf.Release()
//
// # Progress
//
// An [Account] belongs to one ordered consumer, such as a stream. The first buffer
// of an account is always granted, even above the limit. A stream that holds no
// buffer can therefore always continue, so streams can't deadlock on the budget.
// They exceed the limit by at most one buffer each. Other reservations are granted
// in the order of their arrival. A reader at random offsets has no account; it
// takes free bytes and never waits.
//
// # Memory
//
// Buffers of 256 KiB and more are mapped outside the Go heap on Linux, so the limit
// is exact. In the heap, the garbage collector lets L live bytes grow to 2 L before
// it runs. A mapped buffer must not be touched after its release, because the
// memory may have been unmapped.
//
// # Concurrency
//
// All methods are safe for concurrent use, unless their comments restrict it.
package budget
