//penstock:pure

package ranges

import "time"

// warnEvery is how often retries are logged as a warning for one host: often
// enough to follow an outage, seldom enough that a thousand requests of a dead
// host do not fill a disk.
const warnEvery = 10 * time.Second

// RetryLog limits the rate of warnings about retries. It has no clock and is not
// safe for concurrent use; now is a duration since any fixed moment.
type RetryLog struct {
	warned  bool
	last    time.Duration
	skipped int
}

// Due reports whether a retry at now is to be logged as a warning, and how many
// were not since the last warning.
func (l *RetryLog) Due(now time.Duration) (skipped int, due bool) {
	if l.warned && now-l.last < warnEvery {
		l.skipped++
		return 0, false
	}
	skipped = l.skipped
	l.warned, l.last, l.skipped = true, now, 0
	return skipped, true
}
