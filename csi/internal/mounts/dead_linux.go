package mounts

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeTime is how long [Dead] waits for a mount to answer. The kernel refuses for a server that has gone without
// asking anybody, within microseconds; a second is for a machine under load.
const ProbeTime = time.Second

// Dead reports whether the server behind the topmost FUSE mount on path has ended: the kernel then answers ENOTCONN
// itself. A server that answers is alive, and one that does not answer within limit may be, so neither is dead. A
// question that is not answered keeps a thread until the server answers or ends.
//
// It asks with statfs(2), which the kernel answers from no cache. Do not ask about a mount of this process.
func Dead(path string, limit time.Duration) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		for {
			err := unix.Statfs(path, &st)
			if !errors.Is(err, unix.EINTR) {
				answer <- err
				return
			}
		}
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case err := <-answer:
		return errors.Is(err, unix.ENOTCONN)
	case <-timeout.C:
		return false
	}
}
