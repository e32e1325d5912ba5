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

// Server answers the queries that arrive at one address, from the cache or
// through the plugin chain of CoreDNS's server.
type Server struct {
	Server *dnsserver.Server
	Addr   string    // the server's, as in the label "server"
	Home   *Instance // the instance that opened it
	Zones  []*Zone
	root   *Zone            // the only zone if that is the root, else nil
	byName map[string]*Zone // by suffix; read only

	// Set while plugins such as log block: then cached answers of zones whose
	// chain only watches queries are sent without it.
	Unwatched atomic.Bool

	Workers []*Worker // one for each worker of the group, and one for queries that waited
	Backlog *Backlog

	// Counters of zones that a worker has no counters of its own for.
	SharedUDP, SharedTCP []meters.SharedCounts
	udp                  *fastpath.Group

	// For TCP, see streams.go.
	Streams    []*Worker // borrowed by connections, and one for queries that waited
	TCP        *fastpath.Streams
	TCPMissing string          // why TCP is nil
	secure     *secure         // nil for UDP and plain TCP
	ctx        context.Context //nolint:containedctx // parent of the context of each query; holds the server
	atOnceCtx  context.Context //nolint:containedctx // the same, for queries that must not wait for a source
	againCtx   context.Context //nolint:containedctx // the same, for queries that must not wait for an equal one
	Now        func() time.Time
	Local      net.Addr  // of the server's socket
	retired    time.Time // guarded by the lock of the publisher
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

// Worker is the state of one worker.
type Worker struct {
	_ [128]byte
	meters.Counters
	tcp   bool        // serves connections
	id    sides.Ident // for a look-up that is not of a batch
	kind  sides.Kind  // the side of the latest hit
	ready uint64      // see prefetch
	// Serve entries that should be refreshed first, see replyAtOnce.
	atOnce bool

	ede [sides.MaxStaleEDE]byte // of a stale answer

	lastYield time.Time // when it last let other goroutines run
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

// useful reports whether it is worth opening sockets: some cache may have them,
// even if all queries must take the chain to it.
func (f *Server) useful() bool { return slices.ContainsFunc(f.Zones, (*Zone).batched) }

// Direct reports whether any query can be answered without the chain.
func (f *Server) Direct() bool {
	return slices.ContainsFunc(f.Zones, func(z *Zone) bool { return z.Why == "" })
}

// batched reports whether z has a cache that may have sockets.
func (z *Zone) batched() bool { return z.Cache != nil && z.Cache.Mode != ModeOff }

// announce logs which zones need the chain, and why. why is the reason of the
// whole listener.
func (f *Server) announce(why string) {
	if why != "" {
		return // the caller logs it
	}
	for _, z := range f.Zones {
		if z.Why != "" && z.Why != whyNoCache {
			f.Home.say("%s for zone %s: %s", f.Addr, z.Name, z.Why)
		}
	}
}

// Prepare makes the state of n workers. It must be called before the first
// Serve.
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
	// Only the publisher of metrics competes for this lock, for as long as it
	// takes to exchange two pointers.
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
	// yieldWhenAwaited is how long a worker may occupy a processor of the
	// scheduler while goroutines that serve misses are runnable.
	yieldWhenAwaited = 100 * time.Microsecond
	// yieldAlways is how long a worker runs in any case. After 10 ms the
	// scheduler's monitor would interrupt us every 20 us.
	yieldAlways = 4 * time.Millisecond
)

// yield lets other goroutines run if the worker has run for long enough. awaited
// says that some are runnable.
func (w *Worker) yield(now time.Time, awaited bool) {
	since := now.Sub(w.lastYield)
	if since < yieldAlways && !(awaited && since >= yieldWhenAwaited) {
		return
	}
	w.lastYield = now
	runtime.Gosched()
}

// serve answers n packets of b, from the packet first on. It reports whether it
// has started goroutines for others.
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

// Answer appends the reply to one packet to buf. If it declines, why is not
// meters.Understood. a describes the question as far as it was understood.
func (f *Server) Answer(w *Worker, pkt, buf []byte, now time.Time) (reply []byte, a *Query, why meters.Reason) {
	a = &w.asked[0]
	f.parse(a, pkt, w.Keys[0][:0])
	w.prefetch(w.asked[:1])
	reply, why = f.reply(w, a, pkt, buf, now)
	return reply, a, why
}

// reply looks up the question a of pkt and appends the reply to buf.
//
// It does not allocate, lock, or write memory that another worker reads.
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
		size += wire.OPTLen + len(ede) // CoreDNS counts an OPT that is present before the server adds its own
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

// zoneOf returns the longest zone that holds the name, or nil.
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

// replyAtOnce is reply for an entry that should be refreshed, if there is no
// place in the chain to do so.
func (f *Server) replyAtOnce(w *Worker, a *Query, pkt, buf []byte, now time.Time) ([]byte, meters.Reason) {
	w.atOnce = true
	reply, why := f.reply(w, a, pkt, buf, now)
	w.atOnce = false
	return reply, why
}

// blockOf returns the zone of the server block that answers for name, or nil. The
// block may have no cache for name.
func (f *Server) blockOf(name []byte) *Zone {
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if z := f.byName[string(name[off:])]; z != nil {
			return z
		}
	}
	return nil
}

// decline hands a packet to the chain. It reports whether a goroutine was started.
func (f *Server) decline(a *Query, why meters.Reason, pkt []byte, b *fastpath.Batch, i int) bool {
	if len(pkt) < wire.HeaderLen {
		return false // there is no header to reply to; CoreDNS drops it as well
	}
	j := f.newJob(a, why, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	return f.Backlog.Submit(j)
}

// offer hands packet i of b, whose entry should be refreshed, to the chain. It
// reports false if there is no place for it.
func (f *Server) offer(w *Worker, a *Query, pkt []byte, b *fastpath.Batch, i int) bool {
	j := f.newJob(a, meters.Refresh, pkt)
	j.origin, j.ipv4 = b.Origin(i), b.IPv4(i)
	if !f.Backlog.offer(j) {
		return false
	}
	w.CountDecline(meters.Refresh)
	return true
}

// newJob makes a job of a query. The caller adds the query's origin.
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

// debugf logs a message for developers.
func (f *Server) debugf(format string, args ...any) {
	clog.NewWithPlugin(f.Home.Name).Debugf(format, args...)
}
