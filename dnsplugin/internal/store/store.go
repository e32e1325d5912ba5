package store

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// DefaultBytes holds about 60,000 answers of a cluster's mix, six times the
	// default of one side of CoreDNS's cache. With both sides full, and the
	// same amount as the collector's headroom (GOGC=100), CoreDNS stays within
	// the 170 MiB of its usual deployment.
	DefaultBytes = 16 << 20

	// MinBytes has room for a few of the largest messages (64 KiB).
	MinBytes = 1 << 20

	// bytesPerSlot sizes the table, which takes 4 % of the bound. Small answers
	// take 200 to 260 bytes, so the table always has slots left.
	bytesPerSlot = 192

	// shardBytes and shardEntries are the size of the smallest shard. It must
	// hold several of the largest messages, and uneven hashing must not cost
	// capacity (3 sigma of 1,024 entries are 10 %).
	shardBytes   = 1 << 20
	shardEntries = 1024

	// maxShards bounds the writers that run at once. Writes happen on misses,
	// which are thousands of times rarer than reads, and take microseconds.
	maxShards = 64

	// segmentsPerShard is the number of segments of a shard. Eviction frees
	// memory by the segment, so one of them is always being emptied.
	segmentsPerShard = 32
	maxSegmentWords  = 1 << 17 // 1 MiB, so that emptying one is quick
	minSegmentWords  = 1 << 9  // 4 KiB

	// Variant is a bit in the first byte of a key that wire.AppendKey does not
	// use. With it the owner may keep a second entry of a question.
	Variant = 1 << 7
)

// Options are the options of a Store. The zero value is ready for use.
type Options struct {
	Bytes   int64 // bound of the memory, index included; 0 means DefaultBytes
	Entries int   // bound of the number of entries; 0 means no bound but Bytes

	// Seed is the seed of the hashes, for stores that share them. The zero Seed
	// means a seed of the store's own.
	Seed maphash.Seed
}

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	if o.Bytes != 0 && o.Bytes < MinBytes {
		return fmt.Errorf("store: %d bytes are too few: give at least %d (1 MiB), or 0 for the default of %d", o.Bytes, MinBytes, DefaultBytes)
	}
	if o.Entries < 0 {
		return fmt.Errorf("store: %d entries: give a positive number, or 0 for no bound", o.Entries)
	}
	return nil
}

// Store is a cache of entries. Make one with New.
type Store struct {
	seed   maphash.Seed
	shards []shard // a power of two
}

type slotPlace = atomic.Uint64

// shard is the store of a part of the hashes. It is padded so that the writers
// of two shards do not write to one cache line (128 bytes, because adjacent
// lines are fetched in pairs).
type shard struct {
	// Constant after New. The elements of the slices are guarded by mu.
	table        []bucket
	ring         []atomic.Pointer[segment] // by sequence number; a power of two
	maxBytes     int64                     // of segments
	maxEntries   int
	segmentWords int
	_            [128]byte

	mu          sync.Mutex // guards all below and the writes to all above
	small, main queue
	ghost       []uint32 // hashes of entries evicted from the small queue, by hash; a later one replaces an earlier one
	seq         uint32   // of the latest segment

	bytes   atomic.Int64 // written with mu held, read without it
	entries atomic.Int64 // likewise
	_       [64]byte
}

// New returns an empty store. It panics if opts are invalid.
func New(opts Options) *Store {
	if err := opts.Validate(); err != nil {
		panic(err)
	}
	if opts.Bytes == 0 {
		opts.Bytes = DefaultBytes
	}
	if opts.Seed == (maphash.Seed{}) {
		opts.Seed = maphash.MakeSeed()
	}
	shards := min(maxShards, opts.Bytes/shardBytes)
	if opts.Entries > 0 {
		shards = min(shards, int64(opts.Entries)/shardEntries)
	}
	shards = floorPow2(max(1, shards))
	s := &Store{seed: opts.Seed, shards: make([]shard, shards)}
	for i := range s.shards {
		s.shards[i].init(opts.Bytes/shards, int64(opts.Entries)/shards, opts.Entries > 0)
	}
	return s
}

