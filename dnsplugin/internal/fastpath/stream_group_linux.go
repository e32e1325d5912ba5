//go:build amd64 || arm64

package fastpath

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Streams is the set of TCP listeners of the fast path at one address, with
// their connections. Make one with ListenStreams.
type Streams struct {
	opts      StreamOptions
	listeners []*net.TCPListener
	seats     []*seat              // one for each listener
	part      atomic.Pointer[part] // nil if not steered
	unsteered error                // why part is nil
	failed    atomic.Pointer[failure]
	handler   atomic.Pointer[streamHolder]
	config    atomic.Pointer[tls.Config] // nil for plain TCP
	held      atomic.Int64               // bytes that connections keep, see maxHeld
	refused   atomic.Uint64
	evicted   atomic.Uint64
	slow      atomic.Uint64

	accepting sync.WaitGroup // a goroutine for each listener
	running   sync.WaitGroup // the goroutines of connections
	closed    chan struct{}  // closed when Close begins

	mu     sync.Mutex // guards conns and places; before a connection's
	conns  map[*Conn]struct{}
	places *places[*Conn]
}

// ListenStreams binds listeners to addr, a host and port as for net.Listen,
// and serves the connections to them. The address must be free, or bound with
// SO_REUSEPORT by sockets of the same user only.
func ListenStreams(addr string, opts StreamOptions, h StreamHandler) (*Streams, error) {
	if opts.Listeners < 1 {
		return nil, fmt.Errorf("fastpath: %d listeners: give at least 1", opts.Listeners)
	}
	if err := tryCalls(); err != nil {
		return nil, err
	}
	most := streamsAllowed()
	if opts.TLS != nil {
		most = min(most, maxTLSStreams)
	}
	if opts.Most > 0 {
		most = min(most, opts.Most)
	}
	g := &Streams{opts: opts, places: newPlaces[*Conn](most), closed: make(chan struct{}), conns: map[*Conn]struct{}{}}
	g.config.Store(opts.TLS)
	g.Swap(h, opts.Limits)
	for i := range opts.Listeners {
		l, err := listenStream(addr)
		if err != nil {
			for _, l := range g.listeners {
				_ = l.Close()
			}
			return nil, fmt.Errorf("fastpath: TCP socket %d of %d at %s: %w", i+1, opts.Listeners, addr, err)
		}
		g.listeners = append(g.listeners, l)
		g.seats = append(g.seats, &seat{control: controlOf(l)})
	}
	for i, l := range g.listeners {
		g.accepting.Go(func() { g.accept(l, g.seats[i]) })
	}
	g.unsteered = errNotAsked
	if !opts.Unsteered {
		var p *part
		if p, g.unsteered = steerings.join(true, g.seats, opts.Report); p != nil {
			g.part.Store(p)
		}
	}
	return g, nil
}

// streamsAllowed returns the bound of connections. It leaves a quarter of the
// descriptors to the plugin chain, which needs them for its sources.
func streamsAllowed() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/4 > maxStreams/3 {
		return maxStreams
	}
	return max(1, int(limit.Cur)/4*3)
}

// listenStream binds a listener to addr in the way of CoreDNS, so that both are
// in one group of SO_REUSEPORT. It does not use MPTCP, which the kernel cannot
// steer; clients of MPTCP fall back to TCP.
func listenStream(addr string) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: reusePort}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	tl, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("%T is not a TCP listener", l)
	}
	return tl, nil
}

