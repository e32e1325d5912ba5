//go:build amd64 || arm64

package fastpath

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// worker is a socket and the goroutine that serves it. What it writes per batch
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
//
// It is not locked to a thread. With one of its own, a handler that gives way
// costs two wake-ups of threads instead of a step of the scheduler: with a
// miss under way that was a tenth of all CPU. A wait in the kernel costs the
// same either way.
//
// The goroutine may be another one after a batch, see Batch.Resume.
func (w *worker) run() {
	b := w.batch
	for {
		b.reset()
		n := w.receive()
		if w.sock.closing.Load() {
			w.group.running.Done()
			return
		}
		if n <= 0 {
			continue
		}
		b.n = n
		if !w.group.handler.Load().Serve(w.index, b) {
			return
		}
		w.finish()
	}
}

// finish sends the replies of the batch and counts it.
func (w *worker) finish() {
	b, c := w.batch, &w.counts
	unsent := w.send()
	c.batches.Store(c.batches.Load() + 1)
	c.received.Store(c.received.Load() + uint64(b.n))
	c.sent.Store(c.sent.Load() + uint64(b.replies-unsent))
	if unsent > 0 {
		c.unsent.Store(c.unsent.Load() + uint64(unsent))
	}
}

// receive waits for a packet and takes what has come by then. Errors are those
// of earlier replies (a client's port is closed) and leave nothing to do.
func (w *worker) receive() int {
	// Under load there is a packet, and a call that can't wait need not tell
	// the scheduler. One that did would lose its processor now and then to
	// nobody, and would have to get it back under the lock of all.
	n, errno := w.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	if errno == unix.EAGAIN {
		n, errno = w.recvmmsg(unix.Syscall6, unix.MSG_WAITFORONE)
	}
	if errno != 0 {
		return 0
	}
	return n
}

type syscall6 = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno unix.Errno)

func (w *worker) recvmmsg(call syscall6, flags uintptr) (int, unix.Errno) {
	b := w.batch
	n, _, errno := call(unix.SYS_RECVMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.in[0])), uintptr(len(b.in)), flags, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
	return int(n), errno
}

// send sends the replies of the batch and returns how many the kernel did not
// take. It never waits: a full send buffer drops what does not fit.
func (w *worker) send() (unsent int) {
	b := w.batch
	for at := 0; at < b.replies; {
		// Without telling the scheduler either: it doesn't wait.
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
