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

// What a worker counts. The numbers go to Prometheus when somebody asks for
// them (internal/front), so that a query costs a few additions to memory
// that no other core looks at.
//
// A zone's counters take about 4 KiB, in each worker that answers for it and
// twice, because one set is emptied while the other one is in use. So a worker
// has counters of its own for ownZones of the zones that it answers for; other
// zones are counted in a set that all workers share, under its lock. A listener
// with 64 CPUs, UDP and TCP, takes 33 MiB at most with 1,000 zones, and 21 MiB
// with 16: TestCountersStayWithinTheirBound.

// Reason says why a query went to the chain. The first values are those of
// wire.Reason, the others follow.
type Reason uint8

const (
	Understood  = Reason(wire.OK)
	OtherZone   = Reason(wire.Trailing) + 1 + iota // a zone without a fast path, or none
	TypeDS                                         // DS: which zone answers depends on the parent
	Miss                                           // not in the cache
	Refresh                                        // in the cache, but the source must be asked too
	Shuffle                                        // the order of the records must change in a way that only the chain knows
	TooLong                                        // longer than the client takes, or than we send
	reasonCount = iota + int(wire.Trailing) + 1
)

// reasonText are the values of the metric's label from otherZone on.
var reasonText = [...]string{"other_zone", "type_ds", "miss", "refresh", "shuffle", "too_long"}

func (d Reason) String() string {
	if d <= Reason(wire.Trailing) {
		return wire.Reason(d).String()
	}
	return reasonText[d-OtherZone]
}

const (
	// OwnZones is how many zones a worker has counters of its own for.
	OwnZones = 16

	// MaxPlain is the longest reply over UDP, counted without compression, that
	// goes out without the chain.
	MaxPlain = 8 << 10

	// IPFamilies: 0 is IPv4, 1 is IPv6.
	IPFamilies = 2

	// Durations are told apart from 2^-24 s on, 60 ns, up to 2^6 s.
	firstOctave = -24
	octaves     = 30

	// MaxQuery is the longest query, in bytes, that is answered here: as
	// long as CoreDNS takes from a UDP socket.
	MaxQuery = 512

	// The native buckets of sizes from 1 to maxCounted, and to 64 KiB.
	requestBuckets  = 9*perOctave + 1
	responseBuckets = 16*perOctave + 1
)

// Zone is a zone of a listener, as far as it is counted.
type Zone struct {
	Index   int  // of all zones of the listener
	Counted bool // for the families of the prometheus plugin as well
}

// Counters is a worker's set of counters.
type Counters struct {
	Mu     sync.Mutex // guards all below; taken once per batch by the worker, and to exchange cur
	Cur    *CounterSet
	Spare  *CounterSet    // where the publisher puts back what it has emptied
	shared []SharedCounts // by meterZone.index; of the server
	// The hits of the batch being served, for lasted: by zone, and where each
	// zone stands in it, from 1 on.
	touched []touchedZone
	at      []uint32
}

// touchedZone is a zone with hits in the batch being served.
type touchedZone struct {
	zone *Zone
	n    uint64
}

// CounterSet are counted since they were last published. They stand between two
// lines of padding, and so does what their slice leads to.
type CounterSet struct {
	_       [128]byte
	Zones   []*ZoneCounts // by meterZone.index; nil until the first hit
	Own     int           // of them, those that are not nil
	Why     [reasonCount]uint64
	Batches uint64
	_       [128]byte
}

// SharedCounts are the hits in a zone by workers that have no counters of their
// own for it.
type SharedCounts struct {
	Mu     sync.Mutex  // guards counts; taken for a few additions
	Counts *ZoneCounts // nil until the first hit
}

// ZoneCounts are the hits in one zone. Those of 32 bits are emptied often
// enough (drainEvery) not to wrap around.
type ZoneCounts struct {
	Success, Denial uint64 // hits by side
	// Of them, those that had waited for another query's answer: misses.
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

// sizeCounts is a histogram of sizes but for its native buckets.
type sizeCounts struct {
	sum     uint64
	classic [classicSizes + 1]uint32
}

const classicSizes = 14 // len(sizeBounds)

// sizeBuckets are the native and the classic bucket of each size up to maxPlain.
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

// add counts size, which is above 0, and in native its bucket.
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

// TypeNames are the types that Prometheus tells apart, see vars of CoreDNS.
var TypeNames = [...]uint16{
	dns.TypeNone, // all others
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC3, dns.TypeNSEC,
	dns.TypeNS, dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB,
}

// typeIndex is the inverse of typeNames for types below 256.
var typeIndex = func() (index [256]uint8) {
	for i, t := range TypeNames {
		index[t] = uint8(i)
	}
	return index
}()

// Init makes s count zones of the given number; shared has one element for each.
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

// otherZone returns the counters of z, which has none in cur yet. If they are
// shared, the caller calls unlock in the end. It is not part of a hit in a zone
// that a worker has counters of its own for: see TestAtomicInstructionsOfAHit.
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

// unlock gives back shared counters.
//
//go:noinline
func (s *Counters) unlock(z *Zone) { s.shared[z.Index].Mu.Unlock() }

// CountHit counts an answer of size bytes (without compression).
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

// CountQuery counts the query of a hit as the prometheus plugin does.
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

// CountDecline counts a query that goes to the chain.
func (s *Counters) CountDecline(why Reason) { s.Cur.Why[why]++ }

// CountWait marks the hit that was counted last as one that had to wait.
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

// CountDuration says how long the batch took: each of its queries waited for all of it.
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

// durations is a histogram of seconds with the buckets that CoreDNS has: its
// classic ones, and the native ones of schema 4, 16 for each doubling.
type durations struct {
	Count   uint64
	sum     float64
	classic [classicDurations + 1]uint64 // the last one: above all bounds
	native  [octaves * perOctave]uint32  // from firstOctave on; less and more go to the ends
}

const (
	classicDurations = 16 // len(plugin.TimeBuckets)
	perOctave        = 16 // 2^4: a growth factor of at most 1.05 makes schema 4
)

// add counts d seconds n times.
func (h *durations) add(d float64, n uint64) {
	// A clock that stands still within a batch says less than it can tell.
	d = max(d, 1e-9)
	h.Count += n
	h.sum += d * float64(n)
	h.classic[classicBucket(plugin.TimeBuckets, d)] += n
	h.native[min(max(nativeBucket(d)-firstOctave*perOctave, 0), len(h.native)-1)] += uint32(n)
}

// classicBucket is the index of the bucket that v belongs to.
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
