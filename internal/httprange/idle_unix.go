//go:build unix && (!linux || 386 || s390x)

package httprange

import "syscall"

// peek returns 1 if a byte can be read from a socket now, and 0 at the end of the
// stream. It leaves the byte in the socket.
func peek(fd uintptr) (n int, err error) {
	var one [1]byte
	for {
		n, _, err = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
