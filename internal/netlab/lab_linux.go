package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Available returns nil if this process may build labs, or else the reason for
// t.Skip.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: network namespaces")
	}
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return fmt.Errorf("needs network namespaces: %w", err)
	}
	return nil
}

// Lab is a network; see [New].
type Lab struct {
	opts  Options
	ports [][2]port

	// mu guards nodes and procs against Close. It is a leaf lock, and is not
	// held while a function runs in a namespace.
	mu    sync.Mutex
	nodes map[string]*node // nil after Close
	procs map[*Process]struct{}
}

// node is a host or a switch.
type node struct {
	ns    netns.NsHandle // the reference that keeps the namespace alive
	file  string         // bound file of a named lab, "" otherwise
	ports []port         // of hosts, in the order of eth0, eth1, ...
	users int            // goroutines inside; guarded by Lab.mu, waited for by Close
	idle  chan struct{}  // closed when users falls to 0 after Close
}

// labs numbers the labs of this process, for the names of named ones.
var labs atomic.Int64

// New builds the network of o. Close the lab when done.
func New(o Options) (*Lab, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := Available(); err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	if o.Named {
		Sweep()
	}
	l := &Lab{opts: o, ports: o.plan(), nodes: map[string]*node{}, procs: map[*Process]struct{}{}}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build() error {
	serial := labs.Add(1)
	for _, name := range slices.Concat(l.opts.Hosts, l.opts.Switches) {
		n := &node{ns: netns.None(), idle: make(chan struct{})}
		l.nodes[name] = n
		if err := n.create(); err != nil {
			return fmt.Errorf("netlab: make namespace of %s: %w", name, err)
		}
		if l.opts.Named {
			if err := n.bind(fmt.Sprintf("%s%d-%d-%s", filePrefix, os.Getpid(), serial, name)); err != nil {
				return fmt.Errorf("netlab: name namespace of %s: %w", name, err)
			}
		}
	}
	for _, name := range l.opts.Switches {
		if err := l.nodes[name].addBridge(); err != nil {
			return fmt.Errorf("netlab: make bridge of %s: %w", name, err)
		}
	}
	for i, link := range l.opts.Links {
		if err := l.connect(i, link); err != nil {
			return fmt.Errorf("netlab: link %s-%s: %w", link.A, link.B, err)
		}
	}
	return nil
}

// create makes the namespace and brings its loopback interface up.
func (n *node) create() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err := netns.Get()
		if err != nil {
			return err
		}
		n.ns = ns
		return n.withHandle(func(h *netlink.Handle) error {
			lo, err := h.LinkByName("lo")
			if err != nil {
				return err
			}
			return h.LinkSetUp(lo)
		})
	})
}

// withHandle runs f with a routing socket of the namespace. The socket has the
// routing family only, because kernels without IPsec refuse others.
func (n *node) withHandle(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

const bridgeName = "br0"

func (n *node) addBridge() error {
	return n.withHandle(func(h *netlink.Handle) error {
		la := netlink.NewLinkAttrs()
		la.Name = bridgeName
		br := &netlink.Bridge{LinkAttrs: la}
		if err := h.LinkAdd(br); err != nil {
			return err
		}
		return h.LinkSetUp(br)
	})
}

// connect makes the veth pair of link i and configures both ends.
func (l *Lab) connect(i int, link Link) error {
	a, b := l.nodes[link.A], l.nodes[link.B]
	pa, pb := l.ports[i][0], l.ports[i][1]
	mtu := link.MTU
	if mtu == 0 {
		mtu = DefaultMTU
	}
	err := a.withHandle(func(h *netlink.Handle) error {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU = pa.ifname, mtu
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: la, PeerName: pb.ifname,
			PeerNamespace: netlink.NsFd(int(b.ns)), PeerMTU: uint32(mtu),
		})
	})
	if err != nil {
		return err
	}
	if err := a.setupPort(pa, link.RateAB); err != nil {
		return err
	}
	return b.setupPort(pb, link.RateBA)
}

// setupPort gives one end its address or its bridge, its rate, and sets it up.
func (n *node) setupPort(p port, rate int64) error {
	n.ports = append(n.ports, p)
	return n.withHandle(func(h *netlink.Handle) error {
		dev, err := h.LinkByName(p.ifname)
		if err != nil {
			return err
		}
		if p.v4.IsValid() {
			for _, pre := range []netip.Prefix{p.v4, p.v6} {
				addr, err := netlink.ParseAddr(pre.String())
				if err != nil {
					return err
				}
				if pre.Addr().Is6() {
					// Duplicate address detection would keep it unusable for a
					// second.
					addr.Flags = unix.IFA_F_NODAD
				}
				if err := h.AddrAdd(dev, addr); err != nil {
					return fmt.Errorf("address %s: %w", pre, err)
				}
			}
		} else {
			br, err := h.LinkByName(bridgeName)
			if err != nil {
				return err
			}
			if err := h.LinkSetMaster(dev, br); err != nil {
				return err
			}
		}
		if err := limit(h, dev, rate); err != nil {
			return err
		}
		return h.LinkSetUp(dev)
	})
}

const (
	// minBurst holds one segmentation-offload packet (64 KiB) twice, so that
	// the kernel need not cut packets apart at low rates.
	minBurst = 128 << 10
	// queueMillis is how long a packet may wait before it is dropped. It is
	// short enough for realistic round trips and long enough for a congestion
	// window.
	queueMillis = 20
)

