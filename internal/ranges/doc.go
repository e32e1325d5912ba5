// Package ranges moves byte ranges of remote objects into memory: in parallel,
// in order, bounded, and never a wrong byte. It is the one engine under images,
// S3 objects and files of a mount. It knows no protocol: whoever implements
// [Source] (one request, errors classified) gets the rest.
//
//	e, err := ranges.New(ranges.Options{})
//	defer e.Close()
//	o := e.Object(src, ranges.Spec{Name: "s3://b/k", Host: "s3", Size: -1})
//	s := o.Stream(ctx, 0, -1, ranges.StreamOptions{})
//	defer s.Close()
//	n, err := io.Copy(dst, s)
//
// # Vocabulary
//
// An object is one immutable version of something remote, pinned by a validator
// (ETag, version, digest). A part is what one request of a stream asks for. A
// task is a range and the buffer that it goes into; an attempt is one request
// for it; a hedge is a second attempt beside a late one. A gate is the door to a
// host: queue, limits and lanes; a lane is a goroutine that makes one request at
// a time. The window is how far a reader runs ahead of its consumer.
//
// # Verbs
//
// [Object.Fetch] fills the caller's buffer. [Object.Stream] delivers a span in
// order while its parts are fetched at the same time; [Stream.Next] hands out
// parts without copying them. [Object.Reader] reads at any offset: exactly what
// is asked for while reads are random, ahead of them once they are sequential.
//
// # Invariants
//
//   - Requests at once to a host <= limiter.limit <= MaxConns, hedges included.
//   - Bytes of buffers <= the budget + one part for each stream that holds
//     nothing else. A Reader never exceeds the budget and never waits for it:
//     without room it reads into the caller's buffer.
//   - Hedges <= 1 + Hedge.Budget * requests.
//   - task.buf[:task.got] is final: nobody writes it again, a retry or a hedge
//     asks for what follows.
//   - A buffer is reserved before its request is queued, in the order of
//     offsets: a request that holds a slot never waits for memory.
//
// # Concurrency
//
// Engine, Object and Reader may be used from any number of goroutines, a Stream
// by one. All objects of a host share its gate. Everything that is started ends
// with Close of its reader, and all goroutines with Engine.Close. Contexts bound
// the caller's wait; requests run under contexts of the engine, so values of the
// caller's context do not reach the Source.
//
// # Failure model
//
// The Source says what a failure is (see [FaultKind]); the engine decides what
// follows, by [RetryPolicy]. Broken, silent and trickling bodies continue at the
// received offset, on a new connection, for as long as an outage may last.
// Throttled hosts get fewer requests. A read whose answers have another validator
// fails with [ErrChanged]: two answers, or one 412. An answer that does not fit and
// proves nothing is a failed attempt, and no verdict outlives its read. What can't
// be mended comes back as an [*Error] that names object, range, attempts and status.
//
// # Not here
//
// Writing, caching, listing, and anything that spans objects.
package ranges