func (sh *shard) init(bytes, entries int64, bounded bool) {
	slots, typical := bytes/bytesPerSlot, bytes
	if bounded {
		sh.maxEntries = int(max(1, entries))
		// Half full at most, so that no bucket is full.
		slots = min(slots, 2*entries+4*ways)
		typical = min(bytes, 256*entries)
	}
	sh.table = make([]bucket, max(2, slots/ways))
	sh.ghost = make([]uint32, max(1, slots/2))
	sh.maxBytes = bytes - int64(64*len(sh.table)) - int64(4*len(sh.ghost))
	sh.segmentWords = int(min(maxSegmentWords, max(minSegmentWords, typical/segmentsPerShard/8)))
	sh.maxBytes -= int64(8 * sh.segmentWords) // for the copies of eviction
	sh.ring = make([]atomic.Pointer[segment], floorPow2(4*bytes/int64(8*sh.segmentWords)+64))
}

func floorPow2(n int64) int64 { return 1 << (bits.Len64(uint64(n)) - 1) }

// Hash returns the hash of key under the store's secret seed, so that a client
// cannot choose names that share a bucket.
func (s *Store) Hash(key []byte) uint64 { return maphash.Bytes(s.seed, key) }

func (s *Store) shard(hash uint64) *shard { return &s.shards[hash&uint64(len(s.shards)-1)] }

// buckets returns the two buckets that the entry of hash may be in.
func (sh *shard) buckets(hash uint64) [2]*bucket {
	n := uint64(len(sh.table))
	first, _ := bits.Mul64(hash, n)
	second, _ := bits.Mul64(hash*0x9e3779b97f4a7c15, n)
	if second == first {
		second = (first + 1) % n
	}
	return [2]*bucket{&sh.table[first], &sh.table[second]}
}

// tagOf returns a part of the hash that does not select the shard or the
// bucket.
func tagOf(hash uint64) uint16 { return uint16(hash >> 16) }

// Get returns the live entry of key, or nil if there is none. hash must be
// Hash(key). Get allocates nothing and takes no lock.
func (s *Store) Get(hash uint64, key []byte, now Instant) *Entry {
	e, _ := s.shard(hash).find(hash, key)
	if e == nil {
		return nil
	}
	return e.take(now)
}

// take returns e and counts a visit, unless it is dead.
func (e *Entry) take(now Instant) *Entry {
	if e.Dead <= now {
		return nil
	}
	// Read before writing, so that the line of a hot entry stays shared by all
	// cores.
	if v := e.visits.Load(); v < maxVisits {
		e.visits.Store(v + 1)
	}
	return e
}

// find returns the entry of key and its place in the table.
func (sh *shard) find(hash uint64, key []byte) (*Entry, *slotPlace) {
	tag := uint64(tagOf(hash))
	for _, b := range sh.buckets(hash) {
		for i := range b {
			// An entry that is moved during the look-up is found again in the
			// same slot. It moves once in a round of eviction.
			for slot := b[i].Load(); slot != 0 && slot>>(seqBits+wordBits) == tag; {
				e := sh.entry(slot)
				if e != nil && e.has(key) {
					return e, &b[i]
				}
				again := b[i].Load()
				if again == slot {
					break
				}
				slot = again
			}
		}
	}
	return nil, nil
}

