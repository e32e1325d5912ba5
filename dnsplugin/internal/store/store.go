package store

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// DefaultBytes holds about 50,000 answers of a cluster's mix, five times
	// what a side of CoreDNS's cache holds by default. With both sides full,
	// and as much again as the collector's headroom (GOGC=100), CoreDNS stays
	// within the 170 MiB of its usual deployment.
	DefaultBytes = 16 << 20

	// MinBytes still fits a few of the largest messages (64 KiB).
	MinBytes = 1 << 20

	// bytesPerBucket sizes the table. Small answers cost 300 to 450 bytes,
	// so the lists hold one or two nodes when the store is full, and the
	// heads take 1/64 of the bound.
	bytesPerBucket = 512

	// shardBytes and shardEntries are the smallest shard worth having: a
	// shard must be able to hold the largest message several times over,
	// and uneven hashing must not cost capacity (3 sigma of 1,024 are 10 %).
	shardBytes   = 1 << 20
	shardEntries = 1024

	// maxShards bounds the writers that run at once. Writes are misses:
	// thousands of times rarer than reads and each microseconds long.
	maxShards = 64
)

// Options of a Store. The zero value is ready for use.
type Options struct {
	Bytes   int64 // bound of the memory, index included; 0 means DefaultBytes
	Entries int   // bound of the number of entries; 0 means none but Bytes

	// Seed lets several stores use the same hashes; the zero Seed means one of its own.
	Seed maphash.Seed
}

// Validate says what is wrong with the options.
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
	seed    maphash.Seed
	shift   uint8 // hash >> shift is the bucket
	perOf   uint8 // bucket >> perOf is the shard
	buckets []atomic.Pointer[node]
	shards  []shard
}

// node links an entry into its bucket and its shard's queue.
type node struct {
	hash    uint64
	key     []byte // immutable
	entry   *Entry // immutable; a new entry gets a new node
	next    atomic.Pointer[node]
	visited atomic.Bool // set by readers, cleared by the hand

	newer, older *node // the queue; guarded by shard.mu
	cost         int   // guarded by shard.mu
}

// shard owns a range of buckets and the queue of the entries in them.
// It is padded so that the locks of two shards never share a cache line
// (128 bytes: adjacent lines are fetched in pairs).
type shard struct {
	mu sync.Mutex // guards all below and the writes to the shard's buckets

	newest, oldest *node
	hand           *node // where the next search for a victim starts; nil: at oldest
	maxBytes       int64
	maxEntries     int

	bytes   atomic.Int64 // written under mu, read without
	entries atomic.Int64 // likewise
	_       [64]byte
}

// New returns an empty store. It panics if opts are not valid.
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
	buckets := ceilPow2(opts.Bytes / bytesPerBucket)
	if opts.Entries > 0 {
		buckets = min(buckets, ceilPow2(int64(opts.Entries)))
	}
	shards := min(maxShards, opts.Bytes/shardBytes)
	if opts.Entries > 0 {
		shards = min(shards, int64(opts.Entries)/shardEntries)
	}
	shards = min(floorPow2(max(1, shards)), buckets)
	s := &Store{
		seed:    opts.Seed,
		shift:   uint8(64 - bits.TrailingZeros64(uint64(buckets))),
		perOf:   uint8(bits.TrailingZeros64(uint64(buckets / shards))),
		buckets: make([]atomic.Pointer[node], buckets),
		shards:  make([]shard, shards),
	}
	for i := range s.shards {
		s.shards[i].maxBytes = (opts.Bytes - 8*buckets) / shards
		if opts.Entries > 0 {
			s.shards[i].maxEntries = max(1, opts.Entries/int(shards))
		}
	}
	return s
}

func floorPow2(n int64) int64 { return 1 << (bits.Len64(uint64(n)) - 1) }
func ceilPow2(n int64) int64  { return 1 << bits.Len64(uint64(max(1, n)-1)) }

// Hash returns the hash of key under the store's secret seed, so that nobody
// outside can choose names that fall into one bucket.
func (s *Store) Hash(key []byte) uint64 { return maphash.Bytes(s.seed, key) }

// bucket returns the head of the list for hash. A shift by 64 gives 0 in Go,
// which is right for a table of one bucket.
func (s *Store) bucket(hash uint64) (*atomic.Pointer[node], *shard) {
	b := hash >> s.shift
	return &s.buckets[b], &s.shards[b>>s.perOf]
}

// Get returns the live entry of key, nil if there is none. hash must be
// Hash(key). It allocates nothing and takes no lock.
func (s *Store) Get(hash uint64, key []byte, now Instant) *Entry {
	head := &s.buckets[hash>>s.shift]
	for n := head.Load(); n != nil; n = n.next.Load() {
		if n.hash != hash || !bytes.Equal(n.key, key) {
			continue
		}
		if n.entry.Dead <= now {
			return nil
		}
		// Look before writing: a hot entry's line stays shared by all cores.
		if !n.visited.Load() {
			n.visited.Store(true)
		}
		return n.entry
	}
	return nil
}

// Put stores e under key, replacing what is there, and returns how many
// other entries had to go for it. key is copied. An entry too large for a
// shard is not stored; what was there under its key is removed all the same,
// since it has been superseded.
func (s *Store) Put(hash uint64, key []byte, e *Entry, now Instant) (evicted int) {
	head, sh := s.bucket(hash)
	n := &node{hash: hash, key: bytes.Clone(key), entry: e, cost: e.Cost(len(key))}
	sh.mu.Lock()
	defer sh.mu.Unlock()

	old, before := find(head, hash, key)
	if int64(n.cost) > sh.maxBytes {
		if old != nil {
			sh.remove(head, before, old)
		}
		return 0
	}
	// The new node is published before the old one goes, so that no reader
	// misses a key that was there all the time.
	n.next.Store(head.Load())
	head.Store(n)
	if old != nil {
		n.visited.Store(true) // asked for again: that is a visit
		if before == nil {
			before = n
		}
		sh.remove(head, before, old)
	}
	// n.cost fits into an empty shard, so this ends at the latest there.
	for sh.bytes.Load()+int64(n.cost) > sh.maxBytes || (sh.maxEntries > 0 && sh.entries.Load() >= int64(sh.maxEntries)) {
		v := sh.victim(now)
		vhead, _ := s.bucket(v.hash)
		_, vbefore := find(vhead, v.hash, v.key)
		sh.remove(vhead, vbefore, v)
		evicted++
	}
	sh.push(n)
	return evicted
}

// Delete removes the entry of key and reports whether there was one.
func (s *Store) Delete(hash uint64, key []byte) bool {
	head, sh := s.bucket(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	n, before := find(head, hash, key)
	if n == nil {
		return false
	}
	sh.remove(head, before, n)
	return true
}

// Len returns the number of entries, dead ones included.
func (s *Store) Len() int {
	var n int64
	for i := range s.shards {
		n += s.shards[i].entries.Load()
	}
	return int(n)
}

// Bytes returns what the entries cost, and the table itself.
func (s *Store) Bytes() int64 {
	total := int64(8 * len(s.buckets))
	for i := range s.shards {
		total += s.shards[i].bytes.Load()
	}
	return total
}

// find returns the node of key in the list at head and the one before it.
// The caller holds the shard's lock.
func find(head *atomic.Pointer[node], hash uint64, key []byte) (n, before *node) {
	for n = head.Load(); n != nil; before, n = n, n.next.Load() {
		if n.hash == hash && bytes.Equal(n.key, key) {
			return n, before
		}
	}
	return nil, nil
}
