package dnsplugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// fastServer answers what comes to our sockets at one address: from the cache,
// or through the chain of the server.
type fastServer struct {
	server *dnsserver.Server
	addr   string    // the server's, as in the label "server"
	home   *Instance // whose instance opened it
	zones  []*fastZone
	root   *fastZone            // the only zone, if that is the root; else nil
	byName map[string]*fastZone // by suffix; read only

	// The log does not take its lines, so cached answers of zones that are
	// only watched go out without the chain.
	unwatched atomic.Bool

	workers []*fastWorker // one per worker of the group, and one for the waiters of misses
	backlog *backlog

	// What workers count of zones that they have no counters of their own for.
	sharedUDP, sharedTCP []meters.SharedCounts
	udp                  *fastpath.Group

	// Of TCP, see fastpath_tcp.go.
	streams    []*fastWorker // for who serves a connection, and one for the waiters of misses
	tcp        *fastpath.Streams
	tcpMissing string          // why tcp is nil
	config     *tls.Config     // of connections over TLS, or nil for UDP and plain TCP
	ctx        context.Context //nolint:containedctx // the parent of every query's, with the server in it
	atOnceCtx  context.Context //nolint:containedctx // the same for queries that must not wait for a source
	againCtx   context.Context //nolint:containedctx // the same for queries that must not wait for an equal one
	now        func() time.Time
	local      net.Addr  // of the server's socket
	retired    time.Time // guarded by published.mu
}

// fastZone is a zone of the listener.
type fastZone struct {
	*zonePlan
	suffix []byte
	sides  *sides.Sides   // of the cache; nil if the zone has none
	only   sides.Suffixes // if not all: names that may be in the cache
	never  sides.Suffixes // names that must not come from the cache
	meters *meters.Meters // of the cache, for this server
}

// fastWorker is what one worker has for itself.
type fastWorker struct {
	_ [128]byte
	meters.Counters
	tcp   bool        // serves connections
	id    sides.Ident // for a look-up that is not of a batch
	kind  sides.Kind  // the side of the latest hit
	ready uint64      // see hasten
	// Entries that should be refreshed are served as they are, see findAtOnce.
	atOnce bool

	ede [sides.MaxStaleEDE]byte // of a stale answer

	yielded time.Time // when it last gave way
	random
	turn  *turn
	asked [chunk]asked
	keys  [chunk][wire.MaxKeyLen]byte
	_     [128]byte
}

func newFastServer(s *dnsserver.Server, home *Instance, plans []*zonePlan) (*fastServer, error) {
	f := &fastServer{server: s, addr: s.Addr, home: home, byName: map[string]*fastZone{}, now: home.Now, ctx: chainContext(s)}
	for i, p := range plans {
		p.Index = i
		z := &fastZone{zonePlan: p}
		var err error
		if z.suffix, err = sides.Suffix(p.zone); err != nil {
			return nil, err
		}
		f.zones = append(f.zones, z)
		f.byName[string(z.suffix)] = z
		if p.cache != nil {
			z.sides = p.cache.Sides
		}
		if p.why != "" && !p.watched {
			continue
		}
		z.meters = p.cache.Meters(s.Addr)
		if z.only, err = sides.NewSuffixes(p.cache.Zones); err != nil {
			return nil, err
		}
		if z.never, err = sides.NewSuffixes(p.cache.Bypass); err != nil {
			return nil, err
		}
	}
	if len(f.zones) == 1 && f.zones[0].zone == "." {
		f.root = f.zones[0]
	}
	f.atOnceCtx, f.againCtx = atOnce(f.ctx), again(f.ctx)
	f.backlog = newBacklog(f)
	local, err := net.ResolveUDPAddr("udp", socketAddr(s.Addr))
	if err != nil {
		return nil, err
	}
	if local.IP == nil {
		local.IP = net.IPv6zero
	}
	f.local = local
	return f, nil
}

// useful reports whether sockets of our own bring anything: a cache that may
// have them, even if all queries must go through the chain before it.
func (f *fastServer) useful() bool { return slices.ContainsFunc(f.zones, (*fastZone).batched) }

// direct reports whether any query can be answered without the chain.
func (f *fastServer) direct() bool {
	return slices.ContainsFunc(f.zones, func(z *fastZone) bool { return z.why == "" })
}