// controlOf returns a function that calls its argument with the descriptor of
// l.
func controlOf(l *net.TCPListener) func(func(fd int)) error {
	return func(f func(fd int)) error {
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// Failed returns the error that ended a listener, or nil if all are running.
func (g *Streams) Failed() error {
	if f := g.failed.Load(); f != nil {
		return f.error
	}
	return nil
}

// Steered reports whether the kernel sends all connections to these listeners
// now, and the reason if it does not.
func (g *Streams) Steered() (bool, error) {
	p := g.part.Load()
	if err := g.Failed(); err != nil || p == nil {
		return false, errors.Join(err, g.unsteered)
	}
	err := steerings.steered(p)
	return err == nil, err
}

// Swap makes h the handler of the next messages, also over open connections.
func (g *Streams) Swap(h StreamHandler, limits StreamLimits) {
	g.handler.Store(&streamHolder{h, limits})
}

// SwapTLS makes config the configuration of new connections. It has no effect
// on Streams that were made without TLS.
func (g *Streams) SwapTLS(config *tls.Config) {
	if g.opts.TLS != nil && config != nil {
		g.config.Store(config)
	}
}

// Conns returns the number of open connections.
func (g *Streams) Conns() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Take returns the numbers of closed connections since the previous call.
func (g *Streams) Take() StreamCounts {
	return StreamCounts{Refused: g.refused.Swap(0), Evicted: g.evicted.Swap(0), Slow: g.slow.Swap(0)}
}

// accept accepts connections from l until Close.
func (g *Streams) accept(l *net.TCPListener, s *seat) {
	defer l.Close()
	pause := time.Duration(0)
	for {
		tcp, err := l.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			if !s.knocked(tcp) {
				g.admit(tcp)
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			g.drain(l)
			return
		}
		var errno unix.Errno
		if errors.As(err, &errno) && lasting(errno) {
			g.giveUp(s, err)
			return
		}
		// Descriptors or memory are missing. Wait until some are free.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-g.closed:
			t.Stop()
			g.drain(l)
			return
		}
	}
}

// giveUp ends a listener whose accept keeps failing. The remaining listeners,
// in the end the server's own, get all connections.
func (g *Streams) giveUp(s *seat, err error) {
	g.failed.Store(&failure{err})
	if p := g.part.Load(); p != nil {
		steerings.leave(p, []*seat{s})
	}
	if g.opts.Report != nil {
		g.opts.Report(false, fmt.Sprintf("a TCP listener has ended: %v", err))
	}
}

// knocked closes tcp if it is a probe of steering, which it reports.
func (s *seat) knocked(tcp *net.TCPConn) bool {
	p := s.looking.Load()
	if p == nil {
		return false
	}
	from, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	peer := from.AddrPort()
	if !p.arrived(s, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())) {
		return false
	}
	_ = tcp.SetLinger(0)
	_ = tcp.Close()
	return true
}

// drain accepts the connections that the kernel has completed for l, because
// closing l would reset them. Their number is bounded, because more may come
// where steering is not possible.
func (g *Streams) drain(l *net.TCPListener) {
	raw, err := l.SyscallConn()
	if err != nil {
		return
	}
	for range 1 << 12 {
		ready := false
		if raw.Control(func(fd uintptr) { ready = readable(fd) }) != nil || !ready {
			return
		}
		// A connection is there, unless its client has just reset it.
		_ = l.SetDeadline(time.Now().Add(10 * time.Millisecond))
		tcp, err := l.AcceptTCP()
		if err != nil {
			return
		}
		g.admit(tcp)
	}
}

// admit serves a connection. If there are too many, it closes another one or
// this one, see places.
func (g *Streams) admit(tcp *net.TCPConn) {
	c, err := newConn(g, tcp)
	if err != nil {
		_ = tcp.Close()
		return
	}
	g.mu.Lock()
	evicted, evicts, ok := g.places.take(c.peer.Addr(), c)
	if ok {
		g.conns[c] = struct{}{}
	}
	g.mu.Unlock()
	if evicts {
		g.evicted.Add(1)
		evicted.fail(net.ErrClosed)
	}
	if !ok {
		g.refused.Add(1)
		_ = tcp.Close()
		return
	}
	g.running.Go(c.serveConn)
}

// forget removes c, which is closed.
func (g *Streams) forget(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	g.places.leave(c.peer.Addr(), c)
}

// each calls f for every open connection.
func (g *Streams) each(f func(*Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		f(c)
	}
}

// Close closes the listeners, so that new connections go to the server's own
// sockets, if it has any. The messages that have come are answered, then the
// connections close, after 5 s at the latest. It must be called once.
func (g *Streams) Close() error {
	if p := g.part.Load(); p != nil {
		// The filter may still send connections to these listeners.
		steerings.leave(p, g.seats)
	}
	close(g.closed)
	for _, l := range g.listeners {
		_ = l.SetDeadline(expiredDeadline)
	}
	g.accepting.Wait()
	if p := g.part.Load(); p != nil {
		steerings.left(p)
	}
	g.each((*Conn).stop)
	grace := time.AfterFunc(closeGrace, func() { g.each(func(c *Conn) { c.fail(net.ErrClosed) }) })
	defer grace.Stop()
	g.running.Wait()
	return nil
}

// expiredDeadline is in the past; setting it unblocks pending reads.
var expiredDeadline = time.Unix(1, 0)

// reusePort is a net.ListenConfig.Control that makes the socket join the group
// of its address.
func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); cerr != nil {
		return cerr
	}
	return err
}
