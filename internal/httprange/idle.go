package httprange

import (
	"errors"
	"net"
	"syscall"
)

// idleCheck looks whether an idle connection can be used again: nothing may have come
// on it since its last answer ended. An answer that was not asked for (408, 403, 206)
// would be taken for the answer to the next request, and the end of the stream means
// that the server has closed it.
type idleCheck struct {
	raw   syscall.RawConn
	look  func(fd uintptr) // made once
	quiet bool
}

// newIdleCheck returns nil for a connection without a socket.
func newIdleCheck(nc net.Conn) *idleCheck {
	if inner, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS: what comes is records
		nc = inner.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	c := &idleCheck{raw: raw}
	c.look = func(fd uintptr) {
		_, err := peek(fd)
		c.quiet = errors.Is(err, syscall.EAGAIN)
	}
	return c
}

// usable reports whether the connection is open and silent. It costs a system call
// and does not wait.
func (c *idleCheck) usable() bool {
	if c == nil {
		return true
	}
	c.quiet = false
	return c.raw.Control(c.look) == nil && c.quiet
}