// batched reports whether z has a cache that may have sockets of its own.
func (z *fastZone) batched() bool { return z.cache != nil && z.cache.Mode != ModeOff }

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
		w := f.newWorker(false)
		w.turn = newTurn(f, w, time.Time{}, nil)
		f.workers = append(f.workers, w)
	}
}

func (f *fastServer) newWorker(tcp bool) *fastWorker {
	w := &fastWorker{random: random(rand.Uint64() | 1), tcp: tcp}
	shared := &f.sharedUDP
	if tcp {
		shared = &f.sharedTCP
	}
	if *shared == nil {
		*shared = make([]meters.SharedCounts, len(f.zones))
	}
	w.Init(len(f.zones), *shared)
	return w
}

// Serve implements fastpath.Handler.
func (f *fastServer) Serve(worker int, b *fastpath.Batch) bool {
	w := f.workers[worker]
	// Nobody but the publisher of metrics ever wants this lock, for as long as
	// it takes to exchange two pointers.
	w.Mu.Lock()
	w.Cur.Batches++
	now := f.now()
	busy := false
	for first := 0; first < b.Len(); first += chunk {
		busy = f.serve(w, b, first, min(chunk, b.Len()-first), now) || busy
	}
	end := f.now()
	w.CountDuration(end.Sub(now))
	w.Mu.Unlock()
	if !w.turn.run(b) {
		return false
	}
	w.giveWay(end, busy || f.backlog.busy())
	return true
}

const (
	// others is how long those who serve the misses may have to wait while a
	// worker has a processor of the scheduler's to itself.
	others = 100 * time.Microsecond
	// slice is how long a worker goes on if nobody is known to wait. Past 10 ms
	// the scheduler's monitor would interrupt us every 20 us.
	slice = 4 * time.Millisecond
)

// giveWay lets other goroutines run if it is their turn.
func (w *fastWorker) giveWay(now time.Time, awaited bool) {
	since := now.Sub(w.yielded)
	if since < slice && !(awaited && since >= others) {
		return
	}
	w.yielded = now
	runtime.Gosched()
}

// serve answers n packets of b. It reports whether somebody must run for those
// that it can't.
func (f *fastServer) serve(w *fastWorker, b *fastpath.Batch, first, n int, now time.Time) (busy bool) {
	all := w.asked[:n]
	for i := range all {
		f.understand(&all[i], b.Packet(first+i), w.keys[i][:0])
	}
	w.hasten(all)
	for i := range all {
		a, pkt := &all[i], b.Packet(first+i)
		reply, why := f.find(w, a, pkt, b.Buffer(), now)
		if why == meters.Refresh {
			if f.offer(w, a, pkt, b, first+i) {
				busy = true
				continue
			}
			reply, why = f.findAtOnce(w, a, pkt, b.Buffer(), now)
		}
		if why == meters.Understood {
			b.Reply(first+i, len(reply))
			if a.zone.Counted {
				w.CountQuery(&a.zone.Zone, &a.q, len(pkt), b.IPv4(first+i))
			}
			continue
		}
		w.CountDecline(why)
		if f.likely(a, why, now) && w.turn.add(b, first+i, &a.q, now) {
			continue
		}
		busy = f.decline(a, why, pkt, b, first+i) || busy
	}
	return busy
}

// answer appends the reply to one packet to buf. If it can't, why is not
// understood; a is the question, as far as it is known.
func (f *fastServer) answer(w *fastWorker, pkt, buf []byte, now time.Time) (reply []byte, a *asked, why meters.Reason) {
	a = &w.asked[0]
	f.understand(a, pkt, w.keys[0][:0])
	w.hasten(w.asked[:1])
	reply, why = f.find(w, a, pkt, buf, now)
	return reply, a, why
}

