package nic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultTimeout bounds one connection attempt. It allows for three SYN
	// retransmissions of Linux (1 + 2 + 4 s), and a dead address does not delay a
	// dial for minutes.
	DefaultTimeout = 10 * time.Second
	// DefaultKeepAlive is the time before and between TCP probes, as in net.Dialer.
	DefaultKeepAlive = 15 * time.Second
	// MaxTTL bounds the use of an answer of the resolver. Front ends of storage
	// services leave DNS a minute before they stop.
	MaxTTL = 30 * time.Second
	// DefaultStagger is the time after which a slow attempt gets a competitor (RFC
	// 8305 section 5).
	DefaultStagger = 250 * time.Millisecond
)

// Resolver finds the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options configure a Dialer. The zero value dials from any local address.
type Options struct {
	// Locals are local addresses ("10.0.0.5", "2001:db8::5") or interface names
	// ("eth1"). Empty lets the routing table choose.
	Locals []string
	// Resolver finds remote addresses. Nil means net.DefaultResolver.
	Resolver Resolver
	// Timeout bounds each attempt. Zero means DefaultTimeout, negative only the
	// context's bound.
	Timeout time.Duration
	// KeepAlive is the time without packets before TCP probes, and between them.
	// Negative turns them off. Zero means DefaultKeepAlive, or probes that find a
	// dead interface in five seconds if there are several Locals.
	KeepAlive time.Duration
	// TTL is how long an answer of the resolver is kept, at most MaxTTL. Zero means
	// MaxTTL; negative makes a lookup for each dial.
	TTL time.Duration
	// Stagger is the time after which a slow attempt gets a competitor. Zero means
	// DefaultStagger; negative tries another address only after a failure.
	Stagger time.Duration
}

// Validate reports the first mistake that doesn't depend on the host's interfaces.
// [New] checks these as well.
func (o Options) Validate() error {
	if o.TTL > MaxTTL {
		return fmt.Errorf("nic: TTL %v: at most %v", o.TTL, MaxTTL)
	}
	if err := checkForm(o.Locals); err != nil {
		return fmt.Errorf("nic: %w", err)
	}
	return nil
}

// checkForm reports the first entry that is wrong on every host.
func checkForm(locals []string) error {
	for i, l := range locals {
		if strings.TrimSpace(l) == "" {
			return fmt.Errorf("entry %d is empty: give an interface name or a local address", i+1)
		}
		if slices.Contains(locals[:i], l) {
			return fmt.Errorf("%q is given twice: remove one", l)
		}
		if a, err := netip.ParseAddr(l); err == nil && (a.IsUnspecified() || a.IsMulticast()) {
			return fmt.Errorf("%q is not the address of an interface: give one, or an empty list to let the routing table choose", l)
		}
	}
	return nil
}

// Check reports why [New] would refuse locals: an entry doesn't exist on this
// host, or no entry can send now. The error names the interfaces and addresses
// that exist; unlike the errors of New it doesn't name the package, so that the
// caller can name its own option. Check makes no connection.
func Check(locals []string) error {
	if err := checkForm(locals); err != nil {
		return err
	}
	_, err := parseLocals(locals)
	return err
}

// orDefault returns def if d is zero, off if it is negative, and d otherwise.
func orDefault(d, def, off time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return off
	}
	return d
}

// Interface is a network interface that connections can be sent from.
type Interface struct {
	Name  string
	Addrs []netip.Addr // global unicast, not loopback or link-local
}

// Interfaces lists the interfaces that are up and have an address to send from.
func Interfaces() ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("nic: list interfaces: %w", err)
	}
	var list []Interface
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := addrsOf(i)
		if err != nil {
			return nil, fmt.Errorf("nic: %w", err)
		}
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsGlobalUnicast() })
		if len(addrs) > 0 {
			list = append(list, Interface{Name: i.Name, Addrs: addrs})
		}
	}
	return list, nil
}

