package dnsplugin

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
// them (fastpath_publish.go), so that a query costs a few additions to memory
// that no other core looks at.
//
// A zone's counters take about 4 KiB, in each worker that answers for it and
// twice, because one set is emptied while the other one is in use. So a worker
// has counters of its own for ownZones of the zones that it answers for; other
// zones are counted in a set that all workers share, under its lock. A listener
// with 64 CPUs, UDP and TCP, takes 33 MiB at most with 1,000 zones, and 21 MiB
// with 16: TestCountersStayWithinTheirBound.

// declined says why a query went to the chain. The first values are those of
// wire.Reason, the others follow.
type declined uint8

const (
	understood  = declined(wire.OK)
	otherZone   = declined(wire.Trailing) + 1 + iota // a zone without a fast path, or none
	typeDS                                           // DS: which zone answers depends on the parent
	miss                                             // not in the cache
	refreshing                                       // in the cache, but the source must be asked too
	shuffling                                        // the order of the records must change in a way that only the chain knows
	tooLong                                          // longer than the client takes, or than we send
	reasonCount = iota + int(wire.Trailing) + 1
)

// reasonText are the values of the metric's label from otherZone on.
var reasonText = [...]string{"other_zone", "type_ds", "miss", "refresh", "shuffle", "too_long"}

func (d declined) String() string {
	if d <= declined(wire.Trailing) {
		return wire.Reason(d).String()
	}
	return reasonText[d-otherZone]
}

const (
	// ownZones is how many zones a worker has counters of its own for.
	ownZones = 16

	// maxPlain is the longest reply over UDP, counted without compression, that
	// goes out without the chain.
	maxPlain = 8 << 10

	// families: 0 is IPv4, 1 is IPv6.
	families = 2

	// Durations are told apart from 2^-24 s on, 60 ns, up to 2^6 s.
	firstOctave = -24
	octaves     = 30

	// maxCounted is the longest query, in bytes, that is answered here: as
	// long as CoreDNS takes from a UDP socket.
	maxCounted = 512

	// The native buckets of sizes from 1 to maxCounted, and to 64 KiB.
	requestBuckets  = 9*perOctave + 1
	responseBuckets = 16*perOctave + 1
)

// meterZone is a zone of a listener, as far as it is counted.
type meterZone struct {
	index   int  // of all zones of the listener
	counted bool // for the families of the prometheus plugin as well
}

// fastStats is a worker's set of counters.
type fastStats struct {
	mu     sync.Mutex // guards all below; taken once per batch by the worker, and to exchange cur
	cur    *fastCounts
	spare  *fastCounts    // where the publisher puts back what it has emptied
	shared []sharedCounts // by meterZone.index; of the server
	// The hits of the batch being served, for lasted: by zone, and where each
	// zone stands in it, from 1 on.
	touched []touchedZone
	at      []uint32
}

// touchedZone is a zone with hits in the batch being served.
type touchedZone struct {
	zone *meterZone
	n    uint64
}

// fastCounts are counted since they were last published. They stand between two
// lines of padding, and so does what their slice leads to.
type fastCounts struct {
	_       [128]byte
	zones   []*zoneCounts // by meterZone.index; nil until the first hit
	own     int           // of them, those that are not nil
	why     [reasonCount]uint64
	batches uint64
	_       [128]byte
}

// sharedCounts are the hits in a zone by workers that have no counters of their
// own for it.
type sharedCounts struct {
	mu     sync.Mutex  // guards counts; taken for a few additions
	counts *zoneCounts // nil until the first hit
}

// zoneCounts are the hits in one zone. Those of 32 bits are emptied often
// enough (drainEvery) not to wrap around.
type zoneCounts struct {
	success, denial uint64 // hits by side
	// Of them, those that had waited for another query's answer: misses.
	coalescedSuccess, coalescedDenial uint64

	stale, do uint64
	rcodes    [16]uint64
	types     [len(typeNames)][families]uint64
	durations durations
	requests  sizeCounts
	asked     [requestBuckets]uint32 // native buckets of requests
	responses sizeCounts
	answered  [responseBuckets]uint32 // native buckets of responses
}

// sizeCounts is a histogram of sizes but for its native buckets.
type sizeCounts struct {
	sum     uint64
	classic [classicSizes + 1]uint32
}

const classicSizes = 14 // len(sizeBounds)

