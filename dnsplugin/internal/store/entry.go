package store

import (
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Instant is a time in nanoseconds since a moment that the owner of the store chose.
type Instant int64

// Forever is after every other instant.
const Forever Instant = math.MaxInt64

// Add returns the instant d later, Forever if there is none.
func (t Instant) Add(d time.Duration) Instant {
	if d > 0 && t > Forever-Instant(d) {
		return Forever
	}
	return t + Instant(d)
}

// Entry is one stored answer. Everything but the atomic fields must not
// change once the entry is in a store.
type Entry struct {
	Answer *wire.Answer
	Stored Instant // when it was stored
	TTL    uint32  // seconds that it is fresh, from Stored
	Dead   Instant // from here on Get does not return it

	// What the answer means to the owner; the store does not look at it.
	Answering bool   // the answer section answers the question
	Plain     int    // length of the answer without compression
	Wildcard  string // the wildcard record that made the answer, if any
	LastGood  *Entry // an answering entry that this one replaced but must not hide

	// Refresh state of the owner. They change seldom: only for entries near
	// or past their end.
	Refreshing atomic.Bool  // a refresh is in flight
	RetryAfter atomic.Int64 // Instant; no refresh before it

	// Popularity, written on hits only when the owner prefetches.
	LastHit atomic.Int64 // Instant of the latest hit that was counted
	Hits    atomic.Int64
}

// NewEntry returns an entry that is fresh for ttl seconds and stays usable
// (stale) for a further grace.
func NewEntry(a *wire.Answer, now Instant, ttl uint32, grace time.Duration) *Entry {
	return &Entry{
		Answer: a,
		Stored: now,
		TTL:    ttl,
		Dead:   now.Add(time.Duration(ttl)*time.Second + grace),
	}
}

// Left returns the whole seconds of freshness left at now; zero or less when stale.
func (e *Entry) Left(now Instant) int {
	return int(e.TTL) - int(time.Duration(now-e.Stored)/time.Second)
}

// nodeCost is what an entry costs beside its key and answer: the structures
// of this package and the answer's header, each one allocation. Measured over
// 100,000 entries the runtime's size classes add up to less than 32 bytes;
// bucket heads are charged to the bound as a whole.
const nodeCost = int(unsafe.Sizeof(Entry{})+unsafe.Sizeof(node{})+unsafe.Sizeof(wire.Answer{})) + 32

// Cost returns the bytes that the entry is charged for under a key of keyLen bytes.
func (e *Entry) Cost(keyLen int) int {
	cost := nodeCost + keyLen + e.Answer.Size() + len(e.Wildcard)
	if e.LastGood != nil {
		cost += e.LastGood.Cost(0)
	}
	return cost
}
