package front

import (
	"bytes"
	"context"
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

// Server answers what comes to our sockets at one address: from the cache,
// or through the chain of the server.
type Server struct {
	Server *dnsserver.Server
	Addr   string    // the server's, as in the label "server"
	Home   *Instance // whose instance opened it
	Zones  []*Zone
	root   *Zone            // the only zone, if that is the root; else nil
	byName map[string]*Zone // by suffix; read only

	// The log does not take its lines, so cached answers of zones that are
	// only watched go out without the chain.
	Unwatched atomic.Bool

	Workers []*Worker // one per worker of the group, and one for the waiters of misses
	Backlog *Backlog

	// What workers count of zones that they have no counters of their own for.
	SharedUDP, SharedTCP []meters.SharedCounts
	udp                  *fastpath.Group

	// Of TCP, see streams.go.
	Streams    []*Worker // for who serves a connection, and one for the waiters of misses
	TCP        *fastpath.Streams
	TCPMissing string          // why tcp is nil
	secure     *secure         // nil for UDP and plain TCP
	ctx        context.Context //nolint:containedctx // the parent of every query's, with the server in it
	atOnceCtx  context.Context //nolint:containedctx // the same for queries that must not wait for a source
	againCtx   context.Context //nolint:containedctx // the same for queries that must not wait for an equal one
	Now        func() time.Time
	Local      net.Addr  // of the server's socket
	retired    time.Time // guarded by published.mu
}

// Zone is a zone of the listener.
type Zone struct {
	*ZonePlan
	suffix []byte
	sides  *sides.Sides   // of the cache; nil if the zone has none
	only   sides.Suffixes // if not all: names that may be in the cache
	never  sides.Suffixes // names that must not come from the cache
	Meters *meters.Meters // of the cache, for this server
}

// Worker is what one worker has for itself.
type Worker struct {
	_ [128]byte
	meters.Counters
	tcp   bool        // serves connections
	id    sides.Ident // for a look-up that is not of a batch
	kind  sides.Kind  // the side of the latest hit
	ready uint64      // see hasten
	// Entries that should be refreshed are served as they are, see findAtOnce.
	atOnce bool

	ede [sides.MaxStaleEDE]byte // of a stale answer

	lastYield time.Time // when it last gave way
	Random
	inline *InlineBatch
	asked  [Chunk]Query
	Keys   [Chunk][wire.MaxKeyLen]byte
	_      [128]byte
}

// NewServer returns the fast path for the zones of s that plans describe. home is
// the instance that opens it.
func NewServer(s *dnsserver.Server, home *Instance, plans []*ZonePlan) (*Server, error) {
	f := &Server{Server: s, Addr: s.Addr, Home: home, byName: map[string]*Zone{}, Now: home.Now, ctx: chainContext(s)}
	for i, p := range plans {
		p.Index = i
		z := &Zone{ZonePlan: p}
		var err error
		if z.suffix, err = sides.Suffix(p.Name); err != nil {
			return nil, err
		}
		f.Zones = append(f.Zones, z)
		f.byName[string(z.suffix)] = z
		if p.Cache != nil {
			z.sides = p.Cache.Sides
		}
		if p.Why != "" && !p.watched {
			continue
		}
		z.Meters = p.Cache.Meters(s.Addr)
		if z.only, err = sides.NewSuffixes(p.Cache.Zones); err != nil {
			return nil, err
		}
		if z.never, err = sides.NewSuffixes(p.Cache.Bypass); err != nil {
			return nil, err
		}
	}
	if len(f.Zones) == 1 && f.Zones[0].Name == "." {
		f.root = f.Zones[0]
	}
	f.atOnceCtx, f.againCtx = atOnce(f.ctx), again(f.ctx)
	f.Backlog = newBacklog(f)
	local, err := net.ResolveUDPAddr("udp", socketAddr(s.Addr))
	if err != nil {
		return nil, err
	}
	if local.IP == nil {
		local.IP = net.IPv6zero
	}
	f.Local = local
	return f, nil
}

// useful reports whether sockets of our own bring anything: a cache that may
// have them, even if all queries must go through the chain before it.
func (f *Server) useful() bool { return slices.ContainsFunc(f.Zones, (*Zone).batched) }

// Direct reports whether any query can be answered without the chain.
func (f *Server) Direct() bool {
	return slices.ContainsFunc(f.Zones, func(z *Zone) bool { return z.Why == "" })
}

// batched reports whether z has a cache that may have sockets of its own.
func (z *Zone) batched() bool { return z.Cache != nil && z.Cache.Mode != ModeOff }

// announce logs once which zones are for the chain, and why.
func (f *Server) announce(why string) {
	if why != "" {
		return // the caller says so
	}
	for _, z := range f.Zones {
		if z.Why != "" && z.Why != whyNoCache {
			f.Home.say("%s for zone %s: %s", f.Addr, z.Name, z.Why)
		}
	}
}

// Prepare makes the state of n workers. It must come before the first Serve.
func (f *Server) Prepare(n int) {
	for range n + 1 {
		w := f.NewWorker(false)
		w.inline = newInlineBatch(f, w, time.Time{}, nil)
		f.Workers = append(f.Workers, w)
	}
}

// NewWorker returns the state of one worker, for connections if tcp is set.
func (f *Server) NewWorker(tcp bool) *Worker {
	w := &Worker{Random: Random(rand.Uint64() | 1), tcp: tcp}
	shared := &f.SharedUDP
	if tcp {
		shared = &f.SharedTCP
	}
	if *shared == nil {
		*shared = make([]meters.SharedCounts, len(f.Zones))
	}
	w.Init(len(f.Zones), *shared)
	return w
}

// Serve implements fastpath.Handler.
func (f *Server) Serve(worker int, b *fastpath.Batch) bool {
	w := f.Workers[worker]
	// Nobody but the publisher of metrics ever wants this lock, for as long as
	// it takes to exchange two pointers.
	w.Mu.Lock()
	w.Cur.Batches++
	now := f.Now()
	busy := false
	for first := 0; first < b.Len(); first += Chunk {
		busy = f.serve(w, b, first, min(Chunk, b.Len()-first), now) || busy
	}
	end := f.Now()
	w.CountDuration(end.Sub(now))
	w.Mu.Unlock()
	if !w.inline.runAll(b) {
		return false
	}
	w.yield(end, busy || f.Backlog.Busy())
	return true
}

const (
	// yieldWhenAwaited is how long those who serve the misses may have to wait while a
	// worker has a processor of the scheduler's to itself.
	yieldWhenAwaited = 100 * time.Microsecond
	// yieldAlways is how long a worker goes on if nobody is known to wait. Past 10 ms
	// the scheduler's monitor would interrupt us every 20 us.
	yieldAlways = 4 * time.Millisecond
)

// yield lets other goroutines run if it is their turn.
func (w *Worker) yield(now time.Time, awaited bool) {
	since := now.Sub(w.lastYield)
	if since < yieldAlways && !(awaited && since >= yieldWhenAwaited) {
		return
	}
	w.lastYield = now
	runtime.Gosched()
}

// serve answers n packets of b. It reports whether somebody must run for those
// that it can't.
func (f *Server) serve(w *Worker, b *fastpath.Batch, first, n int, now time.Time) (busy bool) {
	all := w.asked[:n]
	for i := range all {
		f.parse(&all[i], b.Packet(first+i), w.Keys[i][:0])
	}
	w.prefetch(all)
	for i := range all {
		a, pkt := &all[i], b.Packet(first+i)
		reply, why := f.reply(w, a, pkt, b.Buffer(), now)
		if why == meters.Refresh {
			if f.offer(w, a, pkt, b, first+i) {
				busy = true
				continue
			}
			reply, why = f.replyAtOnce(w, a, pkt, b.Buffer(), now)
		}
		if why == meters.Understood {
			b.Reply(first+i, len(reply))
			if a.Zone.Counted {
				w.CountQuery(&a.Zone.Zone, &a.Q, len(pkt), b.IPv4(first+i))
			}
			continue
		}
		w.CountDecline(why)
		if f.cachedInChain(a, why, now) && w.inline.add(b, first+i, &a.Q, now) {
			continue
		}
		busy = f.decline(a, why, pkt, b, first+i) || busy
	}
	return busy
}

// Answer appends the reply to one packet to buf. If it can't, why is not
// understood; a is the question, as far as it is known.
func (f *Server) Answer(w *Worker, pkt, buf []byte, now time.Time) (reply []byte, a *Query, why meters.Reason) {
	a = &w.asked[0]
	f.parse(a, pkt, w.Keys[0][:0])
	w.prefetch(w.asked[:1])
	reply, why = f.reply(w, a, pkt, buf, now)
	return reply, a, why
}

// reply looks the question a of pkt up and appends the reply to buf.
//
// Nothing here allocates, locks, or writes what another worker reads.
func (f *Server) reply(w *Worker, a *Query, pkt, buf []byte, now time.Time) ([]byte, meters.Reason) {
	if a.why != meters.Understood {
		return nil, a.why
	}
	z, q := a.Zone, &a.Q
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
	if z.shuffled && !Arrange(&answer, reply, &w.Random) {
		return nil, meters.Shuffle
	}
	w.kind = kind
	w.CountHit(&z.Zone, kind, answer.Rcode(), size, stale)
	return reply, meters.Understood
}

// zoneOf returns the zone that the name belongs to: the longest one that holds it.
func (f *Server) zoneOf(name []byte) *Zone {
	if f.root != nil && f.root.all {
		return f.root
	}
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			if (z.Why == "" || z.watched) && !z.all && (!z.only.Contain(name) || z.never.Contain(name)) {
				return nil
			}
			return z
		}
	}
	return nil
}