func addrsOf(i net.Interface) ([]netip.Addr, error) {
	raw, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of interface %s: %w", i.Name, err)
	}
	var addrs []netip.Addr
	for _, r := range raw {
		if n, ok := r.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs, nil
}

// local is a validated entry of Options.Locals.
type local struct {
	name   string
	device string     // bind the socket to this device, if not empty
	v4, v6 netip.Addr // bind the socket to this address of the family, if valid
	pick   pickLocal
	unfit  error // why it can't send now; nil if it can
}

// parseLocals looks the locals up on this host. An interface that is down or has
// no address is kept if another local can send, so that a program starts while
// one of its network cards is broken and uses the card once it is repaired.
func parseLocals(names []string) ([]local, error) {
	if len(names) == 0 {
		return []local{{name: "any", pick: pickLocal{name: "any", v4: true, v6: true}}}, nil
	}
	var locals []local
	for _, name := range names {
		parse := parseDevice
		if _, err := netip.ParseAddr(name); err == nil {
			parse = parseAddr
		}
		l, err := parse(name)
		if err != nil {
			return nil, err
		}
		l.name, l.pick.name = name, name
		locals = append(locals, l)
	}
	if !slices.ContainsFunc(locals, func(l local) bool { return l.unfit == nil }) {
		return nil, locals[0].unfit
	}
	return locals, nil
}

// parseAddr checks an address by binding to it. A search among the interfaces'
// addresses would refuse most of 127.0.0.0/8, and addresses that are usable only
// because the system allows non-local binds.
func parseAddr(name string) (local, error) {
	a := netip.MustParseAddr(name).Unmap()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return local{}, fmt.Errorf("local address %s is not on this host: use one of %s", name, usable())
	}
	c.Close()
	l := local{pick: pickLocal{v4: a.Is4(), v6: a.Is6()}}
	if a.Is4() {
		l.v4 = a
	} else {
		l.v6 = a
	}
	return l, nil
}

// parseDevice looks an interface up. Its sockets are bound to the device if the
// kernel permits that.
func parseDevice(name string) (local, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return local{}, fmt.Errorf("no interface or address %q on this host: use one of %s", name, usable())
	}
	addrs, err := addrsOf(*i)
	if err != nil {
		return local{}, err
	}
	var l local
	for _, a := range addrs {
		switch {
		case a.IsLinkLocalUnicast():
		case a.Is4() && !l.v4.IsValid():
			l.v4 = a
		case a.Is6() && !l.v6.IsValid():
			l.v6 = a
		}
	}
	l.pick.v4, l.pick.v6 = l.v4.IsValid(), l.v6.IsValid()
	switch {
	case i.Flags&net.FlagUp == 0:
		l.unfit = fmt.Errorf("interface %s is down: set it up or leave it out", name)
	case !l.pick.v4 && !l.pick.v6:
		l.unfit = fmt.Errorf("interface %s has no address: give it one or leave it out", name)
	}
	if canBindDevice(name) {
		// The kernel chooses the source address by the route, which is also right
		// for an interface with several addresses.
		l.device, l.v4, l.v6 = name, netip.Addr{}, netip.Addr{}
		if l.unfit != nil { // its addresses may come later, of either family
			l.pick.v4, l.pick.v6 = true, true
		}
	} else if l.unfit != nil {
		l.pick.v4, l.pick.v6 = false, false
	}
	return l, nil
}

// usable lists the interfaces and addresses of the host, for messages.
func usable() string {
	ifs, err := Interfaces()
	if err != nil || len(ifs) == 0 {
		return "the host's addresses (no interface is up)"
	}
	var b strings.Builder
	for i, f := range ifs {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s", f.Name)
		for _, a := range f.Addrs {
			fmt.Fprintf(&b, " %s", a)
		}
	}
	return b.String()
}

// errFamily is returned if no local can send to an address of the name.
var errFamily = errors.New("no local address of the same family (IPv4 or IPv6)")
