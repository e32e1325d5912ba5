package ranges

import (
	"math/bits"
	"slices"
	"time"
)

// HedgePolicy says when a slow request is asked a second time.
type HedgePolicy struct {
	// Quantile of the measured latency of requests of about the same size
	// beyond which a request is late. 0 means 0.95 ("retry the slowest 5 %",
	// the S3 performance guide). Negative turns hedging off.
	Quantile float64
	// Floor is the least time after which a request can be late or silent. 0
	// means 40 ms: below, a busy processor looks like a slow server. Where
	// answers take longer (S3's first byte: 30 to 100 ms), the measured latency
	// decides.
	Floor time.Duration
	// Budget is the share of all requests that may be hedges. 0 means 0.05.
	Budget float64
}

func (p *HedgePolicy) setDefaults() {
	if p.Quantile == 0 {
		p.Quantile = 0.95
	}
	if p.Floor == 0 {
		p.Floor = 40 * time.Millisecond
	}
	if p.Budget == 0 {
		p.Budget = 0.05
	}
}

const (
	// ringSize latencies are kept for each size class: enough for a stable
	// 95th percentile (three samples above it), few enough to sort in a
	// microsecond and to forget old conditions within seconds.
	ringSize = 64
	// minSamples before a class's own quantile counts.
	minSamples = 8
	// coldFactor times the floor is "late" while nothing is known: 400 ms, more
	// than all but the slowest stores need.
	coldFactor = 10
	// maxTokens is the most hedges that may be saved up: a burst of stalls (one
	// dead front-end) can be answered, a dead region can't be doubled.
	maxTokens = 16
)

// hedger decides which running requests get a second one. It has no clock: now
// and all times are durations since the engine's start. Not safe for
// concurrent use; the gate's lock guards it.
type hedger struct {
	p       HedgePolicy
	classes [40]latencies // by log2 of the length in bytes
	tokens  float64
}

// latencies is a ring of the last durations of one size class.
type latencies struct {
	ring   [ringSize]time.Duration
	n      int // samples ever
	cached time.Duration
	median time.Duration
	age    int // samples since cached was computed
}

func newHedger(p HedgePolicy) hedger { return hedger{p: p, tokens: 1} }

// begun counts a first request: it earns a share of a hedge.
func (h *hedger) begun() { h.tokens = min(h.tokens+h.p.Budget, maxTokens) }

// done records the duration of a complete request of n bytes.
func (h *hedger) done(n int64, d time.Duration) {
	l := &h.classes[class(n)]
	l.ring[l.n%ringSize] = d
	l.n++
	l.age++
}

func class(n int64) int { return min(bits.Len64(uint64(max(n, 0))), 39) }

// late returns the age at which a request of n bytes is late, and the median
// that a new one would take.
func (h *hedger) late(n int64) (late, median time.Duration) {
	c := class(n)
	l := &h.classes[c]
	if l.n < minSamples {
		// A larger class's figures are an upper bound for a smaller one.
		for up := c + 1; up < len(h.classes); up++ {
			if h.classes[up].n >= minSamples {
				l = &h.classes[up]
				break
			}
		}
	}
	if l.n < minSamples {
		return coldFactor * h.p.Floor, coldFactor / 2 * h.p.Floor
	}
	if l.age > 0 && (l.cached == 0 || l.age >= minSamples) {
		s := l.ring
		v := s[:min(l.n, ringSize)]
		slices.Sort(v)
		l.cached = v[min(int(h.p.Quantile*float64(len(v))), len(v)-1)]
		l.median = v[len(v)/2]
		l.age = 0
	}
	return max(l.cached+l.cached/2, h.p.Floor), l.median
}

// running is the hedger's view of one request.
type running struct {
	start    time.Duration // when it was sent
	lastByte time.Duration // when the last byte came; = start before the first
	got      int64         // bytes received
	want     int64         // bytes asked for
}

// due reports whether a request deserves a hedge now. It is late when it runs
// longer than 1.5 times the quantile, or when it has been silent for the floor
// and for twice the median of a whole request. A late one that will end before a new
// one could is left alone.
func (h *hedger) due(now time.Duration, r running) bool {
	if h.p.Quantile < 0 {
		return false
	}
	late, median := h.late(r.want)
	silent := now - r.lastByte
	if silent >= max(h.p.Floor, 2*median) && silent > 0 {
		return now-r.start >= h.p.Floor
	}
	age := now - r.start
	if age < late {
		return false
	}
	if r.got > 0 {
		left := time.Duration(float64(age) / float64(r.got) * float64(r.want-r.got))
		return left > median
	}
	return true
}

// spend takes a hedge out of the budget; false when it is empty.
func (h *hedger) spend() bool {
	if h.tokens < 1 {
		return false
	}
	h.tokens--
	return true
}

// refund gives a hedge back that was never sent.
func (h *hedger) refund() { h.tokens = min(h.tokens+1, maxTokens) }
