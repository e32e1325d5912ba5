//go:build amd64 || arm64

package fastpath

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// worker is a socket and the thread that serves it. What it writes per batch
// stands between two lines of padding.
type worker struct {
	index int
	group *Group
	sock  *socket
	batch *Batch

	_      [line]byte
	counts counts
	_      [line]byte
}

// run serves batches until the socket is being closed.
func (w *worker) run() {
	// A thread of our own: waiting in the kernel then costs no scheduling, and
	// other goroutines never wait behind us for one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := w.batch
	for {
		b.reset()
		n := w.receive()
		if w.sock.closing.Load() {
			return
		}
		if n <= 0 {
			continue
		}
		b.n = n
		w.group.handler.Load().Serve(w.index, b)
		unsent := w.send()
		c := &w.counts
		c.batches.Store(c.batches.Load() + 1)
		c.received.Store(c.received.Load() + uint64(n))
		c.sent.Store(c.sent.Load() + uint64(b.replies-unsent))
		if unsent > 0 {
			c.unsent.Store(c.unsent.Load() + uint64(unsent))
		}
	}
}

// receive waits for a packet and takes what has come by then. Errors are those
// of earlier replies (a client's port is closed) and leave nothing to do.
func (w *worker) receive() int {
	b := w.batch
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.in[0])), uintptr(len(b.in)), unix.MSG_WAITFORONE, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
	if errno != 0 {
		return 0
	}
	return int(n)
}

// send sends the replies of the batch and returns how many the kernel did not
// take. It never waits: a full send buffer drops what does not fit.
func (w *worker) send() (unsent int) {
	b := w.batch
	for at := 0; at < b.replies; {
		// Without telling the scheduler, since it doesn't block: a round trip
		// to the kernel per reply, 2 us each.
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(w.sock.fd),
			uintptr(unsafe.Pointer(&b.out[at])), uintptr(b.replies-at), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // likewise
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			// The first of them can't be sent; the others may.
			unsent++
			at++
		default:
			at += int(n)
		}
	}
	return unsent
}
