package ranges

import (
	"log/slog"
	"time"
)

// retry is a log entry about one retry.
type retry struct {
	object  string
	offset  int64
	attempt int
	after   time.Duration
	err     error
}

// logRetryLocked logs a retry. mu must be held; therefore another goroutine writes
// the warning, so that a blocked log doesn't hold up the host.
func (g *gate) logRetryLocked(now time.Duration, r retry) {
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
