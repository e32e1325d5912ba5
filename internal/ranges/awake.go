package ranges

import (
	"sync/atomic"
	"time"
)

// awake is a clock that stands still while the process does: what it was not there to see
// says nothing of a server. A monitor that looks later than it wanted to has waited for a
// processor, and so may every lane have; or the machine was suspended. Times are
// durations since the engine's start. The zero value shows the time as it is.
type awake struct {
	due  time.Duration // when the monitor wants to look again; the monitor's alone
	lost atomic.Int64  // ns by which it came too late, in all
}

// expect notes when the monitor will look again.
func (w *awake) expect(due time.Duration) { w.due = due }

// look is called when it does.
func (w *awake) look(now time.Duration) {
	if late := now - w.due; late > 0 {
		w.lost.Add(int64(late))
		w.due = now
	}
}

// at returns what the clock shows at now.
func (w *awake) at(now time.Duration) time.Duration { return now - time.Duration(w.lost.Load()) }
