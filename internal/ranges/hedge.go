//penstock:pure

package ranges

import (
	"math/bits"
	"slices"
	"time"
)

// HedgePolicy decides when a slow request gets a second one.
type HedgePolicy struct {
	// Quantile is the share of requests of about the same size that are faster
	// than a late one. 0 means 0.95 ("retry the slowest 5 %", the S3 performance
	// guide). Negative turns hedging off.
	Quantile float64
	// Floor is the least time after which a request can be late or silent. 0
	// means 40 ms, below which a busy processor looks like a slow server. If
	// answers take longer (S3's first byte: 30 to 100 ms), the measured latency
	// decides.
	Floor time.Duration
	// Budget is the share of all requests that may be hedges. 0 means 0.05.
	Budget float64
}

// withDefaults returns the policy with its zero fields filled in.
func (p HedgePolicy) withDefaults() HedgePolicy {
	if p.Quantile == 0 {
		p.Quantile = 0.95
	}
	if p.Floor == 0 {
		p.Floor = 40 * time.Millisecond
	}
	if p.Budget == 0 {
		p.Budget = 0.05
	}
	return p
}

const (
	// ringSize is the number of latencies kept for each size class. They are
	// enough for a stable 95th percentile (three samples above it), and few
	// enough to sort in a microsecond and to forget old conditions in seconds.
	ringSize = 64
	// minSamples is the number of latencies before a class's own quantile counts.
	minSamples = 8
	// coldFactor times the floor, 400 ms, is how long a request may be silent
	// before latencies are known. Only the slowest stores take longer.
	coldFactor = 10
	// maxTokens is the most hedges that may be saved up. They are enough for a
	// burst of stalls (one dead front end), and bound the extra load on a dead
	// region.
	maxTokens = 16
)

// A hedger decides which running requests get a second one. Times are durations
// since the engine's start. The gate's lock guards it.
type hedger struct {
	p       HedgePolicy
	classes [40]latencies // by log2 of the length in bytes
	tokens  float64
}

// latencies is a ring of the last durations of one size class.
type latencies struct {
	ring [ringSize]time.Duration
	n    int // samples so far
	age  int // samples since typical was computed
	typical
}

// typical is the time that requests of one size class take.
type typical struct {
	quantile time.Duration // the time at HedgePolicy.Quantile; 0 if unknown
	median   time.Duration
}

func newHedger(p HedgePolicy) hedger { return hedger{p: p, tokens: 1} }

// requestSent counts a first request, which earns a share of a hedge.
func (h *hedger) requestSent() { h.tokens = min(h.tokens+h.p.Budget, maxTokens) }

// done records the duration of a complete request of n bytes.
func (h *hedger) done(n int64, d time.Duration) {
	l := &h.classes[class(n)]
	l.ring[l.n%ringSize] = d
	l.n++
	l.age++
}

func class(n int64) int { return min(bits.Len64(uint64(max(n, 0))), 39) }

// typical returns the recent times of requests of n bytes. Without enough samples
// it returns times that only the slowest stores exceed.
func (h *hedger) typical(n int64) typical {
	c := class(n)
	l := &h.classes[c]
	if l.n < minSamples {
		// The times of a larger class are an upper bound for a smaller one.
		for up := c + 1; up < len(h.classes); up++ {
			if h.classes[up].n >= minSamples {
				l = &h.classes[up]
				break
			}
		}
	}
	if l.n < minSamples {
		return typical{quantile: coldFactor * h.p.Floor, median: coldFactor / 2 * h.p.Floor}
	}
	if l.age > 0 && (l.quantile == 0 || l.age >= minSamples) {
		s := l.ring
		v := s[:min(l.n, ringSize)]
		slices.Sort(v)
		l.quantile = v[min(int(h.p.Quantile*float64(len(v))), len(v)-1)]
		l.median = v[len(v)/2]
		l.age = 0
	}
	return l.typical
}

// running is the hedger's view of one request. Its times come from gate.awakeTime.
type running struct {
	start    time.Duration // when it was sent
	lastByte time.Duration // when the last byte was received; start before the first one
	got      int64         // bytes received
	want     int64         // bytes asked for

	others     int   // other running requests to the host
	sinceStart int64 // requests to the host that have ended well since start
	sinceByte  int64 // requests to the host that have ended well since lastByte
}

// due reports whether a request should get a hedge now. A request is late if it has
// run for 1.5 times the quantile, or if it has been silent for the floor, for
// twice the median of a whole request, and for the quantile. It gets no hedge if
// the other requests to the host are late as well. A request that still receives
// bytes gets no hedge either if it will probably end before a hedge could.
func (h *hedger) due(now time.Duration, r running) bool {
	if h.p.Quantile < 0 {
		return false
	}
	age, silent := now-r.start, now-r.lastByte
	if age < h.p.Floor {
		return false
	}
	u := h.typical(r.want)
	if still := max(h.p.Floor, 2*u.median, u.quantile); silent >= still && h.heldUpAlone(silent, still, r.others, r.sinceByte) {
		return true
	}
	late := max(u.quantile+u.quantile/2, h.p.Floor)
	if age < late || !h.heldUpAlone(age, late, r.others, r.sinceStart) {
		return false
	}
	if r.got > 0 {
		left := time.Duration(float64(age) / float64(r.got) * float64(r.want-r.got))
		return left > u.median
	}
	return true
}

// overtakes is how many requests must have ended for each other running request
// before a late request counts as held up alone. A silence of two medians makes a
// request late, and in that time each slot of a working host ends two requests.
const overtakes = 2

// heldUpAlone reports whether a late request is held up by its own connection or
// front end. If something holds up all requests to a host (a host at its limit, a
// full link, busy processors), one more request doesn't help. A request that has
// waited for twice its limit, and for at least coldFactor floors, counts as held
// up alone anyway, because the other requests may be stuck as well.
func (h *hedger) heldUpAlone(waits, limit time.Duration, others int, ended int64) bool {
	return ended >= int64(overtakes*others) || waits >= max(2*limit, coldFactor*h.p.Floor)
}

// spend takes a hedge from the budget; it returns false if the budget is empty.
func (h *hedger) spend() bool {
	if h.tokens < 1 {
		return false
	}
	h.tokens--
	return true
}

// refund returns a hedge that was not sent to the budget.
func (h *hedger) refund() { h.tokens = min(h.tokens+1, maxTokens) }
