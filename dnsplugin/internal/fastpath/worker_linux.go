//go:build amd64 || arm64

package fastpath

import (
	"fmt"
	"time"
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
	seat  *seat
	ended error // of closing the socket; read once the worker is done

	_       [line]byte
	counts  counts
	latest  int // packets that the last receive brought
	drained int // packets that have come since the socket is being closed
	trouble trouble
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
		n, errno := w.receive()
		if w.sock.closing.Load() {
			if w.drained += n; n == 0 || w.drained > drainMost {
				// At once, so that what comes now goes to the sockets that stay.
				w.end()
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

// end closes the socket after the last packet.
func (w *worker) end() {
	w.ended = w.sock.close()
	w.group.running.Done()
}

// giveUp ends the worker, whose system calls fail and will go on failing: the
// sockets that stay, in the end the server's own, get all packets.
func (w *worker) giveUp(call string, errno unix.Errno) {
	err := fmt.Errorf("%s: %w", call, errno)
	w.group.failed.Store(&failure{err})
	if p := w.group.part.Load(); p != nil {
		steerings.leave(p, []*seat{w.seat})
	}
	w.end()
	if report := w.group.opts.Report; report != nil {
		report(false, fmt.Sprintf("worker %d has ended: %v", w.index, err))
	}
}

// probed takes the probes out of the batch, see steering.
func (w *worker) probed(p *probes) {
	for i := range w.batch.n {
		o := w.batch.Origin(i)
		if p.arrived(w.seat, o.peer()) {
			w.batch.in[i].len = 0
		}
	}
}

// finish sends the replies of the batch and counts it. An error is one of
// sending that will not pass.
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

// receive waits for a packet and takes what has come by then; it does not wait
// when the socket is being closed.
func (w *worker) receive() (int, unix.Errno) {
	n, errno := w.take()
	if errno != 0 {
		n = 0
	}
	w.latest = n
	return n, errno
}

func (w *worker) take() (int, unix.Errno) {
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
	return n, errno
}

type syscall6 = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno unix.Errno)

func (w *worker) recvmmsg(call syscall6, flags uintptr) (int, unix.Errno) {
	b := w.batch
	n, _, errno := call(unix.SYS_RECVMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.in[0])), uintptr(len(b.in)), flags, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
	return int(n), errno
}

// send sends the replies of the batch and returns how many the kernel did not
// take. It never waits: a full send buffer drops what does not fit. errno is
// not 0 if the call will go on failing.
func (w *worker) send() (unsent int, errno unix.Errno) {
	b := w.batch
	for at := 0; at < b.replies; {
		n, e := w.sendmmsg(at)
		switch {
		case e == unix.EINTR:
		case e != 0:
			// The first of them can't be sent; the others may.
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

// sendmmsg sends the replies from number at on, as many as the kernel takes.
func (w *worker) sendmmsg(at int) (int, unix.Errno) {
	b := w.batch
	// Without telling the scheduler either: it doesn't wait.
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(w.sock.fd),
		uintptr(unsafe.Pointer(&b.out[at])), uintptr(b.replies-at), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // likewise
	return int(n), errno
}

// sendAlone sends a reply that sendmmsg has refused by another call. A
// firewall refuses both.
func (w *worker) sendAlone(h *unix.Msghdr) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(w.sock.fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) //nolint:gosec // likewise
	return errno == 0
}
