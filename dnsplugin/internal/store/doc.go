// Package store holds packed DNS answers under a bound of bytes. A read takes
// no lock and writes no shared memory that is not already as it wants it.
//
//	s := store.New(store.Options{Bytes: 32 << 20})
//	h := s.Hash(key)
//	if e := s.Get(h, key, now); e != nil {
//		serve(e)
//	}
//	evicted := s.Put(h, key, store.NewEntry(answer, now, ttl, usableFor), now)
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
//   - cost: the bytes an entry is charged for: its key, its answer, and the
//     structures that hold them.
//
// # How it works
//
// The table is an array of bucket heads (atomic pointers), sized once from
// the byte bound; nodes of a bucket form a list. Writers lock one shard, which
// owns a range of the buckets; readers follow pointers. A node that is
// unlinked keeps its own next pointer, so a reader that stands on it finishes
// its walk, and the collector frees it later.
//
// Eviction is SIEVE (Zhang et al., NSDI 2024): one queue in order of arrival
// and a hand that passes over visited entries, clearing the mark, and takes
// the first unvisited one. A hit only sets the mark, and only if it is clear:
// the hottest entry costs no write at all. LRU would move the entry in a list
// on every hit and needs a lock for it; S3-FIFO resists scans somewhat better
// but keeps three queues and a ghost table per shard.
//
// # Concurrency
//
// All methods may be called from any number of goroutines.
//
// # Failure model
//
// Nothing here fails. An entry that is larger than a shard may hold is not
// stored. The bound counts bytes by calculation, not by asking the runtime:
// the collector's headroom comes on top (GOGC).
//
// # Not here
//
// TTL rules, negative answers, staleness: the caller decides them and says
// only when an entry is dead. Sizes are fixed at New.
package store
