package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/nic"
)

// scope is the reach of an address. The zero value is unknown, as for a
// registry behind a proxy.
type scope uint32

const (
	scopeUnknown   scope = iota
	scopePublic          // reachable on the internet
	scopePrivate         // reachable within a site: RFC 1918, RFC 4193, RFC 6598
	scopeLinkLocal       // reachable on one link, such as the metadata services of clouds
	scopeLoopback        // reachable on this machine only
)

func (s scope) String() string {
	return [...]string{"an unknown", "a public", "a private", "a link-local", "a loopback"}[s]
}

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: carriers, and pods of some clusters
	nat64       = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052: the last 32 bits are an IPv4 address
)

func scopeOf(ip netip.Addr) scope {
	ip = ip.Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case !ip.IsValid():
		return scopeUnknown
	case ip.IsLoopback(), ip.IsUnspecified(): // the kernel takes 0.0.0.0 for this machine
		return scopeLoopback
	case ip.IsLinkLocalUnicast(), ip.IsMulticast():
		return scopeLinkLocal
	case ip.IsPrivate(), sharedSpace.Contains(ip):
		return scopePrivate
	}
	return scopePublic
}

// mayName reports whether a registry at an address with scope s may name a
// token server with scope to. A registry on the internet must not make us send
// requests to services that only we can reach. Otherwise it could receive the
// answer of a cloud's metadata service as a token.
func (s scope) mayName(to scope) bool {
	return to == scopePublic || to == s || s == scopeLoopback
}

// checkRealm checks the URL of a token server: its scheme, and its address if
// the URL has a literal one. If the URL has a host name, its address is checked
// when a connection is made.
func checkRealm(realm string, registryIsHTTP bool, registry scope) error {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" {
		return fmt.Errorf("token server %q is not a URL", httprange.RedactURL(realm))
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("token server %s: scheme %q is neither https nor http", httprange.RedactURL(realm), u.Scheme)
	case u.Scheme == "http" && !registryIsHTTP:
		return fmt.Errorf("token server %s is not https, but the registry is", httprange.RedactURL(realm))
	}
	if to := literalScope(u.Hostname()); to != scopeUnknown {
		return checkScope(u.Host, registry, to)
	}
	return nil
}

// literalScope returns the scope of a host that is an address or a name of this
// machine, or scopeUnknown.
func literalScope(hostname string) scope {
	if ip, err := netip.ParseAddr(hostname); err == nil {
		return scopeOf(ip)
	}
	if hostname == "localhost" || strings.HasSuffix(hostname, ".localhost") {
		return scopeLoopback
	}
	return scopeUnknown
}

// errScope is the error of a token server whose address the registry may not
// name.
var errScope = errors.New("refused")

func checkScope(name string, registry, to scope) error {
	if registry.mayName(to) {
		return nil
	}
	return fmt.Errorf("token server %s has %v address, the registry %v one: %w", name, to, registry, errScope)
}

// dialer makes the connections to one host and learns the scope of its address.
type dialer struct {
	dial httprange.DialContext
	std  *net.Dialer // used by dial, or nil if the caller provided dial
	// spread is the dialer over several interfaces that dial uses, or nil.
	spread  *nic.Dialer
	timeout time.Duration // of one connection; 0 is the dialer's own
	host    string        // host:port
	seen    atomic.Uint32
}

// newDialer returns a dialer for a host. dial may be nil. A timeout of 0 is the
// default.
func newDialer(dial httprange.DialContext, host string, timeout time.Duration) *dialer {
	d := &dialer{dial: dial, timeout: timeout, host: host}
	u := url.URL{Host: host}
	d.seen.Store(uint32(literalScope(u.Hostname())))
	if d.dial == nil {
		d.std = &net.Dialer{Timeout: timeoutOf(timeout), KeepAlive: keepAlive}
		d.dial = d.std.DialContext
	} else if timeout > 0 {
		d.dial = within(dial, timeout)
	}
	return d
}

// within bounds the time of each connection that dial makes.
func within(dial httprange.DialContext, timeout time.Duration) httprange.DialContext {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no connection to %s within %v", address, timeout))
		defer cancel()
		c, err := dial(ctx, network, address)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return c, err
	}
}

const (
	// dialTimeout allows for two lost packets, which are sent again after 1 and
	// 3 s.
	dialTimeout = 5 * time.Second
	keepAlive   = 15 * time.Second
)

func timeoutOf(d time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return dialTimeout
}

// scope returns the scope of the last address that the host was reached at.
func (d *dialer) scope() scope { return scope(d.seen.Load()) }

// DialContext dials for a transport and remembers the scope of the peer, unless
// the peer is a proxy.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.dial(ctx, network, address)
	if err != nil {
		if _, ok := errors.AsType[*net.OpError](err); !ok { // a caller's dialer may return an error of another type
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return nil, err
	}
	if sameAuthority(address, d.host) {
		d.seen.Store(uint32(scopeOf(peerOf(c))))
	}
	return c, nil
}

// toRealm returns a DialContext for a token server, which refuses addresses
// that the registry may not name. The check is made at dial time, because a
// name can resolve to another address a moment later.
func (d *dialer) toRealm(realm string) httprange.DialContext {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if !sameAuthority(address, realm) { // a proxy, which we chose
			return d.dial(ctx, network, address)
		}
		dial := d.dial
		switch { // our two dialers can refuse the address before a packet is sent
		case d.spread != nil:
			dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				return d.spread.DialAllowed(ctx, network, address, func(to netip.Addr) error {
					return checkScope(realm, d.scope(), scopeOf(to))
				})
			}
			if d.timeout > 0 {
				dial = within(dial, d.timeout)
			}
		case d.std != nil:
			std := *d.std
			std.Control = func(_, address string, _ syscall.RawConn) error {
				to, err := netip.ParseAddrPort(address)
				if err != nil {
					return err
				}
				return checkScope(realm, d.scope(), scopeOf(to.Addr()))
			}
			dial = std.DialContext
		}
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if err := checkScope(realm, d.scope(), scopeOf(peerOf(c))); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
}

// peerOf returns the address of a connection's peer, or the zero Addr if that
// is not an IP address.
func peerOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip
	}
	return netip.Addr{}
}

// sameAuthority reports whether a dialled address belongs to host, whose port
// is optional.
func sameAuthority(address, host string) bool {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		return strings.EqualFold(h, name) && p == port
	}
	return strings.EqualFold(strings.Trim(host, "[]"), name)
}
