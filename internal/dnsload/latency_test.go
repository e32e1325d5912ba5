package dnsload

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Every duration lies in its step and within an eighth of the step's end.
func TestHistogramSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "d"))
		up := upper(step(d))
		if up < d || float64(up) > float64(d)*1.126 {
			t.Fatalf("%d is in the step up to %d", d, up)
		}
		if step(up+1) != step(up)+1 {
			t.Fatalf("steps leave a gap or overlap at %d", up)
		}
	})
}

func TestQuantiles(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.record(time.Duration(i) * time.Microsecond)
	}
	s := h.summary()
	for _, tt := range []struct{ got, want time.Duration }{{s.P50, 500 * time.Microsecond}, {s.P90, 900 * time.Microsecond}, {s.P99, 990 * time.Microsecond}, {s.Max, time.Millisecond}} {
		if tt.got < tt.want || tt.got > tt.want*9/8+1 {
			t.Errorf("got %v, want %v to an eighth more", tt.got, tt.want)
		}
	}
}
