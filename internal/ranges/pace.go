//penstock:pure

package ranges

import (
	"math/bits"
	"time"
)

const (
	// payload is how many times its first-byte latency a request should spend
	// on its bytes: then latency costs a fifth of a connection, and nothing of
	// the whole while there are enough connections.
	payload = 4
	// paceSamples before parts grow: the first requests of a host wait for new
	// connections, which says nothing of the later ones.
	paceSamples = 16
	// leastPart bounds parts from below: at 2 MiB the cost of a request (about
	// 40 us of CPU over loopback) is a tenth of the cost of its bytes.
	leastPart = 2 << 20
)

// pace measures how quick a host answers, and sizes parts by it. A part that
// is larger than the latency asks for only holds memory and pushes others out
// of the cache: with fixed sizes, in turns over loopback, 16 parts of 8 MiB cost
// 0.6 to 0.8 CPU-s/GB and 16 of 2 MiB 0.3. S3's 30 ms need the 8 MiB. No clock;
// the gate's lock guards it.
type pace struct {
	// The least first-byte latency of this period and of the one before: what
	// the host and the path need, without the queues that we make ourselves.
	first, before time.Duration
	period        time.Duration // start of this period
	// Bytes a second of one request from its start to its end, an exponential
	// average. Counted from the first byte it would be the rate of a burst: on
	// few cores the readers take turns, and each drains its socket at once.
	rate    float64
	samples int
}

// pacePeriod is how long a least latency counts, one to two times: the figure
// by which BBR looks for the path's round trip.
const pacePeriod = 10 * time.Second

// done records a request that was sent at start, got its first byte at first
// and its last of n bytes at end.
func (p *pace) done(start, first, end time.Duration, n int64) {
	lat := max(first-start, time.Microsecond)
	if end-p.period >= pacePeriod {
		p.before, p.first, p.period = p.first, 0, end
	}
	if p.first == 0 || lat < p.first {
		p.first = lat
	}
	if n < 256<<10 || end <= start {
		return // too short to tell a rate
	}
	p.samples++
	rate := float64(n) / (end - start).Seconds()
	if p.rate == 0 {
		p.rate = rate
	}
	p.rate += (rate - p.rate) / 8
}

// latency is the least first-byte latency of the last one to two periods.
func (p *pace) latency() time.Duration {
	if p.before > 0 && (p.first == 0 || p.before < p.first) {
		return p.before
	}
	return p.first
}

// part returns the size of a part, a power of two between leastPart and most;
// the least while nothing is known: buffers that prove too large stay in the pool.
func (p *pace) part(most int64) int64 {
	if p.samples < paceSamples || most <= leastPart {
		return min(most, leastPart)
	}
	want := int64(payload * p.latency().Seconds() * p.rate)
	if want >= most {
		return most
	}
	return min(max(int64(1)<<bits.Len64(uint64(max(want, 1)-1)), leastPart), most)
}