// Put stores r under key and replaces the previous entry. It returns the entry
// and the number of entries that were evicted for it. key must be the result of
// [wire.AppendKey] for the answer's question, with or without Variant. An entry
// that is too large for a shard is not stored, and Put returns nil; the
// previous entry is removed, because it is outdated.
func (s *Store) Put(hash uint64, key []byte, r Record, now Instant) (e *Entry, evicted int) {
	r.Wildcard = r.Wildcard[:min(len(r.Wildcard), 255)]
	r.EDE = r.EDE[:min(len(r.EDE), MaxEDE)]
	n := words(r.Answer.Size() + len(r.Wildcard) + len(r.EDE))
	sh := s.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()

	old, place := sh.find(hash, key)
	if n > wordMask || 8*int64(n) > sh.maxBytes/4 {
		if old != nil {
			place.Store(0)
			sh.entries.Add(-1)
		}
		return nil, 0
	}
	visits, q := uint32(0), &sh.small
	ghost := &sh.ghost[hash%uint64(len(sh.ghost))]
	switch {
	case old != nil: // an entry that is replaced was asked for, which counts as a visit
		visits, q = 1, &sh.main
	case *ghost == uint32(hash>>32):
		*ghost, q = 0, &sh.main
	}
	evicted = s.makeRoom(sh, q, n, old == nil, now)
	g, word := sh.reserve(q, n)
	if g == nil {
		return nil, evicted
	}
	e = g.at(word)
	e.fill(&r, key[0])
	e.visits.Store(visits)
	// Eviction may have removed or moved the old entry.
	if _, place = sh.find(hash, key); place == nil {
		var full bool
		if place, full = sh.free(hash); full {
			evicted++
		} else {
			sh.entries.Add(1)
		}
	}
	place.Store(slotOf(tagOf(hash), g.seq, word))
	return e, evicted
}

// free returns a place for an entry of hash, in the emptier of its buckets. If
// both are full, it returns the place of the entry with the fewest visits.
func (sh *shard) free(hash uint64) (place *slotPlace, full bool) {
	var frees [2]*slotPlace
	var counts [2]int
	var least *slotPlace
	fewest := ^uint32(0)
	for k, b := range sh.buckets(hash) {
		for i := range b {
			slot := b[i].Load()
			if slot == 0 {
				frees[k] = &b[i]
				counts[k]++
				continue
			}
			if e := sh.entry(slot); e != nil && e.visits.Load() < fewest {
				fewest, least = e.visits.Load(), &b[i]
			}
		}
	}
	switch {
	case counts[0] == 0 && counts[1] == 0:
		return least, true
	case counts[1] > counts[0]:
		return frees[1], false
	}
	return frees[0], false
}

// Delete removes the entry of key and reports whether there was one.
func (s *Store) Delete(hash uint64, key []byte) bool {
	sh := s.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, place := sh.find(hash, key)
	if place == nil {
		return false
	}
	place.Store(0)
	sh.entries.Add(-1)
	return true
}

// Range calls f for each entry, in no particular order, until f returns false.
// key is valid during the call. Entries that are added, removed or moved during
// Range may be seen once, twice or not at all.
func (s *Store) Range(f func(key []byte, e *Entry) bool) {
	var buf [keyHead + 256]byte
	for i := range s.shards {
		sh := &s.shards[i]
		for b := range sh.table {
			for w := range sh.table[b] {
				e := sh.settled(&sh.table[b][w])
				if e != nil && !f(e.appendKey(buf[:0]), e) {
					return
				}
			}
		}
	}
}

// settled returns the entry in a place, or nil if it is empty. Like find it
// reads the slot again if the entry is being moved.
func (sh *shard) settled(place *slotPlace) *Entry {
	for slot := place.Load(); slot != 0; {
		if e := sh.entry(slot); e != nil {
			return e
		}
		again := place.Load()
		if again == slot {
			return nil
		}
		slot = again
	}
	return nil
}

// Len returns the number of entries, dead ones included.
func (s *Store) Len() int {
	var n int64
	for i := range s.shards {
		n += s.shards[i].entries.Load()
	}
	return int(n)
}

// Bytes returns the memory of the segments and of the table.
func (s *Store) Bytes() int64 {
	var total int64
	for i := range s.shards {
		sh := &s.shards[i]
		total += sh.bytes.Load() + int64(64*len(sh.table)) + int64(4*len(sh.ghost))
	}
	return total
}