// limit puts a token bucket on dev, or removes it if rate is 0.
func limit(h *netlink.Handle, dev netlink.Link, rate int64) error {
	attrs := netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if rate == 0 {
		err := h.QdiscDel(&netlink.Tbf{QdiscAttrs: attrs})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil // there was no bucket
		}
		return err
	}
	bytes := uint64(rate / 8)
	burst := max(minBurst, uint32(min(bytes/250, 4<<20))) // 4 ms, one timer tick at HZ=250
	return h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: attrs,
		Rate:       bytes,
		Buffer:     netlink.Xmittime(bytes, burst),
		Limit:      burst + uint32(min(bytes*queueMillis/1000, 64<<20)),
	})
}

// SetRate changes the limits of the i-th link of Options.Links.
func (l *Lab) SetRate(i int, rateAB, rateBA int64) error {
	link, err := l.link(i)
	if err != nil {
		return err
	}
	link.RateAB, link.RateBA = rateAB, rateBA
	if err := (Options{Hosts: []string{link.A, link.B}, Links: []Link{link}}).Validate(); err != nil {
		return err
	}
	set := func(name, ifname string, rate int64) error {
		return l.device(name, ifname, func(h *netlink.Handle, dev netlink.Link) error { return limit(h, dev, rate) })
	}
	if err := set(link.A, l.ports[i][0].ifname, rateAB); err != nil {
		return err
	}
	return set(link.B, l.ports[i][1].ifname, rateBA)
}

// SetLink sets both ends of the i-th link of Options.Links up or down.
func (l *Lab) SetLink(i int, up bool) error {
	link, err := l.link(i)
	if err != nil {
		return err
	}
	for k, name := range []string{link.A, link.B} {
		p := l.ports[i][k]
		err := l.device(name, p.ifname, func(h *netlink.Handle, dev netlink.Link) error {
			if !up {
				return h.LinkSetDown(dev)
			}
			if err := h.LinkSetUp(dev); err != nil || !p.v6.IsValid() {
				return err
			}
			// The interface lost its IPv6 address when it went down.
			addr, err := netlink.ParseAddr(p.v6.String())
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			return h.AddrReplace(dev, addr)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) link(i int) (Link, error) {
	if i < 0 || i >= len(l.opts.Links) {
		return Link{}, fmt.Errorf("netlab: link %d: the lab has %d", i, len(l.opts.Links))
	}
	return l.opts.Links[i], nil
}

// device runs f with an interface of a host or switch.
func (l *Lab) device(name, ifname string, f func(*netlink.Handle, netlink.Link) error) error {
	n, done, err := l.enter(name)
	if err != nil {
		return err
	}
	defer done()
	return n.withHandle(func(h *netlink.Handle) error {
		dev, err := h.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("netlab: %s of %s: %w", ifname, name, err)
		}
		return f(h, dev)
	})
}

// Addr returns the IPv4 address of eth-i of host, or the zero Addr.
func (l *Lab) Addr(host string, i int) netip.Addr { return l.portOf(host, i).v4.Addr() }

// Addr6 returns the IPv6 address of eth-i of host, or the zero Addr.
func (l *Lab) Addr6(host string, i int) netip.Addr { return l.portOf(host, i).v6.Addr() }

func (l *Lab) portOf(host string, i int) port {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[host]; n != nil && i >= 0 && i < len(n.ports) {
		return n.ports[i]
	}
	return port{}
}

// enter takes a reference to a namespace. Close waits for its release.
func (l *Lab) enter(name string) (*node, func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes == nil {
		return nil, nil, ErrClosed
	}
	n := l.nodes[name]
	if n == nil {
		return nil, nil, fmt.Errorf("netlab: no host %q in this lab", name)
	}
	n.users++
	return n, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 && l.nodes == nil {
			close(n.idle)
		}
	}, nil
}

// Close ends the processes that [Lab.Start] started, waits for functions inside
// namespaces, and removes the network. Sockets that are still open keep their
// namespace alive until they are closed. A second call does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	nodes, procs := l.nodes, l.procs
	l.nodes, l.procs = nil, nil
	for _, n := range nodes {
		if n.users == 0 {
			close(n.idle)
		}
	}
	l.mu.Unlock()
	for p := range procs {
		p.kill()
	}
	var errs []error
	for name, n := range nodes {
		<-n.idle
		if err := n.remove(); err != nil {
			errs = append(errs, fmt.Errorf("netlab: remove %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// remove deletes the interfaces and releases the namespace. It deletes the
// interfaces explicitly, because an open socket would keep them sending.
func (n *node) remove() error {
	var errs []error
	if n.ns.IsOpen() {
		errs = append(errs, n.withHandle(func(h *netlink.Handle) error {
			for _, p := range n.ports {
				if dev, err := h.LinkByName(p.ifname); err == nil { // else it was removed with its peer
					if err := h.LinkDel(dev); err != nil && !errors.Is(err, unix.ENODEV) {
						return err
					}
				}
			}
			return nil
		}))
		errs = append(errs, n.ns.Close())
	}
	if n.file != "" {
		errs = append(errs, unbind(n.file))
	}
	return errors.Join(errs...)
}

// onThread runs f on a thread that no other goroutine uses at the same time,
// and returns the thread to its namespace. A thread that cannot be returned
// ends with its goroutine.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
		done <- err
	}()
	return <-done
}
