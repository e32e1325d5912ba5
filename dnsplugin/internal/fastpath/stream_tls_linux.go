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

// The connections of Streams with StreamOptions.TLS. crypto/tls makes and reads
// the records; a tlsLayer stands between it and the socket, so that the rest
// of Conn is the same as over plain TCP: bursts of messages in, bursts of
// replies out, no goroutine that waits for a slow client while it holds a lock.

const (
	// maxTLSStreams bounds the TLS connections of an address. An idle one takes
	// about 16 KiB, most of it in crypto/tls, so that is 256 MiB.
	maxTLSStreams = 1 << 14

	// recordRoom is the size of the buffers that hold records as they come from
	// or go to the socket: one read brings a burst of short ones.
	recordRoom = 32 << 10
)

// recordBuffers are shared by all TLS connections: a connection that waits for
// its client has none.
var recordBuffers = sync.Pool{New: func() any { b := make([]byte, 0, recordRoom+4<<10); return &b }}

// errNoRecord is what crypto/tls gets instead of input that has not come yet.
// It is temporary, so that crypto/tls keeps the part of a record that it has.
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
	more        bool    // crypto/tls may have plaintext that no burst had room for
	in          *[]byte // of recordBuffers, or nil if it holds no input
	unread      []byte  // part of in

	passed bool          // net/http, say, has the connection and waits for input itself
	closed chan struct{} // closed with a connection that was passed
	once   sync.Once     // closes closed

	sending sync.Mutex // held while the records of one send are made

	gathering bool    // guarded by Conn.mu: records go to out, not to the socket
	out       *[]byte // of recordBuffers, or nil; guarded by Conn.mu
}

func newTLSLayer(c *Conn, config *tls.Config) *tlsLayer {
	l := &tlsLayer{c: c, closed: make(chan struct{})}
	l.Conn = tls.Server(layerConn{Conn: c.tcp, l: l}, config)
	return l
}

// layerConn is the connection as crypto/tls sees it. Deadlines are the Conn's.
type layerConn struct {
	net.Conn // for the addresses
	l        *tlsLayer
}

// Read implements net.Conn. During the handshake it waits for input; later it
// returns errNoRecord if there is none.
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

// Write implements net.Conn. It does not wait for the client.
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

// received says that the first n bytes of room are input.
func (l *tlsLayer) received(n int) { l.unread = (*l.in)[:n] }

// release gives the input buffer back.
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

// decrypt fills p with what the client's records hold, as far as they have
// come. At the end of the connection it returns the bytes before it first.
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
			l.more = true // the error comes again
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
		// The end of the connection has been announced.
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
		l.c.failLocked(err)
	}
	return err
}

// receiveTLS is receive for a TLS connection. It reports false at the end of
// the connection.
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

// open begins the protocol that the client has chosen. It reports false if the
// connection was passed on, and is closed by now.
func (c *Conn) open(h ProtocolHandler) bool {
	p, greeting := h.Open(c, c.tls.ConnectionState().NegotiatedProtocol)
	if p != nil {
		c.protocol = p
		_ = c.send(greeting) // an error is found by settle
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

// failUnlessEOF ends the connection because of err, unless the client has
// ended it: what it has asked for is answered first.
func (c *Conn) failUnlessEOF(err error) {
	if err != nil && !errors.Is(err, io.EOF) {
		c.fail(err)
	}
}
