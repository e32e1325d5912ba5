package dnsplugin

import (
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// declined says why a query went to the chain. The first values are those of
// wire.Reason, the others follow.
type declined uint8

const (
	understood  = declined(wire.OK)
	otherZone   = declined(wire.Trailing) + 1 + iota // a zone without a fast path, or none
	typeDS                                           // DS: which zone answers depends on the parent
	miss                                             // not in the cache
	refreshing                                       // in the cache, but the source must be asked too
	shuffling                                        // the order of the records must change in a way that only the chain knows
	tooLong                                          // longer than the client takes, or than we send
	reasonCount = iota + int(wire.Trailing) + 1
)

// reasonText are the values of the metric's label from otherZone on.
var reasonText = [...]string{"other_zone", "type_ds", "miss", "refresh", "shuffle", "too_long"}

func (d declined) String() string {
	if d <= declined(wire.Trailing) {
		return wire.Reason(d).String()
	}
	return reasonText[d-otherZone]
}

// fastServer answers what comes to our sockets at one address: from the cache,
// or through the chain of the server.
type fastServer struct {
	server *dnsserver.Server
	addr   string // the server's, as in the label "server"
	home   *Cache // whose instance opened it
	zones  []*fastZone
	root   *fastZone            // the only zone, if that is the root; else nil
	byName map[string]*fastZone // by suffix; read only

	workers []*fastWorker // one per worker of the group, and one for the waiters of misses
	backlog *backlog
	now     func() time.Time
	local   net.Addr  // of the server's socket
	retired time.Time // guarded by published.mu
}

// fastZone is a zone of the listener.
type fastZone struct {
	*zonePlan
	index    int
	suffix   []byte
	only     [][]byte // if not all: suffixes of the names that may be in the cache
	never    [][]byte // suffixes of names that must not come from the cache
	prefetch bool
	meters   *meters // of the cache, for this server
}

// fastWorker is what one worker has for itself.
type fastWorker struct {
	_ [128]byte
	fastStats
	id   ident
	kind string // the side of the latest hit
	random
	key [wire.MaxKeyLen]byte
	q   wire.Query
	_   [128]byte
}

func newFastServer(s *dnsserver.Server, home *Cache, plans []*zonePlan) (*fastServer, error) {
	f := &fastServer{server: s, addr: s.Addr, home: home, byName: map[string]*fastZone{}, now: home.now}
	for i, p := range plans {
		z := &fastZone{zonePlan: p, index: i}
		var err error
		if z.suffix, err = suffix(p.zone); err != nil {
			return nil, err
		}
		f.zones = append(f.zones, z)
		f.byName[string(z.suffix)] = z
		if p.why != "" {
			continue
		}
		z.prefetch = p.cache.cfg.Prefetch.Amount > 0
		z.meters = p.cache.meters.of(s.Addr)
		if z.only, err = suffixes(p.cache.zones); err != nil {
			return nil, err
		}
		if z.never, err = suffixes(p.cache.bypass); err != nil {
			return nil, err
		}
	}
	if len(f.zones) == 1 && f.zones[0].zone == "." {
		f.root = f.zones[0]
	}
	f.backlog = newBacklog(f)
	local, err := net.ResolveUDPAddr("udp", strings.TrimPrefix(s.Addr, transport.DNS+"://"))
	if err != nil {
		return nil, err
	}
	if local.IP == nil {
		local.IP = net.IPv6zero
	}
	f.local = local
	return f, nil
}

func suffixes(zones []string) ([][]byte, error) {
	var all [][]byte
	for _, z := range zones {
		s, err := suffix(z)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// useful reports whether any query can be answered without the chain.
func (f *fastServer) useful() bool {
	for _, z := range f.zones {
		if z.why == "" {
			return true
		}
	}
	return false
}

// announce logs once which zones are for the chain, and why.
func (f *fastServer) announce(why string) {
	if why != "" {
		return // the caller says so
	}
	for _, z := range f.zones {
		if z.why != "" && z.why != whyNoCache {
			f.home.say("%s for zone %s: %s", f.addr, z.zone, z.why)
		}
	}
}

// prepare makes the state of n workers. It must come before the first Serve.
func (f *fastServer) prepare(n int) {
	for range n + 1 {
		w := &fastWorker{random: random(rand.Uint64() | 1)}
		w.init(len(f.zones))
		f.workers = append(f.workers, w)
	}
}

// Serve implements fastpath.Handler.
func (f *fastServer) Serve(worker int, b *fastpath.Batch) {
	w := f.workers[worker]
	// Nobody but the publisher of metrics ever wants this lock, for as long as
	// it takes to exchange two pointers.
	w.mu.Lock()
	now := f.now()
	busy := false
	for i := range b.Len() {
		pkt := b.Packet(i)
		reply, z, why := f.answer(w, pkt, b.Buffer(i), now)
		if why == understood {
			b.Reply(i, len(reply))
			if z.counted {
				w.count(z, &w.q, len(pkt), b.IPv4(i))
			}
			continue
		}
		w.declined(why)
		busy = f.decline(w, z, why, pkt, b, i) || busy
	}
	w.lasted(f.now().Sub(now))
	w.mu.Unlock()
	if busy || f.backlog.busy() {
		// This thread is ours alone: without giving way, on one CPU, those who
		// serve the misses would wait for the scheduler to notice.
		runtime.Gosched()
	}
}

// answer appends the reply to pkt to buf. If it can't, why is not understood;
// then z is the zone of the query if that is known, and w has its key.
//
// Nothing here allocates, locks, or writes what another worker reads.
func (f *fastServer) answer(w *fastWorker, pkt, buf []byte, now time.Time) (reply []byte, z *fastZone, why declined) {
	q := &w.q
	if r := wire.ParseQuery(pkt, q); r != wire.OK {
		return nil, nil, declined(r)
	}
	w.id.key = wire.AppendKey(w.key[:0], q.Name(pkt), q.Type, q.Class, q.DO, q.CD)
	z = f.zoneOf(keyName(w.id.key))
	switch {
	case z == nil || z.why != "":
		return nil, z, otherZone
	case q.Type == dns.TypeDS:
		return nil, z, typeDS
	}
	w.id.do, w.id.cd, w.id.ad = q.DO, q.CD, q.AD
	w.id.hash = z.cache.success.store.Hash(w.id.key)
	return f.find(w, z, pkt, buf, now)
}

// find looks the question of w up and appends the reply to buf.
func (f *fastServer) find(w *fastWorker, z *fastZone, pkt, buf []byte, now time.Time) ([]byte, *fastZone, declined) {
	c, q := z.cache, &w.q
	at := c.instant(now)
	e, kind := c.lookup(&w.id, at)
	if e == nil {
		return nil, z, miss
	}
	left := e.Left(at)
	ttl := uint32(max(0, left))
	stale := left <= 0
	switch {
	case stale && !settled(e, at):
		return nil, z, refreshing
	case stale:
		ttl = uint32(c.cfg.Stale.ResponseTTL / time.Second)
	case z.prefetch && c.popular(e, at):
		return nil, z, refreshing
	}
	if c.cfg.KeepTTL && (!stale || c.cfg.Stale.ResponseTTL == 0) {
		ttl = e.TTL
	}
	if z.bufsize > 0 && q.OPT {
		q.UDPSize = min(q.UDPSize, z.bufsize)
	}
	a := e.Answer()
	ede := e.EDE()
	reply, ok := a.AppendReply(buf, q, q.Question(pkt), ttl, min(q.Limit(), cap(buf)), ede)
	size := int(e.Plain)
	if len(ede) > 0 && q.OPT {
		size += optLen + len(ede) // an OPT that is there before the server adds its own is counted
	}
	if !ok || size >= maxPlain || len(pkt) > maxCounted {
		return nil, z, tooLong
	}
	if z.shuffled && !arrange(&a, reply, &w.random) {
		return nil, z, shuffling
	}
	w.kind = kind
	w.hit(z, kind, a.Rcode(), size, stale)
	return reply, z, understood
}

// zoneOf returns the zone that the name belongs to: the longest one that holds it.
func (f *fastServer) zoneOf(name []byte) *fastZone {
	if f.root != nil && f.root.all {
		return f.root
	}
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			if z.why == "" && !z.all && (!within(name, z.only) || within(name, z.never)) {
				return nil
			}
			return z
		}
	}
	return nil
}

// within reports whether name is in one of zones.
func within(name []byte, zones [][]byte) bool {
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		for _, z := range zones {
			if string(z) == string(name[off:]) {
				return true
			}
		}
	}
	return false
}

