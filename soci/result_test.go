package soci

import "testing"

// TestTimingLimit finds the phase that bounded a pull.
func TestTimingLimit(t *testing.T) {
	tm := Timing{Network: 1, Inflate: 6, blocked: 3, lastHash: 0.5}
	if l := tm.limit(); l.Phase != "inflate" || l.Share != 0.6 || l.NextShare != 0.15 {
		t.Errorf("%+v", l)
	}
	tm.add(Timing{blocked: 10, lastHash: 0})
	if l := tm.limit(); l.Phase != "write" || l.Next != "inflate" || l.Share != 0.575 {
		t.Errorf("%+v", l)
	}
	if l := (Timing{}).limit(); l != (Limit{}) {
		t.Errorf("%+v", l)
	}
}
