package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Spread is the middle and the ends of a number of values.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// SpreadOf sums up a quantity of samples. It skips values for which get returns
// false, because a run that failed has no rate.
func SpreadOf(samples []Sample, get func(Sample) (float64, bool)) Spread {
	var v []float64
	for _, s := range samples {
		if x, ok := get(s); ok {
			v = append(v, x)
		}
	}
	return spread(v)
}

func spread(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	slices.SortFunc(v, cmp.Compare[float64])
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return Spread{Median: mid, Min: v[0], Max: v[len(v)-1], N: len(v)}
}

// CPUPerGB is the CPU cost of runs that succeeded. This and the functions below
// are quantities for [SpreadOf].
func CPUPerGB(s Sample) (float64, bool) { return s.CPUPerGB(), s.Outcome == OutcomeOK && s.Bytes > 0 }

// Wall is the wall time in seconds of runs that succeeded.
func Wall(s Sample) (float64, bool) { return s.Wall.Seconds(), s.Outcome == OutcomeOK }

// MaxRSS is the memory peak in bytes of all runs.
func MaxRSS(s Sample) (float64, bool) { return float64(s.MaxRSS), s.MaxRSS > 0 }

// Rate is delivered bytes per second of runs that succeeded.
func Rate(s Sample) (float64, bool) { return s.Rate(), s.Outcome == OutcomeOK && s.Bytes > 0 }

// Requests is what the server counted, whatever the outcome.
func Requests(s Sample) (float64, bool) { return float64(s.Requests), true }

// Outcomes says how the runs ended: "ok", or "typed 2, corrupt 1".
func Outcomes(samples []Sample) string {
	n := map[string]int{}
	var order []string
	for _, s := range samples {
		if n[s.Outcome] == 0 {
			order = append(order, s.Outcome)
		}
		n[s.Outcome]++
	}
	if len(order) == 1 {
		return order[0]
	}
	for i, w := range order {
		order[i] = fmt.Sprintf("%s %d", w, n[w])
	}
	return strings.Join(order, ", ")
}
