//go:build amd64 || arm64

package fastpath

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// worker is a socket and the goroutine that serves it. The fields that it
// writes for each batch are between two lines of padding.
type worker struct {
	index int
	group *Group
	sock  *socket
	batch *Batch
	seat  *seat
	ended error // of closing the socket; read once the worker is done

	_       [line]byte
	counts  counts
	latest  int // packets of the latest receive
	drained int // packets received since Close began
	trouble trouble
	_       [line]byte
}

const (
	// busyBatch is the batch size from which on more packets are expected at
	// once: clients that wait for their answers send one or two, A and AAAA.
	busyBatch = 4
	// yieldsBeforeSleep is how often a worker lets other threads run before it
	// sleeps.
	yieldsBeforeSleep = 3

	// drainMost bounds the packets that are served while a socket is being
	// closed. It is more than the buffer of the socket holds.
	drainMost = 8192
)

// serveBatches serves batches until the socket is being closed, and then the
// packets that are queued in it.
//
// The goroutine is not locked to a thread. If it were, a handler that yields
// would cost two wake-ups of threads instead of a step of Go's scheduler, which
// took a tenth of all CPU while misses were under way. A wait in the kernel
// costs the same either way.
//
// Batch.Resume continues with another goroutine.
func (w *worker) serveBatches() {
	b := w.batch
	for {
		b.reset()
		n, errno := w.receive()
		if w.sock.closing.Load() {
			if w.drained += n; n == 0 || w.drained > drainMost {
				// Without delay, so that new packets go to the remaining
				// sockets.
				w.closeSocket()
				return
			}
		}
		if errno != 0 {
			pause, lasts := w.trouble.receiving(errno)
			if lasts {
				w.giveUp("recvmmsg", errno)
				return
			}
			if pause > 0 {
				<-time.After(pause)
			}
			continue
		}
		w.trouble.received()
		b.n = n
		if p := w.seat.looking.Load(); p != nil {
			w.probed(p)
		}
		if !w.group.handler.Load().Serve(w.index, b) {
			return
		}
		if errno := w.finish(); errno != 0 {
			w.giveUp("sendmmsg", errno)
			return
		}
	}
}

// closeSocket closes the socket after the last packet.
func (w *worker) closeSocket() {
	w.ended = w.sock.close()
	w.group.running.Done()
}

// giveUp ends the worker, whose system calls keep failing. The remaining
// sockets, in the end the server's own, get all packets.
func (w *worker) giveUp(call string, errno unix.Errno) {
	err := fmt.Errorf("%s: %w", call, errno)
	w.group.failed.Store(&failure{err})
	if p := w.group.part.Load(); p != nil {
		steerings.leave(p, []*seat{w.seat})
	}
	w.closeSocket()
	if report := w.group.opts.Report; report != nil {
		report(false, fmt.Sprintf("worker %d has ended: %v", w.index, err))
	}
}

// probed removes the probes of steering from the batch.
func (w *worker) probed(p *probes) {
	for i := range w.batch.n {
		o := w.batch.Origin(i)
		if p.arrived(w.seat, o.peer()) {
			w.batch.in[i].len = 0
		}
	}
}

// finish sends the replies of the batch and counts it. It returns the error of
// sending if that lasts.
func (w *worker) finish() unix.Errno {
	b, c := w.batch, &w.counts
	unsent, errno := w.send()
	c.batches.Store(c.batches.Load() + 1)
	c.received.Store(c.received.Load() + uint64(b.n))
	c.sent.Store(c.sent.Load() + uint64(b.replies-unsent))
	if unsent > 0 {
		c.unsent.Store(c.unsent.Load() + uint64(unsent))
	}
	return errno
}

// receive waits for a packet and takes all packets that are queued by then.
// While the socket is being closed, it does not wait.
func (w *worker) receive() (int, unix.Errno) {
	n, errno := w.take()
	if errno != 0 {
		n = 0
	}
	w.latest = n
	return n, errno
}

func (w *worker) take() (int, unix.Errno) {
	// Under load a packet is queued, and a call that cannot block need not
	// notify Go's scheduler. With the notification the worker would sometimes
	// lose its processor for no reason and have to get it back under a global
	// lock.
	n, errno := w.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	for i := 0; i < yieldsBeforeSleep && errno == unix.EAGAIN && w.latest >= busyBatch; i++ {
		// The senders are about to send more. To let them run is cheaper than
		// to sleep and be woken, for both sides, and brings more packets at
		// once. A worker with few packets sleeps instead: the kernel runs it as
		// soon as a packet comes, while after a yield it may wait for the end
		// of another thread's time slice.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		n, errno = w.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	}
	if errno == unix.EAGAIN && !w.sock.closing.Load() {
		n, errno = w.recvmmsg(unix.Syscall6, unix.MSG_WAITFORONE)
	}
	return n, errno
}

type syscall6 = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno unix.Errno)

func (w *worker) recvmmsg(call syscall6, flags uintptr) (int, unix.Errno) {
	b := w.batch
	n, _, errno := call(unix.SYS_RECVMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.in[0])), uintptr(len(b.in)), flags, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
	return int(n), errno
}

// send sends the replies of the batch and returns how many the kernel rejected.
// It never waits: replies that do not fit into the send buffer are dropped.
// errno is not 0 if the call will keep failing.
func (w *worker) send() (unsent int, errno unix.Errno) {
	b := w.batch
	for at := 0; at < b.replies; {
		n, e := w.sendmmsg(at)
		switch {
		case e == unix.EINTR:
		case e != 0:
			// The kernel rejects the first of them; it may accept the others.
			if !w.sendAlone(&b.out[at].hdr) {
				unsent++
			} else if w.trouble.sentAlone() {
				errno = e
			}
			if lasting(e) && e != unix.EPERM && e != unix.EACCES {
				errno = e
			}
			at++
		default:
			w.trouble.refused = 0
			at += n
		}
	}
	return unsent, errno
}

// sendmmsg sends the replies from number at on, and returns how many the kernel
// accepted.
func (w *worker) sendmmsg(at int) (int, unix.Errno) {
	b := w.batch
	// It cannot block, so the scheduler is not notified.
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.out[at])), uintptr(b.replies-at), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // likewise
	return int(n), errno
}

// sendAlone sends a reply that sendmmsg has refused with sendmsg. A firewall
// refuses both.
func (w *worker) sendAlone(h *unix.Msghdr) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(w.sock.fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) //nolint:gosec // likewise
	return errno == 0
}