// sizeBuckets are the native and the classic bucket of each size up to maxPlain.
var sizeBuckets = func() (buckets [maxPlain + 1]struct {
	native  uint16
	classic uint8
},
) {
	for size := range buckets {
		b := &buckets[size]
		b.classic = uint8(classicBucket(sizeBounds, float64(size)))
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
	c.classic[classicBucket(sizeBounds, float64(size))]++
	native[min(nativeBucket(float64(size)), len(native)-1)]++
}

// typeNames are the types that Prometheus tells apart, see vars of CoreDNS.
var typeNames = [...]uint16{
	dns.TypeNone, // all others
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC3, dns.TypeNSEC,
	dns.TypeNS, dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB,
}

// typeIndex is the inverse of typeNames for types below 256.
var typeIndex = func() (index [256]uint8) {
	for i, t := range typeNames {
		index[t] = uint8(i)
	}
	return index
}()

func (s *fastStats) init(zones int, shared []sharedCounts) {
	const pad = 128 / 4
	s.cur, s.spare, s.shared = newFastCounts(zones), newFastCounts(zones), shared
	s.at = make([]uint32, pad+zones+pad)[pad:][:zones:zones]
	s.touched = make([]touchedZone, 0, max(8, min(zones, 64)))
}

func newFastCounts(zones int) *fastCounts {
	const pad = 128 / 8 // pointers
	return &fastCounts{zones: make([]*zoneCounts, pad+zones+pad)[pad:][:zones:zones]}
}

// other returns the counters of z, which has none in cur yet. If they are
// shared, the caller calls unlock in the end. It is not part of a hit in a zone
// that a worker has counters of its own for: see TestAtomicInstructionsOfAHit.
//
//go:noinline
func (s *fastStats) other(z *meterZone) (zc *zoneCounts, shared bool) {
	if s.cur.own < ownZones {
		s.cur.own++
		zc = new(zoneCounts)
		s.cur.zones[z.index] = zc
		return zc, false
	}
	c := &s.shared[z.index]
	c.mu.Lock()
	if c.counts == nil {
		c.counts = new(zoneCounts)
	}
	return c.counts, true
}

// unlock gives back shared counters.
//
//go:noinline
func (s *fastStats) unlock(z *meterZone) { s.shared[z.index].mu.Unlock() }

// hit counts an answer of size bytes (without compression).
func (s *fastStats) hit(z *meterZone, kind sides.Kind, rcode, size int, stale bool) {
	zc, shared := s.cur.zones[z.index], false
	if zc == nil {
		zc, shared = s.other(z)
	}
	if kind == sides.Denial {
		zc.denial++
	} else {
		zc.success++
	}
	if stale {
		zc.stale++
	}
	if z.counted {
		zc.rcodes[rcode&0xf]++
		zc.responses.add(size, zc.answered[:])
	}
	if shared {
		s.unlock(z)
	}
}

// count counts the query of a hit as the prometheus plugin does.
func (s *fastStats) count(z *meterZone, q *wire.Query, size int, ipv4 bool) {
	zc, shared := s.cur.zones[z.index], false
	if zc == nil {
		zc, shared = s.other(z)
	}
	t := uint8(0)
	if q.Type < uint16(len(typeIndex)) {
		t = typeIndex[q.Type]
	}
	family := 1
	if ipv4 {
		family = 0
	}
	zc.types[t][family]++
	if q.DO {
		zc.do++
	}
	zc.requests.add(size, zc.asked[:])
	if shared {
		s.unlock(z)
	}
	if s.at[z.index] == 0 {
		s.touched = append(s.touched, touchedZone{zone: z})
		s.at[z.index] = uint32(len(s.touched))
	}
	s.touched[s.at[z.index]-1].n++
}

func (s *fastStats) declined(why declined) { s.cur.why[why]++ }

// waited marks the hit that was counted last as one that had to wait.
func (s *fastStats) waited(z *meterZone, kind sides.Kind) {
	zc, shared := s.cur.zones[z.index], false
	if zc == nil {
		zc, shared = s.other(z)
	}
	if kind == sides.Denial {
		zc.coalescedDenial++
	} else {
		zc.coalescedSuccess++
	}
	if shared {
		s.unlock(z)
	}
}

// lasted says how long the batch took: each of its queries waited for all of it.
func (s *fastStats) lasted(d time.Duration) {
	if len(s.touched) == 0 {
		return
	}
	seconds := d.Seconds()
	for _, t := range s.touched {
		zc, shared := s.cur.zones[t.zone.index], false
		if zc == nil {
			zc, shared = s.other(t.zone)
		}
		zc.durations.add(seconds, t.n)
		if shared {
			s.unlock(t.zone)
		}
		s.at[t.zone.index] = 0
	}
	s.touched = s.touched[:0]
}

// durations is a histogram of seconds with the buckets that CoreDNS has: its
// classic ones, and the native ones of schema 4, 16 for each doubling.
type durations struct {
	count   uint64
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
	h.count += n
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