// replyAtOnce is find without asking the source for an entry that should be
// refreshed, because there is no place in the chain for that.
func (f *Server) replyAtOnce(w *Worker, a *Query, pkt, buf []byte, now time.Time) ([]byte, meters.Reason) {
	w.atOnce = true
	reply, why := f.reply(w, a, pkt, buf, now)
	w.atOnce = false
	return reply, why
}

// blockOf returns the zone of the server block that answers for name, nil if
// there is none. It may have no cache for name.
func (f *Server) blockOf(name []byte) *Zone {
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			return z
		}
	}
	return nil
}

// decline hands a packet to the chain. It reports whether someone must run for it.
func (f *Server) decline(a *Query, why meters.Reason, pkt []byte, b *fastpath.Batch, i int) bool {
	if len(pkt) < wire.HeaderLen {
		return false // nothing to reply to: CoreDNS drops it too
	}
	j := f.newJob(a, why, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	return f.Backlog.Submit(j)
}

// offer hands packet i of b, whose answer is in the cache but should be
// refreshed, to the chain. It reports false if there is no place for it.
func (f *Server) offer(w *Worker, a *Query, pkt []byte, b *fastpath.Batch, i int) bool {
	j := f.newJob(a, meters.Refresh, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	if !f.Backlog.offer(j) {
		return false
	}
	w.CountDecline(meters.Refresh)
	return true
}

// newJob makes a job of a query. The caller says where it came from.
func (f *Server) newJob(a *Query, why meters.Reason, pkt []byte) *Job {
	j := &Job{Packet: append(make([]byte, 0, len(pkt)), pkt...)}
	if (why == meters.Miss || why == meters.Refresh) && a.Zone.sides.Coalesces(sides.NameOf(a.key), a.Q.Type) {
		j.Zone, j.Key = a.Zone, string(AppendShapeOf(bytes.Clone(a.key), pkt, &a.Q))
	}
	switch why {
	case meters.Shuffle, meters.TooLong:
		j.cached = true
	case meters.OtherZone:
		if a.seek {
			id := a.ident()
			e, _ := a.Zone.sides.Lookup(id.Clone(), a.Zone.sides.Instant(f.Now()))
			j.cached = e != nil
		}
	default:
	}
	return j
}

// debugf logs what is of interest to nobody but developers.
func (f *Server) debugf(format string, args ...any) {
	clog.NewWithPlugin(f.Home.Name).Debugf(format, args...)
}
