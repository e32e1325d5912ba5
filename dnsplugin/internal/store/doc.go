// Package store holds packed DNS answers under a bound of bytes. A read takes
// no lock and writes no shared memory that is not already as it wants it.
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
//   - key: the bytes that [wire.AppendKey] makes; compared whole on every hit,
//     so that no collision of hashes can answer with another name's data.
//   - entry: an answer with the time it was stored and how long it lives.
//     What readers look at is immutable; the counters in it are atomic.
//   - instant: nanoseconds since a moment of the caller's choice, from a
//     monotonic clock. The store never asks for the time itself.
//   - dead: past the instant from which an entry may not even be served stale.
//   - segment: a piece of memory that holds entries and no pointers.
//
// # How it works
//
// Entries are written one behind the other into segments of an arena, head
// first and bytes after. The collector sees one object without pointers for
// some hundreds of entries. A slot of the table holds a tag of the hash, the
// number of a segment and a place in it; each key has two buckets of eight
// slots, a cache line each. Writers lock one shard. A reader follows a slot to
// the segment of that number; if it is gone, the entry has moved meanwhile,
// and the slot says whereto. A segment that is given up stays with its last
// reader and is then freed by the collector: no memory is used twice.
//
// Eviction is S3-FIFO (evict.go), which walks over entries in the order in
// which they lie in memory. A hit counts up to three visits in the entry's
// head; the hottest entry costs no write at all. LRU would move the entry in
// a list on every hit and needs a lock for it; SIEVE takes entries from the
// middle of its queue, which leaves holes in an arena.
//
// The name is not stored apart from the answer: it is that of the question,
// compared without regard to case.
//
// # Concurrency
//
// All methods may be called from any number of goroutines.
//
// # Failure model
//
// Nothing here fails. An entry that is larger than a shard may hold is not
// stored. The bound covers segments and table; the collector's headroom, with
// the segments that it has not freed yet, comes on top (GOGC).
//
// # Not here
//
// TTL rules, negative answers, staleness: the caller decides them and says
// only when an entry is dead. Sizes are fixed at New.
package store
