//penstock:pure

package ranges

import "time"

const (
	// perConn is what one S3 connection carries, 85 to 90 MB/s by the S3
	// performance guide; the start is TargetRate / perConn requests at once.
	perConn = 85_000_000
	// A throttle answer decreases the limit by half of the share of such answers
	// among the recent ones (DCTCP's rule, RFC 8257 section 3.3): a host that
	// refuses everything halves it each time, one front-end of many that does
	// costs little. The least is leastDecrease.
	leastDecrease = 1.0 / 16
	// hold is how long the limit stays below the one that was throttled last
	// before it is tried again: capacity behind such answers grows in minutes.
	hold = 2 * time.Second
	// gain is the rise of the throughput that justifies more requests.
	gain = 1.05
	// patience is the number of epochs after which a limit that brought no
	// gain is tried again: the network may have got better.
	patience = 16
)

// limiter decides how many requests one host gets at once: it starts from the
// target rate, grows while the throughput grows, and falls by a factor when the
// host says that it has had enough. No clock, no I/O; the gate's lock guards it.
type limiter struct {
	limit    float64 // requests at once; min <= limit <= max
	min, max float64

	epochStart time.Duration
	epochBytes int64
	epochDone  int
	hungry     bool // somebody had to wait for a slot during this epoch
	lastRate   float64
	idle       int // epochs since the limit last moved

	lastDecrease time.Duration
	throttled    bool    // a decrease ever happened
	ceiling      float64 // the limit that was throttled last; 0 none
	// recent is the share of throttle answers, an exponential average over
	// about 16 answers.
	recent      float64
	pausedUntil time.Duration
}

func newLimiter(targetRate int64, minConns, maxConns int) limiter {
	l := limiter{min: float64(minConns), max: float64(maxConns)}
	l.limit = min(max(float64(targetRate)/perConn, l.min), l.max)
	return l
}

// slots returns how many requests may run now.
func (l *limiter) slots(now time.Duration) int {
	if now < l.pausedUntil {
		return 0
	}
	return int(l.limit)
}

// wanted notes that a request had to wait for a slot.
func (l *limiter) wanted() { l.hungry = true }

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

func (l *limiter) endEpoch(now time.Duration) {
	if d := now - l.epochStart; d > 0 {
		rate := float64(l.epochBytes) / d.Seconds()
		switch {
		case !l.hungry:
			// More requests would not have been used.
		case rate > l.lastRate*gain:
			l.grow(now)
			l.lastRate, l.idle = rate, 0
		default:
			if l.idle++; l.idle >= patience {
				l.lastRate = rate / gain / gain // one more step may be tried
				l.idle = 0
			}
		}
	}
	l.epochStart, l.epochBytes, l.epochDone, l.hungry = now, 0, 0, false
}

// grow raises the limit by an eighth; within hold of a decrease it stays below
// the limit that was too much.
func (l *limiter) grow(now time.Duration) {
	next := min(l.limit+max(1, l.limit/8), l.max)
	if l.ceiling > 0 && next >= l.ceiling {
		if now-l.lastDecrease < hold {
			l.lastRate = 0 // keep looking
			return
		}
		l.ceiling = 0
	}
	l.limit = next
}

// throttle records an answer that asked for fewer requests. retryAfter is the
// pause that it named, 0 none; sent is when its request went out. One such
// answer slows its own request only; when half of the recent answers are such,
// the whole host gets the pause. Answers to requests that were sent before the
// last decrease are no news and decrease nothing.
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
	l.lastRate = 0 // what came before is no measure for what follows
	l.epochStart, l.epochBytes, l.epochDone = now, 0, 0
}
