//go:build amd64 || arm64

package fastpath

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// This file has the connections of Streams with StreamOptions.TLS. crypto/tls
// reads and writes the records. A tlsLayer between it and the socket keeps the
// rest of Conn as it is over plain TCP: messages come and replies go in bursts,
// and no goroutine waits for a slow client while it holds a lock.

const (
	// maxTLSStreams bounds the TLS connections of an address. An idle one takes
	// about 20 KiB, most of it in crypto/tls, so the bound is 320 MiB.
	maxTLSStreams = 1 << 14

	// recordRoom is the size of the buffers for records, so that one read
	// returns many short ones.
	recordRoom = 32 << 10
)

// recordBuffers are shared by all TLS connections. A connection that waits for
// its client has none.
var recordBuffers = sync.Pool{New: func() any { b := make([]byte, 0, recordRoom+4<<10); return &b }}

// errNoRecord is the error of a read when no input has come. It is temporary,
// so that crypto/tls keeps the part of a record that it has read.
var errNoRecord net.Error = noRecord{}

type noRecord struct{}

func (noRecord) Error() string   { return "fastpath: no whole record has come" }
func (noRecord) Timeout() bool   { return true }
func (noRecord) Temporary() bool { return true }

// tlsLayer is the net.Conn that the tls.Conn of a Conn reads from and writes
// to.
type tlsLayer struct {
	*tls.Conn
	c *Conn

	// Owned by the goroutine that reads.
	established bool    // the handshake is complete
	more        bool    // crypto/tls may have plaintext left that did not fit into a burst
	in          *[]byte // of recordBuffers, or nil if it holds no input
	unread      []byte  // part of in

	passed bool          // ProtocolHandler.Pass has the connection, so reads block
	closed chan struct{} // closed with a connection that was passed
	once   sync.Once     // closes closed

	sending sync.Mutex // held while the records of one send are made

	gathering bool    // records are appended to out and not written; guarded by Conn.mu
	out       *[]byte // of recordBuffers, or nil; guarded by Conn.mu
}

func newTLSLayer(c *Conn, config *tls.Config) *tlsLayer {
	l := &tlsLayer{c: c, closed: make(chan struct{})}
	l.Conn = tls.Server(layerConn{Conn: c.tcp, l: l}, config)
	return l
}

// layerConn is the connection that crypto/tls uses. It ignores deadlines, which
// are the Conn's, unless the connection was passed on.
type layerConn struct {
	net.Conn // for the addresses
	l        *tlsLayer
}

// Read implements net.Conn. During the handshake it waits for input. After it,
// Read returns errNoRecord if there is no input.
func (n layerConn) Read(p []byte) (int, error) {
	l := n.l
	if len(l.unread) == 0 {
		switch {
		case l.passed:
			l.c.usedAt.Store(time.Now().UnixNano())
			return l.c.tcp.Read(p)
		case l.established:
			return 0, errNoRecord
		}
		if err := l.c.await(); err != nil {
			return 0, err
		}
	}
	read := copy(p, l.unread)
	l.unread = l.unread[read:]
	if len(l.unread) == 0 {
		l.release()
	}
	return read, nil
}

