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

// The fast path: sockets of our own in the groups of a listener's, for UDP and
// TCP. CoreDNS calls the hook below for each of its UDP sockets just before it
// serves it; then all its sockets are bound, and the server that queries must
// go to is known.

// adoptWithin is how long sockets outlive the instance that opened them when
// a new one has announced itself at their address. It takes them over within
// milliseconds, or never.
const adoptWithin = 5 * time.Second

// Registry holds the sockets of a process by their address. They belong to the
// process and not to a Cache, because on a reload the next instance takes them
// over, with all packets that are queued in them.
type Registry struct {
	find      func(plugin.Handler) *Instance // nil if the handler is not a cache of ours
	published Publisher

	Mu     sync.Mutex // guards all below and the listeners; held while sockets are opened and closed
	ByAddr map[string]*Listener
	orders uint64 // of the latest claim
}

// NewRegistry returns an empty Registry. find returns the instance of a handler,
// or nil if the handler is not a cache of ours.
func NewRegistry(find func(plugin.Handler) *Instance) *Registry {
	return &Registry{find: find, ByAddr: map[string]*Listener{}, published: Publisher{Histograms: map[string]map[string]*meters.Histogram{}}}
}

// NewInstance makes i an instance of r.
func (r *Registry) NewInstance(i *Instance) *Instance {
	i.registry = r
	return i
}

// Flush adds to the series of Prometheus what the workers have counted.
func (r *Registry) Flush() { r.published.flush() }

// Listener is a group of sockets with the instance that it serves.
type Listener struct {
	Group     *fastpath.Group   // nil at an address of TLS
	opts      fastpath.Options  // of the group
	Streams   *fastpath.Streams // nil if there are none
	http1     *http1Server      // nil if not of HTTPS
	Server    *Server
	Successor *Instance   // an instance that is starting and will take over; nil if there is none
	Expiry    *time.Timer // closes the sockets if the heir does not come; nil if the owner lives
}

// Decorate is put in the place of Config.UDPDecorateWriterFunc. It opens the
// fast path, unless prev has something to do with writing.
func (c *Instance) Decorate(prev func(*dnsserver.Server) dns.DecorateWriter) func(*dnsserver.Server) dns.DecorateWriter {
	return func(s *dnsserver.Server) dns.DecorateWriter {
		var others dns.DecorateWriter
		if prev != nil {
			others = prev(s)
		}
		if err := c.openFastPath(s, others != nil); err != nil {
			c.say("%s: %v; all queries go through the plugin chain", s.Addr, err)
		}
		return others
	}
}

var (
	ErrAllDecline = errors.New("no zone can have one")
	errUnreadable = errors.New("this version of CoreDNS keeps its zones in an unknown way")
)

// openFastPath opens sockets beside the one of s, or takes over those that are
// there. An error means that there are none. decorated says that another
// plugin has a part in writing what goes out of the socket of s.
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

// openListener opens sockets at the address of s, whose server blocks are
// zones, or takes over those that are there. With tls they speak TLS. why
// says why the whole listener is for the chain; the zones may have reasons too.
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

// Serve makes f the server of the sockets at its address. Sockets that are
// there are kept even if f declines everything (why): closing them would lose
// what is queued in them, and through f it all reaches the chain.
func (r *Registry) Serve(f *Server, why string) error {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	// Servers start in goroutines of their own: after two reloads at once, that
	// of the instance in between may come when it is over.
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
		l.remark(f)
		l.adopt(f)
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
		return r.serveTLS(f, opts)
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
		log.Warningf("Fast path at %s: packets are not steered to it (%v), so other sockets of the address get their share", f.Addr, err)
	}
	f.udp = g
	l.openStreams()
	f.publish()
	return nil
}

