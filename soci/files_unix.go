//go:build unix

package soci

import (
	"math"
	"syscall"
)

// openFiles is how many files the process may have open. Go raises the soft limit to the hard one at its
// start.
func openFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(r.Cur) //nolint:gosec // below 2^31
}
