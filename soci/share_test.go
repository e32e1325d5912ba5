package soci

import (
	"math"
	"testing"
)

// TestShare checks the defaults for concurrency by processors and open files.
func TestShare(t *testing.T) {
	for _, tc := range []struct {
		cpus, files                 int
		conns, parallelism, writers int
	}{
		{2, math.MaxInt32, 0, 3, 4},
		{64, 1 << 20, 0, 64, 128},
		{64, 1024, 128, 4, 8},
		{2, 1024, 128, 3, 4},
		{2, 256, 32, 1, 2},
		{16, 64, 8, 1, 1},
		{16, 8, 2, 1, 1},
	} {
		o := Options{}.share(tc.cpus, tc.files)
		if o.MaxConns != tc.conns || o.Parallelism != tc.parallelism || o.Writers != tc.writers {
			t.Errorf("%+v: %d connections, %d layers, %d writers", tc, o.MaxConns, o.Parallelism, o.Writers)
		}
	}
	set := Options{MaxConns: 100, Parallelism: 20, Writers: 30}.share(2, 64)
	if set.MaxConns != 100 || set.Parallelism != 20 || set.Writers != 30 {
		t.Errorf("%+v", set)
	}
}
