package front

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// The fast path opens sockets of its own at the address of a server, so the
// kernel distributes queries among them and the server's. CoreDNS calls Decorate
// for each of its UDP sockets just before it serves the socket. At that time all
// sockets of the address are bound, and the server is known.

// adoptWithin is how long sockets stay open for a successor after their instance
// has ended. A successor takes them over within milliseconds, or never.
const adoptWithin = 5 * time.Second

// Registry holds the sockets of a process by their address. They belong to the
// process and not to a Cache, because on a reload the next instance takes them
// over, with all packets that are queued in them.
type Registry struct {
	find      func(plugin.Handler) *Instance // nil if the handler is not a cache of ours
	published Publisher

	Mu     sync.Mutex // guards all below and the listeners; held while sockets are opened and closed
	ByAddr map[string]*Listener
	orders uint64 // ordinal of the latest claim
}

// NewRegistry returns an empty Registry. find returns the instance of a handler,
// or nil if the handler is not a cache of ours.
func NewRegistry(find func(plugin.Handler) *Instance) *Registry {
	return &Registry{find: find, ByAddr: map[string]*Listener{}, published: Publisher{Histograms: map[string]map[string]*meters.Histogram{}}}
}

// Join makes i an instance of r and returns it.
func (r *Registry) Join(i *Instance) *Instance {
	i.registry = r
	return i
}

// Flush adds the counts of the workers to the series of Prometheus.
func (r *Registry) Flush() { r.published.flush() }

// Listener is a group of sockets at one address, with the server behind them.
type Listener struct {
	Group     *fastpath.Group   // nil at an address of TLS
	opts      fastpath.Options  // of the group
	Streams   *fastpath.Streams // nil if there are none
	http1     *http1Server      // nil if not of HTTPS
	Server    *Server
	Successor *Instance   // a starting instance that will take the sockets over, or nil
	Expiry    *time.Timer // closes the sockets if the successor fails; nil while the owner runs
}

// Decorate returns a replacement for Config.UDPDecorateWriterFunc, whose previous
// value is prev. It opens the fast path, unless prev returns a writer.
func (c *Instance) Decorate(prev func(*dnsserver.Server) dns.DecorateWriter) func(*dnsserver.Server) dns.DecorateWriter {
	return func(s *dnsserver.Server) dns.DecorateWriter {
		var decorator dns.DecorateWriter
		if prev != nil {
			decorator = prev(s)
		}
		if err := c.openFastPath(s, decorator != nil); err != nil {
			c.say("%s: %v; all queries go through the plugin chain", s.Addr, err)
		}
		return decorator
	}
}

var (
	// ErrAllDecline is the reason of a listener whose zones all need the chain.
	ErrAllDecline = errors.New("no zone is eligible")
	errUnreadable = errors.New("this version of CoreDNS keeps its zones in an unknown way")
)

// openFastPath opens sockets at the address of s, or takes over the open ones. An
// error says why there are none. decorated says that another plugin writes the
// replies of s.
func (c *Instance) openFastPath(s *dnsserver.Server, decorated bool) error {
	zones, ok := ZonesOf(s)
	if !ok {
		return errUnreadable
	}
	why := ""
	if decorated {
		why = "another plugin writes the replies"
	}
	return c.openListener(s, zones, nil, why)
}

// openListener opens sockets at the address of s, whose server blocks are zones,
// or takes over the open ones. With tls they speak TLS. why, if not empty, says
// why all queries of the listener must take the chain.
func (c *Instance) openListener(s *dnsserver.Server, zones map[string][]*dnsserver.Config, tls *secure, why string) error {
	plans, planned := c.registry.PlanListener(zones)
	if planned != "" {
		why = planned
	}
	f, err := NewServer(s, c, plans)
	if err != nil {
		return err
	}
	if f.secure = tls; tls != nil && tls.https != nil {
		tls.https.Server = f
	}
	f.announce(why)
	switch {
	case why != "":
		c.registry.withdraw(f)
		err = errors.New(why)
	case !f.useful(), tls != nil && !f.Direct():
		err = c.registry.Serve(f, ErrAllDecline.Error())
	default:
		err = c.registry.Serve(f, "")
	}
	if err != nil {
		c.registry.published.describe(s.Addr, zones, plans, err.Error())
	}
	return err
}

