//penstock:pure

package ranges

import (
	"math/bits"
	"time"
)

const (
	// bodyToLatency is how many times its first-byte latency a request should
	// spend on its body. Then latency takes a fifth of a connection's time, and
	// costs no throughput while there are enough connections.
	bodyToLatency = 4
	// paceSamples is the number of requests before parts grow. The first requests
	// to a host wait for new connections, so their latency is not typical.
	paceSamples = 16
	// leastPart is the smallest part. At 2 MiB the cost of a request (about 40 us
	// of CPU over loopback) is a tenth of the cost of its bytes.
	leastPart = 2 << 20
)

// A pace measures the latency of a host, and sizes parts by it. A part that is
// larger than the latency requires holds memory and displaces other parts from
// the cache: with fixed sizes over loopback, 16 parts of 8 MiB cost 0.6 to 0.8
// CPU-s/GB, and 16 parts of 2 MiB 0.3. S3's 30 ms require 8 MiB. The gate's lock
// guards it.
type pace struct {
	// The least first-byte latencies of this period and of the previous one. The
	// least one has no delay from queues that we cause.
	first, before time.Duration
	period        time.Duration // start of this period
	// The bytes a second of one request from its start to its end, as an
	// exponential average. Measured from the first byte, it would be the rate of a
	// burst, because readers on few cores take turns, and each drains a full
	// socket.
	rate    float64
	samples int
}

// pacePeriod is how long a least latency counts, between one and two times. BBR
// searches for a path's round-trip time with the same period.
const pacePeriod = 10 * time.Second

// done records a request of n bytes by the times of its start, its first byte and
// its last byte.
func (p *pace) done(start, first, end time.Duration, n int64) {
	lat := max(first-start, time.Microsecond)
	if end-p.period >= pacePeriod {
		p.before, p.first, p.period = p.first, 0, end
	}
	if p.first == 0 || lat < p.first {
		p.first = lat
	}
	if n < 256<<10 || end <= start {
		return // too short to measure a rate
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

// partBytes returns the size of a part, a power of two between leastPart and most.
// It is leastPart until enough requests have ended, because buffers that turn out
// too large stay in the pool.
func (p *pace) partBytes(most int64) int64 {
	if p.samples < paceSamples || most <= leastPart {
		return min(most, leastPart)
	}
	want := int64(bodyToLatency * p.latency().Seconds() * p.rate)
	if want >= most {
		return most
	}
	return min(max(int64(1)<<bits.Len64(uint64(max(want, 1)-1)), leastPart), most)
}
