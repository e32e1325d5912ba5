//go:build !386 && !s390x

package httprange

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

const (
	// lowStart is the first low-water mark of a connection's bodies.
	lowStart = 16 << 10
	// lowMost bounds it: half of what the engine reads at once, a tenth of what
	// Linux lets a socket hold by default (tcp_rmem: 6 MiB).
	lowMost = 512 << 10
	// A wait below waitShort was not worth the switch of threads; one above
	// waitLong hides for too long how a body gets on (the engine looks each 10 ms).
	waitShort, waitLong = 2 * time.Millisecond, 8 * time.Millisecond
)

// receiver reads a TCP socket for less than net.TCPConn does:
//
//   - It asks the kernel to wake it for as many bytes as come in some
//     milliseconds, but never for more than are left of the body (SO_RCVLOWAT,
//     socket(7)); the end of the stream and errors wake it in any case. A fast
//     body otherwise wakes a thread for every few packets.
//   - The call does not wait, so the scheduler need not know of it. To
//     copy a megabyte takes longer than the 20 us after which the runtime
//     gives a thread's processor to another thread, only to take it back.
//
// Over loopback both together save a fourth of the CPU time of a GET of 1 MiB, and
// an eighth of one of 64 KiB (BenchmarkGet, direct against direct-hidden).
type receiver struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // r.attempt, made once
	left int64                 // bytes of the body that are still to come; 0 unknown

	low   int // the mark that suits the connection
	set   int // the mark that the socket has
	since time.Time

	p   []byte
	n   int
	err error
}

// newReceiver returns nil for what is not a socket of package net.
func newReceiver(nc net.Conn) *receiver {
	tcp, ok := nc.(interface {
		syscall.Conn
		SetNoDelay(noDelay bool) error // a *net.TCPConn, or what embeds it
	})
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	r := &receiver{raw: raw, low: lowStart, set: 1}
	r.try = r.attempt
	return r
}

// Read implements io.Reader.
func (r *receiver) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.p = p
	err := r.raw.Read(r.try)
	r.p = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, r.err
	case r.n == 0:
		return 0, io.EOF
	}
	r.left = max(r.left-int64(r.n), 0)
	return r.n, nil
}

// attempt reads once; false means that there was nothing to read.
func (r *receiver) attempt(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&r.p[0])), uintptr(len(r.p)), syscall.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel writes len(r.p) bytes there and keeps nothing
		runtime.KeepAlive(r.p)
		switch e {
		case 0:
			r.n, r.err = int(n), nil
			r.woken()
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			r.wait(int(fd))
			return false
		default:
			r.n, r.err = 0, e
			return true
		}
	}
}

// wait sets the low-water mark before the socket is waited for. Bytes that come
// in between are not lost: the kernel looks again when the mark changes.
func (r *receiver) wait(fd int) {
	low := 1
	if r.left > 0 {
		low = int(min(int64(r.low), r.left))
		r.since = time.Now()
	}
	if low != r.set && syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, low) == nil {
		r.set = low
	}
}

// woken adapts the mark to how long it made us wait.
func (r *receiver) woken() {
	if r.since.IsZero() {
		return
	}
	waited := time.Since(r.since)
	r.since = time.Time{}
	switch {
	case waited < waitShort && r.set == r.low:
		r.low = min(2*r.low, lowMost)
	case waited > waitLong:
		r.low = max(r.low/2, 1)
	}
}