// Serve makes f the server of the sockets at its address, and opens them if there
// are none. why says why f would decline all queries; then Serve opens none, but
// still keeps open ones, because closing them would lose their queued packets.
func (r *Registry) Serve(f *Server, why string) error {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	// Servers start in goroutines of their own. After two reloads at once, the
	// server of the instance in between may start after its instance has ended.
	if f.Home.released {
		return nil
	}
	if l := r.ByAddr[f.Addr]; l != nil {
		if l.Server.Home.order > f.Home.order {
			return nil
		}
		if l.Server.Home == f.Home {
			return nil // another socket of the same listener (multisocket)
		}
		old := l.Server
		l.remarkLocked(f)
		l.adoptLocked(f)
		old.retire()
		if why != "" {
			return errors.New(why)
		}
		return nil
	}
	if why != "" {
		return errors.New(why)
	}
	opts := f.socketOptions()
	if f.secure != nil {
		return r.serveTLSLocked(f, opts)
	}
	f.Prepare(opts.Workers)
	g, err := fastpath.Listen(socketAddr(f.Addr), opts, f)
	if err != nil {
		return err
	}
	l := &Listener{Group: g, opts: opts, Server: f}
	r.ByAddr[f.Addr] = l
	log := clog.NewWithPlugin(f.Home.Name)
	what := "Fast path"
	if !f.Direct() {
		what = "Batches for the plugin chain"
	}
	log.Infof("%s at %s: %d workers, batches of %d", what, f.Addr, opts.Workers, opts.Batch)
	if steered, err := g.Steered(); !steered {
		log.Warningf("Fast path at %s: packets are not steered to it (%v), so other sockets of the address receive some", f.Addr, err)
	}
	f.udp = g
	l.openStreams()
	f.publish()
	return nil
}

// serveTLSLocked opens the sockets of f, which speaks TLS. r.Mu must be held.
func (r *Registry) serveTLSLocked(f *Server, opts fastpath.Options) error {
	l := &Listener{opts: opts, Server: f}
	l.openStreams()
	if l.Streams == nil {
		return errors.New(f.TCPMissing)
	}
	r.ByAddr[f.Addr] = l
	f.publish()
	return nil
}

// socketAddr returns the host and port in the address of a server.
func socketAddr(addr string) string {
	_, at, _ := strings.Cut(addr, "://")
	return at
}

// withdraw closes the sockets at the address of f. Even through the chain, they
// would give other answers than the server's own sockets.
func (r *Registry) withdraw(f *Server) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	l := r.ByAddr[f.Addr]
	if l == nil || f.Home.released || l.Server.Home.order > f.Home.order {
		return
	}
	if l.Expiry != nil {
		l.Expiry.Stop()
	}
	rest := r.CloseLocked(f.Addr, l)
	go func() {
		// The server's own sockets are not held up by this.
		if err := rest(); err != nil {
			f.debugf("%v", err)
		}
	}()
}

// remarkLocked logs which options of f have no effect on open sockets. The lock
// of the registry must be held.
func (l *Listener) remarkLocked(f *Server) {
	if text := NotApplied(f.socketOptions(), l.opts); text != "" {
		clog.NewWithPlugin(f.Home.Name).Warningf("Fast path at %s: %s", f.Addr, text)
	}
}

// NotApplied describes the options of want that differ from have, the options of
// the open sockets. It returns "" if there are none. want.Batch is 0 if no zone
// wants sockets.
func NotApplied(want, have fastpath.Options) string {
	if want.Batch == 0 || want.Workers == have.Workers && want.Batch == have.Batch {
		return ""
	}
	return fmt.Sprintf("workers %d and batch %d take effect at the next restart: a reload keeps the sockets, with %d workers and batches of %d",
		want.Workers, want.Batch, have.Workers, have.Batch)
}

// adoptLocked makes f the server of the sockets. The lock of the registry must
// be held.
func (l *Listener) adoptLocked(f *Server) {
	if l.Expiry != nil {
		l.Expiry.Stop()
		l.Expiry = nil
	}
	if l.Group != nil {
		f.Prepare(l.Group.Workers())
	}
	if l.Successor == f.Home {
		l.Successor = nil // unless it is a still later instance, which the sockets must outlive f for
	}
	l.Server = f
	if l.Group != nil {
		l.Group.Swap(f)
		f.udp = l.Group
	}
	l.openStreams()
	f.publish()
	// The sockets of the server have changed.
	fastpath.Recheck()
}

