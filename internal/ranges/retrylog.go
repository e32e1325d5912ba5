package ranges

import (
	"log/slog"
	"time"
)

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

// retry is what the log says of one retry.
type retry struct {
	object  string
	offset  int64
	attempt int
	after   time.Duration
	err     error
}

// logRetry logs a retry. The caller holds g.mu, so the warning is written by
// another goroutine: a log that nobody reads must not hold up the host.
func (g *gate) logRetry(now time.Duration, r retry) {
	log := g.e.opts.Log
	log.Debug("range retried", "object", r.object, "offset", r.offset, "attempt", r.attempt, "after", r.after, "err", r.err)
	if g.logging.Load() {
		return // the last warning has not been written yet
	}
	skipped, due := g.retryLog.Due(now)
	if !due {
		return
	}
	g.logging.Store(true)
	g.wg.Go(func() {
		defer g.logging.Store(false)
		args := []any{"host", g.host, "object", r.object, "offset", r.offset, "attempt", r.attempt, "after", r.after, "err", r.err}
		if skipped > 0 {
			args = append(args, slog.Int("others", skipped))
		}
		log.Warn("request failed, retrying", args...)
	})
}