// Write implements net.Conn. It does not wait for the client, unless the
// connection was passed on.
func (n layerConn) Write(p []byte) (int, error) {
	l := n.l
	if l.passed {
		return l.c.tcp.Write(p)
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.gathering {
		*l.out = append(*l.out, p...)
		return len(p), nil
	}
	if err := l.c.sendLocked(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn.
func (n layerConn) Close() error {
	if !n.l.passed {
		return nil // the Conn closes the socket
	}
	n.l.once.Do(func() { close(n.l.closed) })
	return n.l.c.tcp.Close()
}

// SetDeadline implements net.Conn.
func (n layerConn) SetDeadline(t time.Time) error {
	return errors.Join(n.SetReadDeadline(t), n.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (n layerConn) SetReadDeadline(t time.Time) error {
	n.l.c.mu.Lock()
	defer n.l.c.mu.Unlock()
	if !n.l.passed || n.l.c.stopping {
		return nil // the deadlines are the Conn's
	}
	return n.l.c.tcp.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (n layerConn) SetWriteDeadline(t time.Time) error {
	if !n.l.passed {
		return nil
	}
	return n.l.c.tcp.SetWriteDeadline(t)
}

// room returns a buffer for input from the socket.
func (l *tlsLayer) room() []byte {
	if l.in == nil {
		l.in, _ = recordBuffers.Get().(*[]byte)
	}
	return (*l.in)[:recordRoom]
}

// received makes the first n bytes of room the input.
func (l *tlsLayer) received(n int) { l.unread = (*l.in)[:n] }

// release returns the input buffer to the pool.
func (l *tlsLayer) release() {
	if l.in != nil {
		recordBuffers.Put(l.in)
		l.in, l.unread = nil, nil
	}
}

// handshake waits for the client to complete the handshake.
func (l *tlsLayer) handshake() error {
	if err := l.HandshakeContext(context.Background()); err != nil {
		return err
	}
	// The client's first records may have come with the end of its handshake.
	l.established, l.more = true, true
	return nil
}

// decrypt fills p with the plaintext of the records that have come. It returns
// an error only if there is no plaintext before it.
func (l *tlsLayer) decrypt(p []byte) (n int, err error) {
	for n < len(p) {
		read, err := l.Read(p[n:])
		n += read
		switch {
		case err == nil:
		case errors.Is(err, errNoRecord):
			l.more = false
			return n, nil
		case n > 0:
			l.more = true // the next call returns the error
			return n, nil
		default:
			return 0, err
		}
	}
	l.more = true
	return n, nil
}

// send sends p in records. It does not wait for the client.
func (l *tlsLayer) send(p []byte) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	buf, _ := recordBuffers.Get().(*[]byte)
	defer recordBuffers.Put(buf)
	l.c.mu.Lock()
	*buf = (*buf)[:0]
	l.out, l.gathering = buf, true
	l.c.mu.Unlock()
	_, err := l.Write(p)
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.out, l.gathering = nil, false
	if serr := l.c.sendLocked(*buf); serr != nil {
		return serr
	}
	if err != nil {
		// CloseWrite has been called.
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
		l.c.failLocked(err)
	}
	return err
}

// receiveTLS is receive for a TLS connection.
func (c *Conn) receiveTLS() bool {
	if c.whole {
		c.begin()
		return true
	}
	l := c.tls
	if !l.established {
		if err := l.handshake(); err != nil {
			if !c.expired(err) {
				c.fail(err)
			}
			return false
		}
		if h, ok := c.Handler().(ProtocolHandler); ok && !c.open(h) {
			return false
		}
	}
	for {
		stopped := false
		if !l.more && len(l.unread) == 0 {
			err := c.await()
			switch {
			case err == nil:
			case c.expired(err):
				if !c.last() {
					return false
				}
				stopped = true
			default:
				c.failUnlessEOF(err)
				return false
			}
		}
		n, err := l.decrypt(c.begin())
		if n > 0 {
			c.burst.filled += n
			return true
		}
		bursts.Put(c.burst)
		c.burst = nil
		if err != nil || stopped {
			c.failUnlessEOF(err)
			return false
		}
	}
}

// open starts the protocol that the client has chosen. If the connection is
// passed on, open waits until it is closed and returns false.
func (c *Conn) open(h ProtocolHandler) bool {
	p, greeting := h.Open(c, c.tls.ConnectionState().NegotiatedProtocol)
	if p != nil {
		c.protocol = p
		_ = c.send(greeting) // settle returns the error
		return true
	}
	c.mu.Lock()
	c.tls.passed = c.broken == nil
	passed := c.tls.passed
	c.mu.Unlock()
	if passed {
		h.Pass(c.tls.Conn)
		<-c.tls.closed
	}
	return false
}

// failUnlessEOF closes the connection because of err, unless the client has
// closed its side. Then its pending answers are sent first.
func (c *Conn) failUnlessEOF(err error) {
	if err != nil && !errors.Is(err, io.EOF) {
		c.fail(err)
	}
}
