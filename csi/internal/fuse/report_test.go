package fuse

import (
	"testing"
	"time"
)

// TestReports: a burst of failures is logged, then one each ten seconds, with the number of those in between.
func TestReports(t *testing.T) {
	var r reports
	start := time.Unix(1_700_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	logged := 0
	for ms := range 9_000 {
		if log, unlogged := r.failure(at(ms)); log {
			logged++
			if unlogged != 0 {
				t.Errorf("at %d ms: %d unlogged in the burst", ms, unlogged)
			}
		}
	}
	if logged != reportBurst {
		t.Errorf("%d logged in the first nine seconds, want %d", logged, reportBurst)
	}
	if log, unlogged := r.failure(at(10_001)); !log || unlogged != 9_000-reportBurst {
		t.Errorf("after ten seconds: %v, %d unlogged", log, unlogged)
	}
	if log, _ := r.failure(at(10_002)); log {
		t.Error("one more in ten seconds is too much")
	}
	for i := range reportBurst { // an hour later the burst is full again
		if log, _ := r.failure(at(3_600_000 + i)); !log {
			t.Errorf("failure %d of a new burst is not logged", i)
		}
	}
	if log, _ := r.failure(at(3_600_000)); log {
		t.Error("the burst is larger than it may be")
	}
}
