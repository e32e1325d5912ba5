package ranges

import (
	"math/bits"
	"time"
)

const (
	// payload is how many times its first-byte latency a request should spend
	// on its bytes: then latency costs a ninth at most, and less with several
	// requests at once.
	payload = 8
	// leastPart bounds parts from below: at 2 MiB the cost of a request (about
	// 40 us of CPU over loopback) is a tenth of the cost of its bytes.
	leastPart = 2 << 20
)

// pace measures how quick a host answers, and sizes parts by it. A part that
// is larger than the latency asks for only holds memory and pushes others out
// of the cache: over loopback 16 parts of 8 MiB cost a third more CPU a byte
// than 16 of 2 MiB (make bench AREA=engine). S3's 30 ms need the 8 MiB. No
// clock; the gate's lock guards it.
type pace struct {
	first time.Duration // first-byte latency: falls at once, rises slowly
	rate  float64       // bytes a second of one connection, exponential average
}

// done records a request that was sent at start, got its first byte at first
// and its last of n bytes at end.
func (p *pace) done(start, first, end time.Duration, n int64) {
	lat := max(first-start, time.Microsecond)
	if p.first == 0 || lat < p.first {
		p.first = lat
	} else {
		p.first += (lat - p.first) / 64
	}
	if n < 256<<10 || end <= first {
		return // too short to tell a rate
	}
	rate := float64(n) / (end - first).Seconds()
	if p.rate == 0 {
		p.rate = rate
	}
	p.rate += (rate - p.rate) / 8
}

// part returns the size of a part, a power of two between leastPart and most;
// most while nothing is known.
func (p *pace) part(most int64) int64 {
	if p.rate == 0 || most <= leastPart {
		return most
	}
	want := int64(payload * p.first.Seconds() * p.rate)
	if want >= most {
		return most
	}
	return min(max(int64(1)<<bits.Len64(uint64(max(want, 1)-1)), leastPart), most)
}
