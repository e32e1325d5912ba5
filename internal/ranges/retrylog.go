//penstock:pure

package ranges

import "time"

// warnEvery is the time between two warnings about retries of one host. It is
// short enough to follow an outage, and long enough that a thousand requests of a
// dead host don't fill a disk.
const warnEvery = 10 * time.Second

// RetryLog limits the rate of warnings about retries. It is not safe for
// concurrent use; now is a duration since any fixed moment.
type RetryLog struct {
	warned  bool
	last    time.Duration
	skipped int
}

// Due reports whether a retry at now should be logged as a warning, and how many
// retries have not been logged since the last warning.
func (l *RetryLog) Due(now time.Duration) (skipped int, due bool) {
	if l.warned && now-l.last < warnEvery {
		l.skipped++
		return 0, false
	}
	skipped = l.skipped
	l.warned, l.last, l.skipped = true, now, 0
	return skipped, true
}
