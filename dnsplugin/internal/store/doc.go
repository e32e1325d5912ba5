// Package store holds packed DNS answers within a bound of bytes. A read takes
// no lock, and writes shared memory only to count the first visits of an entry.
//
//	s := store.New(store.Options{Bytes: 32 << 20})
//	h := s.Hash(key)
//	if e := s.Get(h, key, now); e != nil {
//		serve(e)
//	}
//	e, evicted := s.Put(h, key, store.NewRecord(answer, now, ttl, usableFor), now)
//
// # Vocabulary
//
//   - key: the bytes that [wire.AppendKey] makes. They are compared whole on
//     every hit, so that a collision of hashes cannot return another name's
//     data.
//   - entry: an answer with the time at which it was stored and its lifetime.
//     An entry is immutable but for its counters, which are atomic.
//   - instant: nanoseconds since a moment of the caller's choice, from a
//     monotonic clock. The store does not read the time.
//   - dead: past the instant after which an entry must not be served, not even
//     stale.
//   - segment: a piece of memory that holds entries and no pointers.
//
// # How it works
//
// Entries are written one after the other into segments of an arena, each with
// its head before its bytes. The collector scans one object without pointers
// for hundreds of entries. A slot of the table holds a tag of the hash, the
// number of a segment and a place in it. Each key has two buckets of eight
// slots, a cache line each. Writers lock one shard. A reader follows a slot to
// the segment with its number. If the segment is gone, the entry has moved, and
// the slot has its new place. The collector frees a segment when its last
// reader has finished, so memory is not reused earlier.
//
// Eviction is S3-FIFO (evict.go), which visits entries in the order of their
// addresses. A hit counts up to three visits in the entry's head, so a hot
// entry costs no further writes. LRU would move the entry in a list on every
// hit, under a lock. SIEVE removes entries from the middle of its queue, which
// leaves holes in an arena.
//
// The name is not stored separately: the question of the answer has it, and the
// comparison ignores case.
//
// # Concurrency
//
// All methods are safe for concurrent use.
//
// # Limits
//
// No method fails. An entry that is too large for a shard is not stored. The
// bound covers segments and table. The collector's headroom (GOGC), which
// includes the segments that it has not freed yet, is not part of it. Sizes are
// fixed by New.
//
// The caller applies the rules of TTLs, negative answers and staleness; the
// store only knows when an entry is dead.
package store
