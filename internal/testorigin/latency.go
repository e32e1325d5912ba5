package testorigin

import (
	"math"
	"time"
)

// draw returns the latency of request i, which is a function of the seed and i.
func (l Latency) draw(seed, i uint64) time.Duration {
	if l == (Latency{}) {
		return 0
	}
	bits := mix(mix(seed) ^ i)
	if l.Tail > 0 && share(mix(bits)) < l.Tail {
		return l.TailDelay
	}
	// Inverse transform of the exponential distribution; share is below 1, so
	// the logarithm is finite.
	return l.Min + time.Duration(-math.Log(1-share(bits))*float64(l.Mean))
}
