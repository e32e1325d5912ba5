package s3stream_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/internal/testport"
)

// proxy stands between a listener and those who dial it, and misbehaves. Down
// is from the listener to the dialler: from parent to child.
type proxy struct {
	l      net.Listener
	target atomic.Value // string
	wg     sync.WaitGroup

	// down sees the bytes of one connection on their way down before they are
	// passed on: n is the connection's number from 1, off the position of p in it.
	// It may change p or call the methods below.
	down func(n int, off int64, p []byte)

	mu     sync.Mutex // guards what follows
	pairs  []*pair
	n      int
	closed bool
	thawed chan struct{} // closed by the end of the test
}

// pair is one connection through the proxy.
type pair struct {
	in, out net.Conn
	frozen  atomic.Bool
}

func newProxy(t testing.TB, target string, down func(n int, off int64, p []byte)) *proxy {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", testport.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, down: down, thawed: make(chan struct{})}
	p.target.Store(target)
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		close(p.thawed)
		p.kill()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) serve() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		var d net.Dialer
		out, err := d.Dial("tcp", p.target.Load().(string))
		if err != nil {
			in.Close()
			continue
		}
		c := &pair{in: in, out: out}
		p.mu.Lock()
		p.n++
		n := p.n
		p.pairs = append(p.pairs, c)
		if p.closed {
			c.close()
		}
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(c, out, in, n, nil) })
		p.wg.Go(func() { p.copy(c, in, out, n, p.down) })
	}
}

func (p *proxy) copy(c *pair, to, from net.Conn, n int, see func(int, int64, []byte)) {
	defer c.close()
	buf := make([]byte, 32<<10)
	var off int64
	for {
		k, err := from.Read(buf)
		if k > 0 && see != nil {
			see(n, off, buf[:k])
		}
		off += int64(k)
		if c.frozen.Load() {
			<-p.thawed
		}
		if _, werr := to.Write(buf[:k]); err != nil || werr != nil {
			return
		}
	}
}

func (c *pair) close() {
	c.in.Close()
	c.out.Close()
}

// freeze stops the connections of now without closing them; later ones pass.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.pairs {
		c.frozen.Store(true)
	}
}

// cut closes the connections of now; later ones pass.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.pairs {
		c.close()
	}
	p.pairs = nil
}

// kill closes everything for good.
func (p *proxy) kill() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.l.Close()
	p.cut()
}
