package httprange

import (
	"errors"
	"net"
	"syscall"
)

// idleCheck checks whether an idle connection can be reused. It can't if anything
// has arrived since its last answer ended. An unrequested answer (408, 403, 206)
// would be taken for the answer to the next request, and the end of the stream
// means that the server has closed the connection.
type idleCheck struct {
	raw   syscall.RawConn
	look  func(fd uintptr) // sets quiet; made once
	quiet bool
}

// newIdleCheck returns nil for a connection without a socket.
func newIdleCheck(nc net.Conn) *idleCheck {
	if inner, ok := nc.(interface{ NetConn() net.Conn }); ok { // of TLS, whose records count as bytes
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

// usable reports whether the connection is open and silent. It makes a system call
// that does not wait.
func (c *idleCheck) usable() bool {
	if c == nil {
		return true
	}
	c.quiet = false
	return c.raw.Control(c.look) == nil && c.quiet
}
