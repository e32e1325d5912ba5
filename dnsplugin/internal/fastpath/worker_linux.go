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
	ended error // of closing the socket; read once the worker is done

	_       [line]byte
	counts  counts
	latest  int // packets that the last receive brought
	drained int // packets that have come since the socket is being closed
	_       [line]byte
}

const (
	// crowd is how many packets at once say that there is no end of them:
	// clients that wait for their answers send one or two, A and AAAA.
	crowd = 4
	// turnsGiven is how often other threads go first before a worker sleeps.
	turnsGiven = 3

	// drainMost is how many packets are still served when the socket is being
	// closed: more than its buffer holds, and not what comes for ever.
	drainMost = 8192
)

// run serves batches until the socket is being closed, and then what is in it.
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
			if w.drained += n; n == 0 || w.drained > drainMost {
				// At once, so that what comes now goes to the sockets that stay.
				w.ended = w.sock.close()
				w.group.running.Done()
				return
			}
		}
		if n == 0 {
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

// receive waits for a packet and takes what has come by then; it does not wait
// when the socket is being closed. Errors are those of earlier replies (a
// client's port is closed) and leave nothing to do.
func (w *worker) receive() int {
	w.latest = w.take()
	return w.latest
}

func (w *worker) take() int {
	// Under load there is a packet, and a call that can't wait need not tell
	// the scheduler. One that did would lose its processor now and then to
	// nobody, and would have to get it back under the lock of all.
	n, errno := w.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	for i := 0; i < turnsGiven && errno == unix.EAGAIN && w.latest >= crowd; i++ {
		// The senders are about to go on, on this CPU if not on others. Letting
		// them is cheaper than going to sleep and being woken, for us and for
		// them, and brings more packets at once. Without a crowd it would be a
		// bad exchange: who sleeps is let in at once when a packet comes, who
		// has given way may wait for a busy neighbour's slice to end.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		n, errno = w.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	}
	if errno == unix.EAGAIN && !w.sock.closing.Load() {
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
