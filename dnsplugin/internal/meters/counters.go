package meters

import (
	"math"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Each worker has counters of its own, which internal/front adds to the series
// of Prometheus when those are collected. So a query costs a few additions to
// memory that no other core uses.
//
// The counters of a zone take about 4 KiB, twice for each worker, because one
// set is emptied while the other is in use. So a worker has its own counters for
// at most OwnZones zones. All workers count other zones in one shared set, under
// its lock. A listener with 64 CPUs, UDP and TCP, takes at most 33 MiB with 1,000
// zones, and 21 MiB with 16 (TestCountersStayWithinTheirBound).

// Reason says why a query went to the chain. The first values equal the values
// of wire.Reason; the others follow them.
type Reason uint8

const (
	Understood  = Reason(wire.OK)
	OtherZone   = Reason(wire.Trailing) + 1 + iota // a zone without a fast path, or none
	TypeDS                                         // DS: which zone answers depends on the parent
	Miss                                           // not in the cache
	Refresh                                        // in the cache, but the source must be asked as well
	Shuffle                                        // the records must change order, and only the chain can do that
	TooLong                                        // longer than the client accepts, or than the fast path sends
	reasonCount = iota + int(wire.Trailing) + 1
)

// reasonText holds the values of the metric's label from OtherZone on.
var reasonText = [...]string{"other_zone", "type_ds", "miss", "refresh", "shuffle", "too_long"}

func (d Reason) String() string {
	if d <= Reason(wire.Trailing) {
		return wire.Reason(d).String()
	}
	return reasonText[d-OtherZone]
}

const (
	// OwnZones is the number of zones that a worker has its own counters for.
	OwnZones = 16

	// MaxPlain is the longest reply, without compression, that is sent over UDP
	// without the chain.
	MaxPlain = 8 << 10

	// IPFamilies is the number of families: IPv4 at index 0, IPv6 at 1.
	IPFamilies = 2

	// Durations have buckets from 2^-24 s (60 ns) to 2^6 s.
	firstOctave = -24
	octaves     = 30

	// MaxQuery is the longest query, in bytes, that the fast path answers. CoreDNS
	// accepts the same length from a UDP socket.
	MaxQuery = 512

	// The native buckets of sizes from 1 to MaxQuery, and to 64 KiB.
	requestBuckets  = 9*perOctave + 1
	responseBuckets = 16*perOctave + 1
)

// Zone is the part of a listener's zone that counting needs.
type Zone struct {
	Index   int  // among the zones of the listener
	Counted bool // in the families of the prometheus plugin as well
}

// Counters are the counters of one worker.
type Counters struct {
	Mu     sync.Mutex // guards all below; the worker takes it once per batch, the publisher to exchange Cur
	Cur    *CounterSet
	Spare  *CounterSet    // emptied by the publisher
	shared []SharedCounts // by Zone.Index; shared by the workers of the server
	// The hits of the current batch by zone, for CountDuration, and the position
	// of each zone in touched, from 1 on.
	touched []touchedZone
	at      []uint32
}

// touchedZone is a zone with hits in the current batch.
type touchedZone struct {
	zone *Zone
	n    uint64
}

// CounterSet holds the counts since they were last published. It has padding
// around it, and so has the array of its slice.
type CounterSet struct {
	_       [128]byte
	Zones   []*ZoneCounts // by Zone.Index; nil until the first hit
	Own     int           // number of Zones that are not nil
	Why     [reasonCount]uint64
	Batches uint64
	_       [128]byte
}

// SharedCounts holds the hits in a zone by all workers without their own
// counters for it.
type SharedCounts struct {
	Mu     sync.Mutex  // guards Counts; held for a few additions
	Counts *ZoneCounts // nil until the first hit
}

// ZoneCounts holds the hits in one zone. The publisher empties it often enough
// that its 32-bit counters do not wrap around.
type ZoneCounts struct {
	Success, Denial uint64 // hits by side
	// Hits that waited for another query's answer; they are published as misses.
	CoalescedSuccess, CoalescedDenial uint64

	Stale, DO uint64
	Rcodes    [16]uint64
	Types     [len(TypeNames)][IPFamilies]uint64
	Durations durations
	Requests  sizeCounts
	Asked     [requestBuckets]uint32 // native buckets of requests
	Responses sizeCounts
	Answered  [responseBuckets]uint32 // native buckets of responses
}

// sizeCounts is a histogram of sizes without its native buckets.
type sizeCounts struct {
	sum     uint64
	classic [classicSizes + 1]uint32
}

const classicSizes = 14 // len(sizeBounds)

// sizeBuckets holds the native and the classic bucket of each size up to
// MaxPlain.
var sizeBuckets = func() (buckets [MaxPlain + 1]struct {
	native  uint16
	classic uint8
},
) {
	for size := range buckets {
		b := &buckets[size]
		b.classic = uint8(classicBucket(SizeBounds, float64(size)))
		if size > 0 {
			b.native = uint16(nativeBucket(float64(size)))
		}
	}
	return buckets
}()

// add counts size, which must be above 0, and adds it to its bucket in native.
func (c *sizeCounts) add(size int, native []uint32) {
	c.sum += uint64(size)
	if size < len(sizeBuckets) {
		b := &sizeBuckets[size]
		c.classic[b.classic]++
		native[b.native]++
		return
	}
	c.classic[classicBucket(SizeBounds, float64(size))]++
	native[min(nativeBucket(float64(size)), len(native)-1)]++
}

// TypeNames are the types that have series of their own in CoreDNS.
var TypeNames = [...]uint16{
	dns.TypeNone, // all others
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC3, dns.TypeNSEC,
	dns.TypeNS, dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB,
}

// typeIndex is the inverse of TypeNames for types below 256.
var typeIndex = func() (index [256]uint8) {
	for i, t := range TypeNames {
		index[t] = uint8(i)
	}
	return index
}()

// Init prepares s for the given number of zones. shared has one element for each
// zone.
func (s *Counters) Init(zones int, shared []SharedCounts) {
	const pad = 128 / 4
	s.Cur, s.Spare, s.shared = newCounterSet(zones), newCounterSet(zones), shared
	s.at = make([]uint32, pad+zones+pad)[pad:][:zones:zones]
	s.touched = make([]touchedZone, 0, max(8, min(zones, 64)))
}

func newCounterSet(zones int) *CounterSet {
	const pad = 128 / 8 // pointers
	return &CounterSet{Zones: make([]*ZoneCounts, pad+zones+pad)[pad:][:zones:zones]}
}

// otherZone returns the counters of z, which has none in Cur. If they are shared,
// the caller must call unlock when it has finished. Hits in a zone that has
// counters in Cur do not call it, see TestAtomicInstructionsOfAHit.
//
//go:noinline
func (s *Counters) otherZone(z *Zone) (zc *ZoneCounts, shared bool) {
	if s.Cur.Own < OwnZones {
		s.Cur.Own++
		zc = new(ZoneCounts)
		s.Cur.Zones[z.Index] = zc
		return zc, false
	}
	c := &s.shared[z.Index]
	c.Mu.Lock()
	if c.Counts == nil {
		c.Counts = new(ZoneCounts)
	}
	return c.Counts, true
}

// unlock releases the shared counters of z.
//
//go:noinline
func (s *Counters) unlock(z *Zone) { s.shared[z.Index].Mu.Unlock() }

// CountHit counts an answer of size bytes without compression.
func (s *Counters) CountHit(z *Zone, kind sides.Kind, rcode, size int, stale bool) {
	zc, shared := s.Cur.Zones[z.Index], false
	if zc == nil {
		zc, shared = s.otherZone(z)
	}
	if kind == sides.Denial {
		zc.Denial++
	} else {
		zc.Success++
	}
	if stale {
		zc.Stale++
	}
	if z.Counted {
		zc.Rcodes[rcode&0xf]++
		zc.Responses.add(size, zc.Answered[:])
	}
	if shared {
		s.unlock(z)
	}
}

// CountQuery counts the query of a hit in the way of the prometheus plugin.
func (s *Counters) CountQuery(z *Zone, q *wire.Query, size int, ipv4 bool) {
	zc, shared := s.Cur.Zones[z.Index], false
	if zc == nil {
		zc, shared = s.otherZone(z)
	}
	t := uint8(0)
	if q.Type < uint16(len(typeIndex)) {
		t = typeIndex[q.Type]
	}
	family := 1
	if ipv4 {
		family = 0
	}
	zc.Types[t][family]++
	if q.DO {
		zc.DO++
	}
	zc.Requests.add(size, zc.Asked[:])
	if shared {
		s.unlock(z)
	}
	if s.at[z.Index] == 0 {
		s.touched = append(s.touched, touchedZone{zone: z})
		s.at[z.Index] = uint32(len(s.touched))
	}
	s.touched[s.at[z.Index]-1].n++
}

// CountDecline counts a query that takes the chain.
func (s *Counters) CountDecline(why Reason) { s.Cur.Why[why]++ }

// CountWait marks the latest hit as one that waited for another query's answer.
func (s *Counters) CountWait(z *Zone, kind sides.Kind) {
	zc, shared := s.Cur.Zones[z.Index], false
	if zc == nil {
		zc, shared = s.otherZone(z)
	}
	if kind == sides.Denial {
		zc.CoalescedDenial++
	} else {
		zc.CoalescedSuccess++
	}
	if shared {
		s.unlock(z)
	}
}

// CountDuration ends a batch that took d. Each of its queries counts with d,
// because the replies are sent together.
func (s *Counters) CountDuration(d time.Duration) {
	if len(s.touched) == 0 {
		return
	}
	seconds := d.Seconds()
	for _, t := range s.touched {
		zc, shared := s.Cur.Zones[t.zone.Index], false
		if zc == nil {
			zc, shared = s.otherZone(t.zone)
		}
		zc.Durations.add(seconds, t.n)
		if shared {
			s.unlock(t.zone)
		}
		s.at[t.zone.Index] = 0
	}
	s.touched = s.touched[:0]
}

// durations is a histogram of seconds with the buckets of CoreDNS: its classic
// buckets, and native buckets of schema 4, which has 16 for each doubling.
type durations struct {
	Count   uint64
	sum     float64
	classic [classicDurations + 1]uint64 // the last element counts durations above all bounds
	native  [octaves * perOctave]uint32  // from firstOctave on; the ends also count durations beyond them
}

const (
	classicDurations = 16 // len(plugin.TimeBuckets)
	perOctave        = 16 // 2^4: a growth factor of at most 1.05 makes schema 4
)

// add counts d seconds n times.
func (h *durations) add(d float64, n uint64) {
	// A coarse clock may not advance during a batch.
	d = max(d, 1e-9)
	h.Count += n
	h.sum += d * float64(n)
	h.classic[classicBucket(plugin.TimeBuckets, d)] += n
	h.native[min(max(nativeBucket(d)-firstOctave*perOctave, 0), len(h.native)-1)] += uint32(n)
}

// classicBucket returns the index of the bucket that v belongs to.
func classicBucket(bounds []float64, v float64) int {
	for i, b := range bounds {
		if v <= b {
			return i
		}
	}
	return len(bounds)
}

// nativeBounds are the upper bounds of the buckets within [0.5, 1), as
// Prometheus has them: 2^(i/16) / 2.
var nativeBounds = func() (bounds [perOctave]float64) {
	for i := range bounds {
		bounds[i] = math.Exp2(float64(i)/perOctave) / 2
	}
	return bounds
}()

// nativeBucket returns the index of the native bucket of schema 4 for v > 0.
func nativeBucket(v float64) int {
	frac, exp := math.Frexp(v)
	i := 0
	for i < len(nativeBounds) && nativeBounds[i] < frac {
		i++
	}
	return i + (exp-1)*perOctave
}
