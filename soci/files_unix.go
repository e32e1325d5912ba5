//go:build unix

package soci

import (
	"math"
	"syscall"
)

// openFiles returns the number of files that the process may have open. The Go
// runtime raises the soft limit to the hard limit at start.
func openFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(r.Cur) //nolint:gosec // below 2^31
}
