package dnsplugin

import (
	"math"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// What a worker counts. The numbers go to Prometheus when somebody asks for
// them (fastpath_publish.go), so that a query costs a few additions to memory
// that no other core looks at.

const (
	// maxPlain is the longest reply, counted without compression, whose size
	// has a counter of its own. Longer ones are rare; over UDP they go through
	// the chain.
	maxPlain = 8 << 10

	// families: 0 is IPv4, 1 is IPv6.
	families = 2

	// Durations are told apart from 2^-24 s on, 60 ns, up to 2^6 s.
	firstOctave = -24
	octaves     = 30

	// maxCounted is the longest query, in bytes, that is answered here: as
	// long as CoreDNS takes from a UDP socket.
	maxCounted = 512
)

// fastStats is a worker's set of counters.
type fastStats struct {
	mu    sync.Mutex // guards all below; taken once per batch by the worker, and to exchange cur
	cur   *fastCounts
	spare *fastCounts // where the publisher puts back what it has emptied
}

// fastCounts are counted since they were last published. They stand between two
// lines of padding, and so does what their slices lead to.
type fastCounts struct {
	_       [128]byte
	zones   []*zoneCounts // by fastZone.index; nil until the first hit
	why     [reasonCount]uint64
	batches uint64
	// The hits of the batch being served, for lasted.
	touched []*zoneCounts
	_       [128]byte
}

// zoneCounts are the hits in one zone.
type zoneCounts struct {
	success, denial uint64 // hits by side
	// Of them, those that had waited for another query's answer: misses.
	coalescedSuccess, coalescedDenial uint64

	stale, do uint64
	rcodes    [16]uint64
	types     [len(typeNames)][families]uint64
	durations durations
	inBatch   uint64                 // hits not yet in durations
	requests  [maxCounted + 1]uint32 // by size
	responses [maxPlain]uint32       // by size
	longer    map[int]uint32         // responses of other sizes; nil until there is one
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

func (s *fastStats) init(zones int) {
	s.cur, s.spare = newFastCounts(zones), newFastCounts(zones)
}

func newFastCounts(zones int) *fastCounts {
	const pad = 128 / 8 // pointers
	all := make([]*zoneCounts, pad+2*zones+pad)
	return &fastCounts{zones: all[pad:][:zones:zones], touched: all[pad+zones:][:0:zones]}
}

// zone returns the counters of z.
func (c *fastCounts) zone(z *fastZone) *zoneCounts {
	if zc := c.zones[z.index]; zc != nil {
		return zc
	}
	zc := new(zoneCounts)
	c.zones[z.index] = zc
	return zc
}

// hit counts an answer of size bytes (without compression).
func (s *fastStats) hit(z *fastZone, kind string, rcode, size int, stale bool) {
	zc := s.cur.zone(z)
	if kind == labelDenial {
		zc.denial++
	} else {
		zc.success++
	}
	if stale {
		zc.stale++
	}
	if !z.counted {
		return
	}
	zc.rcodes[rcode&0xf]++
	if size < len(zc.responses) {
		zc.responses[size]++
		return
	}
	if zc.longer == nil {
		zc.longer = map[int]uint32{}
	}
	zc.longer[size]++
}

// count counts the query of a hit as the prometheus plugin does.
func (s *fastStats) count(z *fastZone, q *wire.Query, size int, ipv4 bool) {
	zc := s.cur.zone(z)
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
	zc.requests[size]++
	if zc.inBatch == 0 {
		s.cur.touched = append(s.cur.touched, zc)
	}
	zc.inBatch++
}

func (s *fastStats) declined(why declined) { s.cur.why[why]++ }

// lasted says how long the batch took: each of its queries waited for all of it.
func (s *fastStats) lasted(d time.Duration) {
	if len(s.cur.touched) == 0 {
		return
	}
	seconds := d.Seconds()
	for _, zc := range s.cur.touched {
		zc.durations.add(seconds, zc.inBatch)
		zc.inBatch = 0
	}
	s.cur.touched = s.cur.touched[:0]
}

// durations is a histogram of seconds with the buckets that CoreDNS has: its
// classic ones, and the native ones of schema 4, 16 for each doubling.
type durations struct {
	count   uint64
	sum     float64
	classic [classicDurations + 1]uint64 // the last one: above all bounds
	native  [octaves * perOctave]uint64  // from firstOctave on; less and more go to the ends
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
	h.native[min(max(nativeBucket(d)-firstOctave*perOctave, 0), len(h.native)-1)] += n
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