// find looks the question a of pkt up and appends the reply to buf.
//
// Nothing here allocates, locks, or writes what another worker reads.
func (f *fastServer) find(w *fastWorker, a *asked, pkt, buf []byte, now time.Time) ([]byte, meters.Reason) {
	if a.why != meters.Understood {
		return nil, a.why
	}
	z, q := a.zone, &a.q
	at := z.sides.Instant(now)
	e, kind := w.entryOf(a, at)
	action, ttl, stale := z.sides.Decide(e, at)
	switch {
	case action == sides.Ask:
		return nil, meters.Miss
	case action != sides.Serve && !w.atOnce:
		return nil, meters.Refresh
	}
	if z.bufsize > 0 && q.OPT {
		q.UDPSize = min(q.UDPSize, z.bufsize)
	}
	limit := cap(buf)
	if !w.tcp {
		limit = min(limit, q.Limit())
	}
	answer := e.Answer()
	ede := e.EDE()
	if stale && q.OPT {
		ede = sides.AppendStale(w.ede[:0], ede, answer.Rcode())
	}
	reply, ok := answer.AppendReply(buf, q, q.Question(pkt), ttl, limit, ede)
	size := int(e.Plain)
	if len(ede) > 0 && q.OPT {
		size += wire.OPTLen + len(ede) // an OPT that is there before the server adds its own is counted
	}
	if !ok || size >= meters.MaxPlain && !w.tcp || len(pkt) > meters.MaxQuery {
		return nil, meters.TooLong
	}
	if z.shuffled && !arrange(&answer, reply, &w.random) {
		return nil, meters.Shuffle
	}
	w.kind = kind
	w.CountHit(&z.Zone, kind, answer.Rcode(), size, stale)
	return reply, meters.Understood
}

// zoneOf returns the zone that the name belongs to: the longest one that holds it.
func (f *fastServer) zoneOf(name []byte) *fastZone {
	if f.root != nil && f.root.all {
		return f.root
	}
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			if (z.why == "" || z.watched) && !z.all && (!z.only.Contain(name) || z.never.Contain(name)) {
				return nil
			}
			return z
		}
	}
	return nil
}

// findAtOnce is find without asking the source for an entry that should be
// refreshed, because there is no place in the chain for that.
func (f *fastServer) findAtOnce(w *fastWorker, a *asked, pkt, buf []byte, now time.Time) ([]byte, meters.Reason) {
	w.atOnce = true
	reply, why := f.find(w, a, pkt, buf, now)
	w.atOnce = false
	return reply, why
}

// blockOf returns the zone of the server block that answers for name, nil if
// there is none. It may have no cache for name.
func (f *fastServer) blockOf(name []byte) *fastZone {
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			return z
		}
	}
	return nil
}

// decline hands a packet to the chain. It reports whether someone must run for it.
func (f *fastServer) decline(a *asked, why meters.Reason, pkt []byte, b *fastpath.Batch, i int) bool {
	if len(pkt) < wire.HeaderLen {
		return false // nothing to reply to: CoreDNS drops it too
	}
	j := f.newJob(a, why, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	return f.backlog.submit(j)
}

// offer hands packet i of b, whose answer is in the cache but should be
// refreshed, to the chain. It reports false if there is no place for it.
func (f *fastServer) offer(w *fastWorker, a *asked, pkt []byte, b *fastpath.Batch, i int) bool {
	j := f.newJob(a, meters.Refresh, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	if !f.backlog.offer(j) {
		return false
	}
	w.CountDecline(meters.Refresh)
	return true
}

// newJob makes a job of a query. The caller says where it came from.
func (f *fastServer) newJob(a *asked, why meters.Reason, pkt []byte) *job {
	j := &job{packet: append(make([]byte, 0, len(pkt)), pkt...)}
	if (why == meters.Miss || why == meters.Refresh) && a.zone.sides.Coalesces(sides.NameOf(a.key), a.q.Type) {
		j.zone, j.key = a.zone, string(appendShapeOf(bytes.Clone(a.key), pkt, &a.q))
	}
	switch why {
	case meters.Shuffle, meters.TooLong:
		j.cached = true
	case meters.OtherZone:
		if a.seek {
			id := a.ident()
			e, _ := a.zone.sides.Lookup(id.Clone(), a.zone.sides.Instant(f.now()))
			j.cached = e != nil
		}
	default:
	}
	return j
}

// debugf logs what is of interest to nobody but developers.
func (f *fastServer) debugf(format string, args ...any) {
	clog.NewWithPlugin(f.home.Name).Debugf(format, args...)
}
