package fuse

import "time"

// How many failures of requests are logged: a burst, so that the first ones of each trouble are all there, and then one in
// so long. A program that reads in a loop fails thousands of times a second.
const (
	reportBurst = 10
	reportEvery = 10 * time.Second
)

// reports decides which failures are logged: a bucket of reportBurst tokens, one more each reportEvery. It has no clock.
// The zero value is full.
type reports struct {
	spent float64   // tokens that are missing
	last  time.Time // when spent was right
	left  int       // failures since the last that was logged
}

// failure decides about one failure, and tells how many went unlogged before one that is logged.
func (r *reports) failure(now time.Time) (log bool, unlogged int) {
	if !r.last.IsZero() {
		r.spent = max(0, r.spent-float64(now.Sub(r.last))/float64(reportEvery))
	}
	r.last = now
	if r.spent > reportBurst-1 {
		r.left++
		return false, 0
	}
	r.spent++
	unlogged, r.left = r.left, 0
	return true, unlogged
}
