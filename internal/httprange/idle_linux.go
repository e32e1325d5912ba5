//go:build !386 && !s390x

package httprange

import (
	"syscall"
	"unsafe"
)

// peek returns 1 if a byte can be read from a socket now, and 0 at the end of the
// stream. It leaves the byte in the socket.
func peek(fd uintptr) (n int, err error) {
	var one [1]byte
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel writes at most one byte there and keeps nothing
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, e
		}
	}
}
