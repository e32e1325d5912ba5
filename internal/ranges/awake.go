//penstock:pure

package ranges

import "time"

// An awakeClock stands still while the process doesn't run. A monitor that looks
// later than it planned to has waited for a processor, or the machine was
// suspended. The lanes could not see any bytes arrive during that time, so it
// must not count as a server's silence. Times are durations since the engine's
// start. The zero value shows the time unchanged.
type awakeClock struct {
	due  time.Duration // when the monitor plans to look again
	lost time.Duration // sum of the delays of its looks
}

// expect records when the monitor plans to look again.
func (w *awakeClock) expect(due time.Duration) { w.due = due }

// look records that the monitor looks now.
func (w *awakeClock) look(now time.Duration) {
	if late := now - w.due; late > 0 {
		w.lost += late
		w.due = now
	}
}

// awakeAt returns now minus lost, the time during which the process didn't run.
func awakeAt(now, lost time.Duration) time.Duration { return now - lost }
