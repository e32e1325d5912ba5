//penstock:pure

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
	// coldFactor times the floor, 400 ms, is as long as a request may be silent while
	// nothing is known: more than all but the slowest stores need.
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
	ring [ringSize]time.Duration
	n    int // samples ever
	age  int // samples since usual was computed
	usual
}

// usual is what a request takes.
type usual struct {
	quantile time.Duration // HedgePolicy.Quantile; 0: not known
	median   time.Duration
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

// usual returns what requests of n bytes have taken lately; where too little is known, what
// all but the slowest stores need.
func (h *hedger) usual(n int64) usual {
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
		return usual{quantile: coldFactor * h.p.Floor, median: coldFactor / 2 * h.p.Floor}
	}
	if l.age > 0 && (l.quantile == 0 || l.age >= minSamples) {
		s := l.ring
		v := s[:min(l.n, ringSize)]
		slices.Sort(v)
		l.quantile = v[min(int(h.p.Quantile*float64(len(v))), len(v)-1)]
		l.median = v[len(v)/2]
		l.age = 0
	}
	return l.usual
}

// running is the hedger's view of one request. Its times are of the clock that stands
// still while the process does, see awakeClock.
type running struct {
	start    time.Duration // when it was sent
	lastByte time.Duration // when the last byte came; = start before the first
	got      int64         // bytes received
	want     int64         // bytes asked for

	others     int   // requests to the host that run beside it
	sinceStart int64 // requests to the host that ended well since start
	sinceByte  int64 // and since lastByte
}

// due reports whether a request deserves a hedge now. It is late when it runs
// longer than 1.5 times the quantile, or when it has been silent for the floor, for
// twice the median of a whole request and for its quantile. A late one that will end before
// a new one could is left alone, and so is one that is no worse off than the others.
func (h *hedger) due(now time.Duration, r running) bool {
	if h.p.Quantile < 0 {
		return false
	}
	age, silent := now-r.start, now-r.lastByte
	if age < h.p.Floor {
		return false
	}
	u := h.usual(r.want)
	if still := max(h.p.Floor, 2*u.median, u.quantile); silent >= still && h.alone(silent, still, r.others, r.sinceByte) {
		return true
	}
	late := max(u.quantile+u.quantile/2, h.p.Floor)
	if age < late || !h.alone(age, late, r.others, r.sinceStart) {
		return false
	}
	if r.got > 0 {
		left := time.Duration(float64(age) / float64(r.got) * float64(r.want-r.got))
		return left > u.median
	}
	return true
}

// overtakes is how often each of the other requests must have been answered meanwhile
// before one that waits counts as held up alone. Twice, since that is what silence for two
// medians means where all get on.
const overtakes = 2

// alone reports whether a request that waits for longer than it should is held up by
// itself: by its connection, or by the one front-end that it got. What holds up all
// requests to a host (a host at its limit, a full link, processors that others use) is not
// mended by one more of them. After twice the time, and long enough for a host of which
// nothing is known, it is hedged all the same: the others may be stuck too.
func (h *hedger) alone(waits, limit time.Duration, others int, ended int64) bool {
	return ended >= int64(overtakes*others) || waits >= max(2*limit, coldFactor*h.p.Floor)
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
