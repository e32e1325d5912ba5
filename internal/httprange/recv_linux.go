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
	// lowStart is the first low-water mark of a connection, in bytes.
	lowStart = 16 << 10
	// lowMost is the largest low-water mark: half of the engine's reads, and a
	// tenth of the default receive buffer of Linux (tcp_rmem: 6 MiB).
	lowMost = 512 << 10
	// A wait below waitShort costs more in thread switches than it saves. A wait
	// above waitLong hides the progress of a body from the engine, which looks
	// every 5 ms.
	waitShort, waitLong = 2 * time.Millisecond, 8 * time.Millisecond
)

// receiver reads a TCP socket with less CPU time than net.TCPConn:
//
//   - The kernel wakes it only for as many bytes as arrive in a few milliseconds,
//     and never for more than the rest of the body (SO_RCVLOWAT, socket(7)). The
//     end of the stream and errors wake it anyway. Without the mark a fast body
//     wakes a thread for every few packets.
//   - The system call does not wait, and bypasses the scheduler. Otherwise the
//     runtime gives a thread's processor to another thread after 20 us in a system
//     call, and takes it back. Copying a megabyte takes longer than that.
//
// Over loopback both save a fourth of the CPU time of a GET of 1 MiB, and an eighth
// for 64 KiB (BenchmarkGet, direct against direct-hidden).
type receiver struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // r.attempt, made once
	left int64                 // rest of the body in bytes; 0 if unknown

	low   int // the mark that the measured waits suggest
	set   int // the socket's current mark
	since time.Time

	p   []byte
	n   int
	err error
}

// newReceiver returns nil for connections other than sockets of package net.
func newReceiver(nc net.Conn) *receiver {
	tcp, ok := nc.(interface {
		syscall.Conn
		SetNoDelay(noDelay bool) error // a *net.TCPConn, or a type that embeds it
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

// attempt reads once. It returns false if there was nothing to read.
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

// wait sets the low-water mark before the poller waits for the socket. Bytes that
// arrive in between still wake it, because the kernel checks again when the mark
// changes.
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

// woken adapts the mark to the length of the wait.
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
