//go:build !unix

package httprange

import "syscall"

// peek returns an error that makes every connection count as usable, because these
// systems have no read that doesn't wait.
func peek(uintptr) (int, error) { return 0, syscall.EAGAIN }
