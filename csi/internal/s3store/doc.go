// Package s3store is a bucket of S3 as the file-system core wants it: heads and listings by internal/s3, reads by the
// range engine, one window of its own for each open file.
//
//	store := s3store.New(client, engine, "bucket")
//	core := fs.New(store, fs.Options{Prefix: "data/"})
//
// # Consistency
//
// A reader is pinned to the ETag it was opened with: every GET carries it as If-Match, and an answer with another one
// is [fs.ErrChanged], never data.
//
// # Concurrency and failure
//
// A [Store] is safe for parallel use and holds no goroutine; readers end theirs in Close. Requests are repeated below
// (heads and listings by the client, reads by the engine), so an error is final. It keeps the message of the layer that
// made it and matches the sentinels of the core.
//
// # Non-goals
//
// It owns neither client nor engine, caches nothing, writes nothing.
package s3store
