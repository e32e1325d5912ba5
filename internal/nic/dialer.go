package nic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxAttempts bounds one dial. If so many addresses are dead, the caller's own
	// retry, which has a back-off, should continue.
	maxAttempts = 16
	// maxRacing bounds the concurrent attempts of one dial.
	maxRacing = 4
)

// Dialer opens connections; see [New].
type Dialer struct {
	locals    []local
	names     names
	timeout   time.Duration // of one attempt; 0 if unbounded
	stagger   time.Duration // 0 means never
	keepAlive net.KeepAliveConfig

	// connect makes one connection. It is a field so that tests need no sockets.
	connect func(ctx context.Context, l local, network string, remote netip.AddrPort) (net.Conn, error)

	mu   sync.Mutex // guards pick; leaf
	pick *picker
}

// New checks o against this host and returns a Dialer.
func New(o Options) (*Dialer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	locals, err := parseLocals(o.Locals)
	if err != nil {
		return nil, fmt.Errorf("nic: %w", err)
	}
	d := &Dialer{
		locals:    locals,
		names:     names{resolver: o.Resolver, ttl: orDefault(o.TTL, MaxTTL, 0), entries: map[string]*answer{}},
		timeout:   orDefault(o.Timeout, DefaultTimeout, 0),
		stagger:   orDefault(o.Stagger, DefaultStagger, 0),
		keepAlive: keepAliveOf(o),
	}
	if d.names.resolver == nil {
		d.names.resolver = net.DefaultResolver
	}
	d.connect = d.connectTCP
	picks := make([]pickLocal, len(locals))
	for i, l := range locals {
		picks[i] = l.pick
	}
	d.pick = newPicker(picks)
	return d, nil
}

// keepAliveOf returns the TCP probes of o. With several locals the probes find a
// dead interface in five seconds. The connections over it then fail, and their
// owner dials again over another interface. A slow server doesn't make a
// connection fail, because the server's kernel answers the probes.
func keepAliveOf(o Options) net.KeepAliveConfig {
	if o.KeepAlive == 0 && len(o.Locals) > 1 {
		return net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}
	}
	d := orDefault(o.KeepAlive, DefaultKeepAlive, -1)
	return net.KeepAliveConfig{Enable: d > 0, Idle: d, Interval: d}
}

// DialError reports that every attempt of a dial failed.
type DialError struct {
	Address  string // host:port as asked for
	Attempts int
	Err      error // of the first attempt, which used the best pair
}

// Error names the address and the failure of the first attempt.
func (e *DialError) Error() string {
	if e.Attempts > 1 {
		return fmt.Sprintf("nic: dial %s: %d attempts failed, the first: %v", e.Address, e.Attempts, e.Err)
	}
	return fmt.Sprintf("nic: dial %s: %v", e.Address, e.Err)
}

// Unwrap returns the error of the first attempt.
func (e *DialError) Unwrap() error { return e.Err }

// DialContext connects to address, a host:port; network is tcp, tcp4 or tcp6.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.DialAllowed(ctx, network, address, nil)
}

// DialAllowed is like DialContext, but uses only the remote addresses for which
// allow returns nil, and sends no packet to the others. If allow refuses all of
// them, DialAllowed returns its last error. A nil allow accepts every address.
func (d *Dialer) DialAllowed(ctx context.Context, network, address string, allow func(netip.Addr) error) (net.Conn, error) {
	remotes, err := d.remotes(ctx, network, address)
	if err == nil && allow != nil {
		remotes, err = allowedOf(remotes, allow)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &DialError{Address: address, Err: err}
	}
	return d.race(ctx, network, address, remotes)
}

// remotes returns all addresses of the name in address.
func (d *Dialer) remotes(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	family, ok := strings.CutPrefix(network, "tcp")
	if !ok || family != "" && family != "4" && family != "6" {
		return nil, fmt.Errorf("network %q: use tcp, tcp4 or tcp6", network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		p, err := net.DefaultResolver.LookupPort(ctx, network, service)
		if err != nil {
			return nil, err
		}
		port = uint64(p) //nolint:gosec // a port number
	}
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else if host == "" {
		return nil, errors.New("the host is empty")
	} else if addrs, err = d.names.lookup(ctx, "ip"+family, host); err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	remotes := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap()
		if family == "4" && !a.Is4() || family == "6" && !a.Is6() {
			continue
		}
		if r := netip.AddrPortFrom(a, uint16(port)); !slices.Contains(remotes, r) {
			remotes = append(remotes, r)
		}
	}
	if len(remotes) == 0 {
		return nil, fmt.Errorf("%s has no IPv%s address", host, family)
	}
	return remotes, nil
}

// allowedOf returns the remotes that allow accepts, or its last error if it
// accepts none of them.
func allowedOf(remotes []netip.AddrPort, allow func(netip.Addr) error) ([]netip.AddrPort, error) {
	var (
		allowed []netip.AddrPort
		refusal error
	)
	for _, r := range remotes {
		if err := allow(r.Addr()); err != nil {
			refusal = err
			continue
		}
		allowed = append(allowed, r)
	}
	if len(allowed) == 0 {
		return nil, refusal
	}
	return allowed, nil
}