// report returns a function that logs the state changes of sockets.
func (f *Server) report(proto string) func(bool, string) {
	log, addr := clog.NewWithPlugin(f.Home.Name), f.Addr
	return func(better bool, text string) {
		say := log.Warningf
		if better {
			say = log.Infof
		}
		say("Fast path at %s, %s: %s", addr, proto, text)
	}
}

// socketOptions returns the largest options of all zones of the listener.
func (f *Server) socketOptions() fastpath.Options {
	opts := fastpath.Options{Report: f.report("UDP")}
	most := fastpath.DefaultWorkers()
	for _, z := range f.Zones {
		if !z.batched() {
			continue
		}
		opts.Batch = max(opts.Batch, z.Cache.Batch)
		opts.Workers = max(opts.Workers, z.Cache.Workers)
	}
	if opts.Workers > most {
		clog.NewWithPlugin(f.Home.Name).Warningf("workers %d: Go may use %d CPUs (cgroup, affinity, GOMAXPROCS), so there are %d workers", opts.Workers, most, most)
		opts.Workers = most
	}
	if opts.Workers == 0 {
		opts.Workers = most
	}
	return opts
}

// Claim announces that c will serve at the addresses of cfg, and of the other
// keys of its server block. Sockets there stay open when their instance ends.
func (r *Registry) Claim(c *Instance, cfg *dnsserver.Config, keys ...string) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.orders++
	c.order = r.orders
	for _, addr := range ListenAddrs(cfg, keys) {
		if l := r.ByAddr[addr]; l != nil && l.Server.Home != c {
			l.Successor = c
		}
	}
}

// ListenAddrs returns the addresses of the servers of a server block with keys
// such as "tls://example.org.:853". cfg is the configuration of the first key.
func ListenAddrs(cfg *dnsserver.Config, keys []string) (addrs []string) {
	add := func(proto, port string) {
		for _, host := range cfg.ListenHosts {
			// In the way in which CoreDNS makes the addresses of its servers.
			addr, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
			if err == nil {
				addrs = append(addrs, proto+"://"+addr.String())
			}
		}
	}
	add(cfg.Transport, cfg.Port)
	for _, key := range keys {
		proto, rest, ok := strings.Cut(key, "://")
		if at := strings.LastIndexByte(rest, ':'); ok && at >= 0 {
			add(proto, rest[at+1:])
		}
	}
	return addrs
}

// Disclaim withdraws the claims of instances after c, because the reload failed
// and c continues. If c does not serve an address yet, it is the successor again.
func (r *Registry) Disclaim(c *Instance) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	for _, l := range r.ByAddr {
		switch {
		case l.Successor == nil || l.Successor.order <= c.order:
		case l.Server.Home == c:
			l.Successor = nil
		default:
			l.Successor = c
		}
	}
}

// Release closes the sockets of c, except for those that have a successor.
func (r *Registry) Release(c *Instance) error {
	var errs []error
	for _, rest := range r.releaseSockets(c) {
		errs = append(errs, rest())
	}
	return errors.Join(errs...)
}

// releaseSockets does the part of Release that needs the lock. The returned
// functions do the part that takes time.
func (r *Registry) releaseSockets(c *Instance) (rests []func() error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	c.released = true
	defer fastpath.Recheck()
	for addr, l := range r.ByAddr {
		switch {
		case l.Server.Home != c:
		case l.Successor == nil:
			rests = append(rests, r.CloseLocked(addr, l))
		default:
			l.Expiry = time.AfterFunc(adoptWithin, func() { r.expire(addr, l) })
		}
	}
	return rests
}

// expire closes l, whose successor did not take over.
func (r *Registry) expire(addr string, l *Listener) {
	r.Mu.Lock()
	if r.ByAddr[addr] != l || l.Expiry == nil {
		r.Mu.Unlock()
		return
	}
	rest := r.CloseLocked(addr, l)
	r.Mu.Unlock()
	_ = rest()
}

// CloseLocked closes l. Mu must be held. The caller then calls rest, preferably
// without the lock, because it waits for connections to end.
func (r *Registry) CloseLocked(addr string, l *Listener) (rest func() error) {
	delete(r.ByAddr, addr)
	var err error
	if l.Group != nil {
		err = l.Group.Close()
	}
	return func() error {
		err = errors.Join(err, l.closeStreams())
		l.Server.retire()
		r.published.closed(addr)
		if err != nil {
			return fmt.Errorf("fast path at %s: %w", addr, err)
		}
		return nil
	}
}
