// Package ranges moves byte ranges of remote objects into memory, in parallel and
// in order, within a memory budget, and never delivers a wrong byte. It is the one
// engine for image layers, S3 objects and files of a mount. It knows no protocol.
// A [Source] makes one request and classifies its errors; the engine does the
// rest.
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
// (ETag, version, digest). A part is the range of one request of a stream; the
// head is the part that the consumer needs next. A task is a range and the buffer
// that its bytes go into. An attempt is one request for a task, and a hedge is a
// second attempt that competes with a late one. A gate schedules the requests to
// one host: it has the queue, the limits and the lanes. A lane is a goroutine
// that makes one request at a time. A window is the number of bytes that may be
// fetched ahead of a consumer.
//
// # Verbs
//
// [Object.Fetch] fills the caller's buffer. [Object.Stream] delivers a span in
// order while its parts are fetched concurrently; [Stream.Next] hands out parts
// without copying them. [Object.Reader] reads at any offset. It fetches exactly
// the requested bytes while reads are random, and ahead of them once they are
// sequential.
//
// # Invariants
//
//   - Concurrent requests to a host, hedges included, <= limiter.limit <=
//     MaxConns.
//   - Bytes of buffers <= the budget + one part for each stream that holds no
//     other part. A Reader never exceeds the budget and never waits for it;
//     without room it reads into the caller's buffer.
//   - Hedges <= 1 + Hedge.Budget * requests.
//   - task.buf[:task.got] is final. A retry or a hedge requests the bytes after
//     it.
//   - Buffers are reserved in the order of offsets, before their requests are
//     queued, so a request that holds a slot never waits for memory.
//
// # Concurrency
//
// Engine, Object and Reader are safe for concurrent use; a Stream is for one
// goroutine. All objects of a host share its gate. The requests of a stream or
// reader end with its Close, and all goroutines with [Engine.Close]. Contexts
// bound the caller's wait. Requests run under contexts of the engine, so values of
// the caller's context don't reach the Source.
//
// # Failure model
//
// The Source classifies a failure (see [FaultKind]), and the engine reacts by
// [RetryPolicy]. Broken, silent and trickling bodies continue at the received
// offset, on a new connection, for as long as an outage may last. Throttled hosts
// get fewer requests. A read fails with [ErrChanged] after two answers with
// another validator, or one 412. An answer that doesn't fit the object and has no
// validator is a failed attempt. A failed read doesn't affect later reads. Final
// failures are returned as an [*Error], which names the object, range, attempts
// and status.
//
// # Purity
//
// Files with the line //penstock:pure decide, and the other files act. A pure
// file has no clock, no I/O and no lock; it takes the time and random numbers as
// arguments, so scripts in testdata test its decisions. A test in internal/lint
// checks the marker.
//
// # Non-goals
//
// Writing, caching, listing, and anything that spans objects.
package ranges