// outcome is the end of one attempt.
type outcome struct {
	pair pair
	conn net.Conn
	err  error
}

// race tries the best pair, and after each failure and each stagger the next one,
// and returns the first connection. All attempts have ended when it returns.
func (d *Dialer) race(ctx context.Context, network, address string, remotes []netip.AddrPort) (net.Conn, error) {
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		tried   []pair
		first   error
		racing  int
		results = make(chan outcome, maxRacing)
		timer   = time.NewTimer(time.Hour)
	)
	defer timer.Stop()
	start := func() bool {
		if len(tried) == maxAttempts {
			return false
		}
		p, ok := d.pickNext(remotes, tried)
		if !ok {
			return false
		}
		tried = append(tried, p)
		racing++
		go func() {
			c, err := d.attempt(rctx, network, p)
			results <- outcome{p, c, err}
		}()
		if d.stagger > 0 {
			timer.Reset(d.stagger)
		}
		return true
	}
	if !start() {
		return nil, &DialError{Address: address, Err: errFamily}
	}
	for {
		select {
		case <-timer.C:
			if racing < maxRacing {
				start()
			}
		case r := <-results:
			racing--
			if r.err == nil {
				cancel()
				return d.win(r, tried, racing, results), nil
			}
			d.lose(r.pair, ctx.Err() == nil)
			if first == nil {
				first = r.err
			}
			if ctx.Err() == nil && start() || racing > 0 {
				continue
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, &DialError{Address: address, Attempts: len(tried), Err: first}
		}
	}
}

// win ends the other attempts of a race and returns the counted connection. It also
// sets aside the pairs that were tried before the winner, because otherwise an
// address that drops packets would delay every dial.
func (d *Dialer) win(r outcome, tried []pair, racing int, results <-chan outcome) net.Conn {
	head := tried[:slices.Index(tried, r.pair)]
	for range racing {
		o := <-results
		if o.conn != nil {
			o.conn.Close()
		}
		d.lose(o.pair, o.conn == nil && slices.Contains(head, o.pair))
	}
	d.mu.Lock()
	d.pick.succeeded(r.pair)
	d.mu.Unlock()
	return d.counted(r.conn, r.pair)
}

// pickNext returns the best pair that is not in tried.
func (d *Dialer) pickNext(remotes []netip.AddrPort, tried []pair) (pair, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pick.next(time.Now(), remotes, tried)
}

// lose ends the use of a pair, and sets the pair aside if it failed.
func (d *Dialer) lose(p pair, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if failed {
		d.pick.failed(time.Now(), p)
	}
	d.pick.done(p)
}

// attempt makes one connection within the timeout.
func (d *Dialer) attempt(ctx context.Context, network string, p pair) (net.Conn, error) {
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	return d.connect(ctx, d.locals[p.local], network, p.remote)
}

func (d *Dialer) connectTCP(ctx context.Context, l local, network string, remote netip.AddrPort) (net.Conn, error) {
	nd := net.Dialer{KeepAlive: -1, KeepAliveConfig: d.keepAlive}
	bind := l.v4
	if remote.Addr().Is6() {
		bind = l.v6
	}
	if bind.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(bind, 0))
	}
	if l.device != "" {
		nd.Control = func(_, _ string, c syscall.RawConn) error { return bindDevice(c, l.device) }
	}
	return nd.DialContext(ctx, network, remote.String())
}

// counted makes Close end the use of the pair. A TCP connection keeps its methods,
// so that copies still use sendfile and splice.
func (d *Dialer) counted(c net.Conn, p pair) net.Conn {
	release := sync.OnceFunc(func() { d.lose(p, false) })
	if tcp, ok := c.(*net.TCPConn); ok {
		return &tcpConn{TCPConn: tcp, release: release}
	}
	return &anyConn{Conn: c, release: release}
}

type tcpConn struct {
	*net.TCPConn
	release func()
}

func (c *tcpConn) Close() error {
	c.release()
	return c.TCPConn.Close()
}

type anyConn struct {
	net.Conn
	release func()
}

func (c *anyConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// PairStat describes a pair of a local and a remote.
type PairStat struct {
	Local    string // as in Options.Locals, or "any"
	Remote   netip.AddrPort
	Active   int // open connections and running attempts
	Failures int // consecutive
}

// Stats returns the pairs that are in use or have failed, sorted by local and
// remote.
func (d *Dialer) Stats() []PairStat {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []PairStat
	for c, s := range d.pick.pairs {
		if s.active > 0 || s.failures > 0 {
			list = append(list, PairStat{d.locals[c.local].name, c.remote, s.active, s.failures})
		}
	}
	slices.SortFunc(list, func(a, b PairStat) int {
		if c := strings.Compare(a.Local, b.Local); c != 0 {
			return c
		}
		return a.Remote.Compare(b.Remote)
	})
	return list
}
