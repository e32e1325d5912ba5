package testorigin

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// capListener accepts connections that send at most rate bytes per second each.
type capListener struct {
	net.Listener
	rate int64
}

func (l capListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &capConn{Conn: c, rate: l.rate, closed: make(chan struct{})}, nil
}

// capConn paces writes. It keeps the sendfile path, because net/http sees a
// ReaderFrom, which passes each slice of a file to the TCP connection's own
// ReadFrom.
type capConn struct {
	net.Conn
	rate   int64
	once   sync.Once
	closed chan struct{}

	mu   sync.Mutex // guards next
	next time.Time  // earliest time of the next write
}

// capBurst is the slice, in bytes, after which a capped connection may have to
// wait. It is small enough for a smooth rate at 1 MB/s (64 ms), and large
// enough for sendfile to pay off.
const capBurst = 64 << 10

func (c *capConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// pay accounts for n sent bytes and waits until the connection is back under
// its rate.
func (c *capConn) pay(n int64) error {
	now := time.Now()
	c.mu.Lock()
	if c.next.Before(now) {
		c.next = now
	}
	c.next = c.next.Add(time.Duration(float64(n) / float64(c.rate) * float64(time.Second)))
	d := c.next.Sub(now)
	c.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *capConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := c.Conn.Write(p[:min(len(p), capBurst)])
		n += m
		p = p[m:]
		if err != nil {
			return n, err
		}
		if err := c.pay(int64(m)); err != nil {
			return n, err
		}
	}
	return n, nil
}

// ReadFrom implements io.ReaderFrom.
func (c *capConn) ReadFrom(src io.Reader) (n int64, err error) {
	lr, ok := src.(*io.LimitedReader)
	rf, ok2 := c.Conn.(io.ReaderFrom)
	if ok && ok2 {
		if f, ok := lr.R.(*os.File); ok {
			for lr.N > 0 {
				m, err := rf.ReadFrom(&io.LimitedReader{R: f, N: min(lr.N, capBurst)})
				n, lr.N = n+m, lr.N-m
				if err != nil || m == 0 {
					return n, err
				}
				if err := c.pay(m); err != nil {
					return n, err
				}
			}
			return n, nil
		}
	}
	return io.Copy(struct{ io.Writer }{c}, src)
}

// reset drops the client's connection with a TCP RST. It first waits until the
// written bytes have arrived, because a reset can overtake them.
func reset(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	c, _, err := rc.Hijack()
	if err != nil { // already hijacked, or closing
		return
	}
	var tcp *net.TCPConn
	switch c := c.(type) {
	case *net.TCPConn:
		tcp = c
	case *capConn:
		tcp, _ = c.Conn.(*net.TCPConn)
	}
	if tcp != nil {
		drain(r.Context(), tcp)
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// drainLimit bounds the wait before a reset for the client to take the sent
// bytes. A client that does not read is reset anyway.
const drainLimit = time.Second

// drain waits until the kernel holds no unacknowledged bytes of c.
func drain(ctx context.Context, c *net.TCPConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for unsent(c) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
