package dnsplugin

import (
	"context"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/metrics"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// wildcardLabel is the metadata label under which plugins such as file publish
// the wildcard record that an answer was made from.
const wildcardLabel = "zone/wildcard"

// ServeDNS implements plugin.Handler.
func (c *Cache) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	// Only queries with one exact question are cached. An UPDATE has the zone's
	// name in place of the question, and ANY has no single right answer.
	if r.Opcode != dns.OpcodeQuery || len(r.Question) != 1 || !wire.Cacheable(r.Question[0].Qtype) {
		return plugin.NextOrFailure(c.name, c.Next, ctx, w, r)
	}
	if hasSubnet(r) {
		c.passSubnet(metrics.WithServer(ctx))
		return plugin.NextOrFailure(c.name, c.Next, ctx, w, r)
	}
	var buf [wire.MaxKeyLen]byte
	id, ok := c.identify(r, buf[:0])
	if !ok || !c.responsible(r.Question[0].Name) {
		return plugin.NextOrFailure(c.name, c.Next, ctx, w, r)
	}
	meters := c.meters.Of(metrics.WithServer(ctx))
	meters.Requests.Inc()

	now := c.now()
	e, kind := c.sides.Lookup(&id, c.sides.Instant(now))
	if e == nil {
		if cut := c.cutAbove(&id, c.sides.Instant(now)); cut != nil {
			meters.Denial.Hits.Inc()
			meters.Cuts.Inc()
			return c.answerByCut(w, r, cut, &id, now)
		}
		meters.Misses.Inc()
		return c.miss(ctx, query{w, r, meters}, id.Clone())
	}
	meters.Side(kind).Hits.Inc()
	return c.hit(ctx, query{w, r, meters}, &id, e, now)
}

// query is a query of the plugin chain. Its identity is not a part: on a hit that
// lies on the stack, which it would leave with the other fields.
type query struct {
	w      dns.ResponseWriter
	r      *dns.Msg
	meters *meters.Meters // of the server that received it
}

// subnetsBeforeWarning is how many queries may bypass an empty cache before it
// logs a warning.
const subnetsBeforeWarning = 1000

// passSubnet counts a query that bypasses the cache because it has a client
// subnet. It warns once if the cache is still empty after many of them: then
// the clients, or a rewrite in the Corefile, give every query a subnet.
func (c *Cache) passSubnet(server string) {
	c.meters.Of(server).Subnets.Inc()
	if c.bypassed.Add(1) == subnetsBeforeWarning && c.sides.Len() == 0 {
		clog.NewWithPlugin(c.name).Warningf("The cache of %s is empty after %d queries: each had a client subnet (ECS, RFC 7871), so its answer may be for that subnet alone and is not kept. "+
			"If the Corefile adds it (rewrite edns0 subnet), or a forwarder such as dnsmasq (add-subnet), take it out", strings.Join(c.cfg.Zones, " "), subnetsBeforeWarning)
	}
}

// responsible reports whether answers for name are cached here.
func (c *Cache) responsible(name string) bool {
	return c.zones.Contains(name) && !plugin.Zones(c.front.Bypass).Contains(name)
}

// wantsDNSSEC reports whether r has the DO bit.
func wantsDNSSEC(r *dns.Msg) bool {
	opt := r.IsEdns0()
	return opt != nil && opt.Do()
}

// hasSubnet reports whether r has a client subnet (RFC 7871) other than the
// whole network. Its answer may be meant for that subnet alone, so it neither
// comes from the cache nor is stored. A prefix of 0 stands for all clients.
func hasSubnet(r *dns.Msg) bool {
	for _, rr := range r.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		for _, o := range opt.Option {
			if ecs, ok := o.(*dns.EDNS0_SUBNET); ok && ecs.SourceNetmask > 0 {
				return true
			}
		}
	}
	return false
}

// miss fetches the answer, or waits for another query that does.
func (c *Cache) miss(ctx context.Context, q query, id *sides.Ident) (int, error) {
	if !c.sides.Coalesces(id.Name(), q.r.Question[0].Qtype) || !mayWait(ctx) {
		return c.fetch(ctx, q, id, nil)
	}
	fl, leads := c.flights.join(string(front.AppendShape(id.Key, q.r)), front.AsksAgain(ctx), c.now())
	switch {
	case fl == nil:
		return c.fetch(ctx, q, id, nil)
	case leads:
		defer c.flights.finish(fl)
		return c.fetch(leading(ctx), q, id, fl)
	}
	c.flights.wait(ctx, fl)
	now := c.now()
	if e, _ := c.sides.Lookup(id, c.sides.Instant(now)); e != nil {
		q.meters.Coalesced.Inc()
		return c.hit(ctx, q, id, e, now)
	}
	// The leader's answer cannot be shared (truncated, refused, an error).
	return c.fetch(ctx, q, id, nil)
}

// fetch asks the next plugin, stores the answer and sends it to the client.
func (c *Cache) fetch(ctx context.Context, q query, id *sides.Ident, fl *flight) (int, error) {
	req := refreshOf(q.r)
	rec := &recorder{ResponseWriter: q.w, cache: c, req: req, id: id, meters: q.meters, flight: fl, wildcard: wildcardOf(ctx)}
	rcode, err := plugin.NextOrFailure(c.name, c.Next, ctx, rec, req)
	// The next plugin may fail without writing a response, as forward does when
	// all upstreams time out. Store the failure, or every retry would ask again.
	// A context that has ended means that the client left, not that it failed.
	if err != nil && rcode == dns.RcodeServerFailure && ctx.Err() == nil && !rec.wrote {
		failure := new(dns.Msg)
		failure.SetRcode(req, dns.RcodeServerFailure)
		rec.keep(failure)
	}
	return rcode, err
}

// refreshOf returns the query to send upstream for r. It requests the AD bit,
// because the stored answer also serves clients that want it.
func refreshOf(r *dns.Msg) *dns.Msg {
	req := r.Copy()
	req.AuthenticatedData = true
	return req
}

// hit answers q from e.
func (c *Cache) hit(ctx context.Context, q query, id *sides.Ident, e *store.Entry, now time.Time) (int, error) {
	action, ttl, stale := c.sides.Decide(e, c.sides.Instant(now))
	if action == sides.AskFirst && !front.MayVerify(ctx) {
		action = sides.ServeAndRefresh
	}
	switch action {
	case sides.AskFirst:
		if done, rcode, err := c.verify(ctx, q, id.Clone(), e, now); done {
			return rcode, err
		}
	case sides.ServeAndRefresh:
		c.refresh(ctx, q, id, e, now, stale)
	case sides.Serve, sides.Ask:
	}
	if stale {
		q.meters.Stale.Inc()
	}
	if w := e.Wildcard(); w != "" {
		metadata.SetValueFunc(ctx, wildcardLabel, func() string { return w })
	}
	a := e.Answer()
	m, err := reply(&a, q.r, ttl, id.DO || id.AD)
	if err != nil {
		return dns.RcodeServerFailure, plugin.Error(c.name, err)
	}
	ede := e.EDE()
	if stale && q.r.IsEdns0() != nil {
		ede = sides.AppendStale(make([]byte, 0, sides.MaxStaleEDE), ede, a.Rcode())
	}
	addEDE(q.w, m, q.r, ede)
	// Like every plugin of CoreDNS, ignore a client that cannot be written to.
	_ = q.w.WriteMsg(m)
	return dns.RcodeSuccess, nil
}