// serveTLS opens the listeners of f, which speaks TLS. r.mu must be held.
func (r *Registry) serveTLS(f *Server, opts fastpath.Options) error {
	l := &Listener{opts: opts, Server: f}
	l.openStreams()
	if l.Streams == nil {
		return errors.New(f.TCPMissing)
	}
	r.ByAddr[f.Addr] = l
	f.publish()
	return nil
}

// socketAddr is the host and port of the address of a server.
func socketAddr(addr string) string {
	_, at, _ := strings.Cut(addr, "://")
	return at
}

// withdraw closes the sockets at the address of f, which must not have any:
// even through its chain they would give other answers than the server's own.
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
	rest := r.Close(f.Addr, l)
	go func() {
		// f's own sockets are served meanwhile.
		if err := rest(); err != nil {
			f.debugf("%v", err)
		}
	}()
}

// remark logs which options of f have no effect on the sockets that are open.
// The caller holds the registry's lock.
func (l *Listener) remark(f *Server) {
	if text := NotApplied(f.socketOptions(), l.opts); text != "" {
		clog.NewWithPlugin(f.Home.Name).Warningf("Fast path at %s: %s", f.Addr, text)
	}
}

// NotApplied says what of want is not so with sockets that were opened with
// have, "" if all is. Without zones that ask for sockets there is no batch.
func NotApplied(want, have fastpath.Options) string {
	if want.Batch == 0 || want.Workers == have.Workers && want.Batch == have.Batch {
		return ""
	}
	return fmt.Sprintf("workers %d and batch %d hold from a restart on: the sockets stay over a reload, with %d workers and batches of %d",
		want.Workers, want.Batch, have.Workers, have.Batch)
}

// adopt swaps in f. The caller holds the registry's lock.
func (l *Listener) adopt(f *Server) {
	if l.Expiry != nil {
		l.Expiry.Stop()
		l.Expiry = nil
	}
	if l.Group != nil {
		f.Prepare(l.Group.Workers())
	}
	if l.Successor == f.Home {
		l.Successor = nil // another has announced itself meanwhile: the sockets must outlive f as well
	}
	l.Server = f
	if l.Group != nil {
		l.Group.Swap(f)
		f.udp = l.Group
	}
	l.openStreams()
	f.publish()
	// The server's own sockets are others from now on.
	fastpath.Recheck()
}

// report returns what logs a change that the sockets of f report.
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

// socketOptions adds up what the zones of the listener ask for.
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

// Claim announces that c is about to serve at the addresses of cfg, and at
// those of the other keys of its server block. Sockets there stay open when
// their instance ends.
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
			// As CoreDNS makes the addresses of its servers.
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

// Disclaim forgets announcements by instances after c: the reload failed, and
// c goes on. Where c has not come to serve yet, it is the heir again.
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

// Release closes the sockets of c, but those that have an heir.
func (r *Registry) Release(c *Instance) error {
	var errs []error
	for _, rest := range r.releaseSockets(c) {
		errs = append(errs, rest())
	}
	return errors.Join(errs...)
}

// releaseSockets is release but for what takes time.
func (r *Registry) releaseSockets(c *Instance) (rests []func() error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	c.released = true
	defer fastpath.Recheck()
	for addr, l := range r.ByAddr {
		switch {
		case l.Server.Home != c:
		case l.Successor == nil:
			rests = append(rests, r.Close(addr, l))
		default:
			l.Expiry = time.AfterFunc(adoptWithin, func() { r.expire(addr, l) })
		}
	}
	return rests
}

// expire closes l, whose heir did not come.
func (r *Registry) expire(addr string, l *Listener) {
	r.Mu.Lock()
	if r.ByAddr[addr] != l || l.Expiry == nil {
		r.Mu.Unlock()
		return
	}
	rest := r.Close(addr, l)
	r.Mu.Unlock()
	_ = rest()
}

// Close ends l. The caller holds the lock, and calls rest, without it if it
// can: that waits for connections to end.
func (r *Registry) Close(addr string, l *Listener) (rest func() error) {
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
