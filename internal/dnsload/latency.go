package dnsload

import (
	"math/bits"
	"time"
)

// Latency sums up how long answers took. Quantiles are upper bounds, at most
// an eighth too high.
type Latency struct {
	P50, P90, P99, P999, Max time.Duration
}

// stepsPerOctave is the resolution of the histogram: 8 steps between a time
// and its double.
const stepsPerOctave = 8

// histogram counts durations in steps that grow with them.
type histogram struct {
	counts [64 * stepsPerOctave]int64
	total  int64
	max    time.Duration
}

func (h *histogram) record(d time.Duration) {
	d = max(d, 1)
	h.counts[step(d)]++
	h.total++
	h.max = max(h.max, d)
}

// step returns the index of the step that holds d > 0: below stepsPerOctave
// every nanosecond has its own, above the three bits behind the first decide.
func step(d time.Duration) int {
	octave := bits.Len64(uint64(d)) - 1
	if octave < 3 {
		return int(d)
	}
	return (octave-2)*stepsPerOctave + int(d>>(octave-3))&(stepsPerOctave-1)
}

// upper returns the largest duration of a step.
func upper(i int) time.Duration {
	if i < stepsPerOctave {
		return time.Duration(i)
	}
	shift := i/stepsPerOctave - 1
	return time.Duration(i%stepsPerOctave+stepsPerOctave+1)<<shift - 1
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

func (h *histogram) summary() Latency {
	return Latency{P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), P999: h.quantile(0.999), Max: h.max}
}

func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int64(q*float64(h.total)), int64(0)
	for i, n := range h.counts {
		if seen += n; seen > rank {
			return min(upper(i), h.max)
		}
	}
	return h.max
}