// decline hands a packet to the chain. It reports whether someone must run for it.
func (f *fastServer) decline(w *fastWorker, z *fastZone, why declined, pkt []byte, b *fastpath.Batch, i int) bool {
	if len(pkt) < wire.HeaderLen {
		return false // nothing to reply to: CoreDNS drops it too
	}
	j := &job{packet: append(make([]byte, 0, len(pkt)), pkt...), origin: b.Origin(i), ipv4: b.IPv4(i)}
	if (why == miss || why == refreshing) && z.coalesces(w.q.Type) {
		j.zone, j.key = z, string(w.id.key)
	}
	return f.backlog.submit(j)
}

// coalesces reports whether misses in z may wait for one another; see Cache.coalesces.
func (z *fastZone) coalesces(qtype uint16) bool {
	c := z.cache
	return c.flights != nil && qtype != dns.TypeHINFO && len(c.success.disable)+len(c.denial.disable) == 0
}

// debugf logs what is of interest to nobody but developers.
func (f *fastServer) debugf(format string, args ...any) {
	clog.NewWithPlugin(f.home.name).Debugf(format, args...)
}

// settled reports whether a stale entry is served without asking the source
// for it: somebody is asking already, or has asked in vain a short time ago.
func settled(e *store.Entry, now store.Instant) bool {
	return e.Refreshing.Load() || store.Instant(e.RetryAfter.Load()) > now
}
