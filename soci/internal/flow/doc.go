// Package flow fetches layers and unpacks them in one pass: every byte is
// received once, hashed, inflated, hashed again and written.
//
//	f := flow.New(flow.Options{Client: client, Engine: engine, Memory: mem, ...})
//	res, err := f.Fetch(ctx, flow.Request{Ref: ref, Layer: layer, Window: w}, target)
//	f.Close()
//
// # Pipeline
//
//	ranges -> [fetch: digest, copy] -> [inflate] -> [DiffID]
//	                                            \-> [untar] -> writers of the pool
//
// Each box is a goroutine of a pipeline, each arrow a bounded queue. There is
// one untar for each Target.
//
// The pipeline cannot deadlock. fetch waits for the engine, which always grants
// a stream its first part, or for inflate. inflate waits for fetch or for a
// free block. A block is free once DiffID and every untar have released it.
// DiffID waits only for blocks; untar waits for blocks and for the writers,
// which wait only for the kernel.
//
// # Vocabulary
//
// A transfer is one layer being fetched for any number of targets. It runs one
// pipeline, or several in sequence if a host sent wrong bytes. A block is a
// piece of the tar; a part is one ranged request.
//
// # Rules
//
//   - Requests for the same layer of the same repository share a transfer until
//     its first block is out. A resumed layer has a transfer of its own,
//     because other targets need the bytes before the checkpoint.
//   - A target succeeds only if the digest and the size of the blob and the
//     DiffID of the tar are right.
//   - A panic on the bytes of a layer fails that layer only
//     (docs/decisions/0005-panics.md).
//
// # Concurrency and failures
//
// A Fetcher may be used from many goroutines. Errors wrap *ranges.Error,
// ErrDigest, inflate.ErrCorrupt and the errors of package untar.
//
// # Not done here
//
// Resolving images, merging layers, and the directories of a pull.
package flow
