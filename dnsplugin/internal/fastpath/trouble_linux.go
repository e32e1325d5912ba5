//go:build amd64 || arm64

package fastpath

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lasting reports whether a system call that fails with errno will keep
// failing: seccomp, a security module or an old kernel refuses it, or the
// descriptor is wrong.
func lasting(errno unix.Errno) bool {
	switch errno { //nolint:exhaustive // all others pass
	case unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EBADF, unix.ENOTSOCK, unix.EFAULT, unix.EINVAL, unix.EOPNOTSUPP:
		return true
	}
	return false
}

const (
	// mostInRow is the number of failures without a packet in between from
	// which on any error counts as lasting. With the pauses they take about 5
	// s.
	mostInRow = 64
	// unpaused is the number of errors in a row before the first pause. The
	// network reports an error for each reply to a client that has gone.
	unpaused = 8
	// longestPause is the longest pause between two failing receives.
	longestPause = 100 * time.Millisecond
	// mostAlone is the number of replies in a row that only sendmsg could send
	// from which on the failure of sendmmsg counts as lasting.
	mostAlone = 8
)

// trouble distinguishes temporary errors from lasting ones.
type trouble struct {
	inRow   int // receives that have failed since a packet came
	refused int // replies that only sendmsg has sent, since sendmmsg has
}

// receiving takes note of a failed receive. It returns the pause before the
// next one, and whether the failure lasts.
func (t *trouble) receiving(errno unix.Errno) (pause time.Duration, lasts bool) {
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return 0, false
	}
	t.inRow++
	switch {
	case lasting(errno) || t.inRow > mostInRow:
		return 0, true
	case t.inRow <= unpaused:
		return 0, false
	}
	return min(time.Millisecond<<min(t.inRow-unpaused, 10), longestPause), false
}

// received takes note of a receive that returned packets.
func (t *trouble) received() {
	if t.inRow != 0 {
		t.inRow = 0
	}
}

// sentAlone takes note of a reply that sendmsg sent after sendmmsg had refused
// it. It reports whether the failure of sendmmsg lasts.
func (t *trouble) sentAlone() (lasts bool) {
	t.refused++
	return t.refused >= mostAlone
}

// tryCalls tries each system call that the fast path needs, because a sandbox
// may permit only the calls of a common DNS server.
func tryCalls() error {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return refused("socketpair", err)
		}
		if kind == unix.SOCK_DGRAM {
			err = tryPackets(pair)
		} else {
			err = tryStream(pair)
		}
		_ = unix.Close(pair[0])
		_ = unix.Close(pair[1])
		if err != nil {
			return err
		}
	}
	return nil
}

func tryPackets(pair [2]int) error {
	out, in := newBatch(&socket{fd: pair[0]}, 1, false), newBatch(&socket{fd: pair[1]}, 1, false)
	sender, receiver := worker{sock: out.sock, batch: out}, worker{sock: in.sock, batch: in}
	out.outBytes[0] = 'x'
	out.outIov[0].Base = &out.outBytes[0]
	out.outIov[0].SetLen(1)
	out.replies = 1
	if _, errno := sender.sendmmsg(0); errno != 0 {
		return refused("sendmmsg", errno)
	}
	if n, errno := receiver.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT); errno != 0 || n != 1 || in.inBytes[0] != 'x' {
		return refused("recvmmsg", errnoErr(errno))
	}
	return nil
}

func tryStream(pair [2]int) error {
	p := []byte{'x'}
	if _, errno := transfer(unix.SYS_SENDTO, uintptr(pair[0]), p, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); errno != 0 {
		return refused("sendto", errno)
	}
	if n, errno := transfer(unix.SYS_RECVFROM, uintptr(pair[1]), p, unix.MSG_DONTWAIT); errno != 0 || n != 1 {
		return refused("recvfrom", errnoErr(errno))
	}
	return nil
}

// refused returns the error for a system call that the fast path cannot do
// without.
func refused(call string, err error) error {
	if err == nil {
		err = errors.New("it has no effect")
	}
	return fmt.Errorf("the kernel, or a sandbox such as a seccomp profile, refuses a system call that it needs: %w", os.NewSyscallError(call, err))
}
