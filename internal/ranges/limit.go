//penstock:pure

package ranges

import "time"

const (
	// connRate is the rate of one S3 connection in bytes a second: 85 to 90 MB/s
	// by the S3 performance guide. A limiter starts with TargetRate / connRate
	// concurrent requests.
	connRate = 85_000_000
	// A throttle answer decreases the limit by half of the share of such answers
	// among the recent ones (DCTCP's rule, RFC 8257 section 3.3), at least by
	// leastDecrease. A host that refuses all requests halves the limit each time.
	// A single front end that does so, among many, costs little.
	leastDecrease = 1.0 / 16
	// ceilingHold is how long the limit stays below the limit that was throttled
	// last. A service that throttles takes minutes to add capacity.
	ceilingHold = 2 * time.Second
	// minGain is the least rise of the throughput that justifies more requests.
	minGain = 1.05
	// retryEpochs is the number of epochs after which a larger limit that brought
	// no gain is tried again, because the network may have improved.
	retryEpochs = 16
)

// A limiter decides how many concurrent requests one host gets. It starts from the
// target rate, grows while the throughput grows, and falls by a factor when the
// host throttles. An epoch ends when as many requests have ended as the limit
// allows at once. The gate's lock guards it.
type limiter struct {
	limit    float64 // requests at once; min <= limit <= max
	min, max float64

	epochStart time.Duration
	epochBytes int64
	epochDone  int
	starved    bool // a request had to wait for a slot during this epoch
	lastRate   float64
	idle       int // epochs since the limit last moved

	lastDecrease time.Duration
	throttled    bool    // there has been a decrease
	ceiling      float64 // the limit that was throttled last; 0 if none
	// recent is the share of throttle answers, as an exponential average over
	// about 16 answers.
	recent      float64
	pausedUntil time.Duration
}

func newLimiter(targetRate int64, minConns, maxConns int) limiter {
	l := limiter{min: float64(minConns), max: float64(maxConns)}
	l.limit = min(max(float64(targetRate)/connRate, l.min), l.max)
	return l
}

// slots returns how many requests may run now.
func (l *limiter) slots(now time.Duration) int {
	if now < l.pausedUntil {
		return 0
	}
	return int(l.limit)
}

// wanted records that a request had to wait for a slot.
func (l *limiter) wanted() { l.starved = true }

// done records a request that ended well with n bytes.
func (l *limiter) done(now time.Duration, n int64) {
	l.recent -= l.recent / 16
	if l.epochDone == 0 && l.epochBytes == 0 && l.epochStart == 0 {
		l.epochStart = now
	}
	l.epochBytes += n
	l.epochDone++
	if l.epochDone < max(int(l.limit), 4) {
		return
	}
	l.endEpoch(now)
}

// endEpoch compares the epoch's throughput with the last one, and moves the limit.
func (l *limiter) endEpoch(now time.Duration) {
	if d := now - l.epochStart; d > 0 {
		rate := float64(l.epochBytes) / d.Seconds()
		switch {
		case !l.starved:
			// No request waited, so more slots would not have been used.
		case rate > l.lastRate*minGain:
			l.grow(now)
			l.lastRate, l.idle = rate, 0
		default:
			if l.idle++; l.idle >= retryEpochs {
				l.lastRate = rate / minGain / minGain // the next epoch may grow
				l.idle = 0
			}
		}
	}
	l.epochStart, l.epochBytes, l.epochDone, l.starved = now, 0, 0, false
}

// grow raises the limit by an eighth. Within ceilingHold of a decrease it stays
// below the limit that was throttled.
func (l *limiter) grow(now time.Duration) {
	next := min(l.limit+max(1, l.limit/8), l.max)
	if l.ceiling > 0 && next >= l.ceiling {
		if now-l.lastDecrease < ceilingHold {
			l.lastRate = 0 // the next epoch may grow
			return
		}
		l.ceiling = 0
	}
	l.limit = next
}

// throttle records an answer that demands fewer requests. retryAfter is the pause
// that it names, or 0; sent is the time of its request. The pause delays that
// request alone, and the whole host only if half of its recent answers throttle.
// Answers to requests from before the last decrease don't decrease the limit
// again.
func (l *limiter) throttle(now, sent, retryAfter time.Duration) {
	l.recent += (1 - l.recent) / 16
	if retryAfter > 0 && l.recent >= 0.5 {
		l.pausedUntil = max(l.pausedUntil, now+retryAfter)
	}
	if l.throttled && sent < l.lastDecrease {
		return
	}
	l.throttled, l.lastDecrease, l.ceiling = true, now, l.limit
	l.limit = max(l.limit*(1-max(l.recent/2, leastDecrease)), l.min)
	l.lastRate = 0 // rates at different limits don't compare
	l.epochStart, l.epochBytes, l.epochDone = now, 0, 0
}
