package dnsplugin

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// What the workers have counted is added to the series of Prometheus when
// those are collected. So the series are exact at every scrape, and no query
// pays for more than its own additions.

// publisher brings the counters of the fast path's servers to Prometheus. It
// belongs to the process and not to a Cache, because the series continue over
// reloads.
type publisher struct {
	mu      sync.Mutex // guards all below
	servers []*fastServer
	bulks   map[string]map[string]*meters.Histogram // histograms by family and labels, see labelKey
	hooked  bool                                    // CoreDNS's own families are ours to collect
	drains  bool                                    // a call of gather is due
	vec     *fastVectors
}

// drainEvery is how often counters are emptied although nobody asks for them:
// those of 32 bits then hold what 7 million queries a second of one zone and
// size add.
const drainEvery = 10 * time.Minute

// drainAgainLocked empties the counters after drainEvery, as long as there are
// servers.
func (p *publisher) drainAgainLocked() {
	if p.drains || len(p.servers) == 0 {
		return
	}
	p.drains = true
	time.AfterFunc(drainEvery, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.drains = false
		p.gather()
		p.drainAgainLocked()
	})
}

// settle is how long after its end a server's counters are looked at once
// more: by then the last batch that it was serving is over.
const settle = time.Second

// fastVectors are families that only the fast path has.
type fastVectors struct {
	declined, shed, queued, atOnce, batches, unsent *prometheus.CounterVec
	zones, chain, unwatched, steered                *prometheus.GaugeVec

	// Of TCP.
	tcp, conns *prometheus.GaugeVec
	ended      *prometheus.CounterVec
}

func newFastVectors(r meters.Registrar) (*fastVectors, error) {
	v := &fastVectors{}
	for _, err := range []error{
		r.Counter(&v.declined, "penstock", "fastpath_declined_total", "The number of queries to the fast path's sockets that went through the plugin chain, by reason.", []string{"server", "reason"}),
		r.Counter(&v.shed, "penstock", "fastpath_shed_total", "The number of queries that were dropped because too many were waiting for the plugin chain, or for too long.", []string{"server"}),
		r.Counter(&v.queued, "penstock", "fastpath_queued_total", "The number of queries that had to wait for a place in the plugin chain.", []string{"server"}),
		r.Counter(&v.atOnce, "penstock", "fastpath_served_without_refresh_total", "The number of queries that were answered from the cache, stale where necessary, because there was no place in the plugin chain to ask the source first.", []string{"server"}),
		r.Gauge(&v.chain, "penstock", "fastpath_chain_queries", "The number of queries in the plugin chain or waiting for it, by state: quick (for less than 100 ms so far), long, answered (but still in it), queued.", []string{"server", "state"}),
		r.Counter(&v.batches, "penstock", "fastpath_batches_total", "The number of times that UDP queries were taken from the fast path's sockets, some at a time.", []string{"server"}),
		r.Gauge(&v.unwatched, "penstock", "fastpath_unwatched", "Whether cached answers go out past the plugins log and dnstap, because thousands of queries are stuck in them: 1 if so, else 0.", []string{"server"}),
		r.Counter(&v.unsent, "penstock", "fastpath_unsent_total", "The number of UDP replies that the kernel did not take: a full buffer, or a firewall.", []string{"server"}),
		r.Gauge(&v.steered, "penstock", "fastpath_steered", "1 if the kernel deals all queries to the fast path's sockets, else 0; why holds the reason.", []string{"server", "proto", "why"}),
		r.Gauge(&v.zones, "penstock", "fastpath_zone", "Whether cached answers of a zone go out without the plugin chain: 1 if so, 0 if not, and why not.", []string{"server", "zone", "why"}),
		r.Gauge(&v.tcp, "penstock", "fastpath_tcp", "Whether they do so over TCP too: 1 if so, 0 if not, and why not.", []string{"server", "why"}),
		r.Gauge(&v.conns, "penstock", "fastpath_connections", "The number of TCP connections that are open.", []string{"server"}),
		r.Counter(&v.ended, "penstock", "fastpath_connections_closed_total", "The number of TCP connections that were closed to protect the server, by reason.", []string{"server", "reason"}),
	} {
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

// publish makes the counters of f part of what is collected from now on.
func (f *fastServer) publish() {
	p := &f.home.registry.published
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers = append(p.servers, f)
	p.drainAgainLocked()
	counted := slices.ContainsFunc(f.zones, func(z *fastZone) bool { return (z.why == "" || z.watched) && z.Counted })
	if counted && !p.hooked {
		p.hooked = true
		p.hook(prometheus.DefaultRegisterer)
	}
	if err := p.register(); err != nil {
		f.debugf("metrics of the fast path: %v", err)
		return
	}
	p.vec.zones.DeletePartialMatch(prometheus.Labels{"server": f.addr})
	for _, z := range f.zones {
		on := 0.0
		if z.why == "" {
			on = 1
		}
		p.vec.zones.WithLabelValues(f.addr, z.zone, z.why).Set(on)
	}
	p.tcpSeries(f.addr, f.tcpMissing)
}

// tcpSeries says that the listener at addr has no TCP of ours, and why, or
// that it has it. The caller holds the lock.
func (p *publisher) tcpSeries(addr, why string) {
	p.vec.tcp.DeletePartialMatch(prometheus.Labels{"server": addr})
	on := 0.0
	if why == "" {
		on = 1
	}
	p.vec.tcp.WithLabelValues(addr, why).Set(on)
}

// register makes the families of the fast path known. The caller holds the lock.
func (p *publisher) register() error {
	if p.vec != nil {
		return nil
	}
	vec, err := newFastVectors(meters.Registrar{Into: prometheus.DefaultRegisterer, Flush: p.flush})
	if err == nil {
		p.vec = vec
	}
	return err
}

// describe says for each zone of a listener that has no fast path why not.
func (p *publisher) describe(addr string, zones map[string][]*dnsserver.Config, plans []*zonePlan, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.register() != nil {
		return // publish has said so, or will
	}
	p.vec.zones.DeletePartialMatch(prometheus.Labels{"server": addr})
	for zone := range zones {
		reason := why
		for _, plan := range plans {
			if plan.zone == strings.ToLower(zone) && plan.why != "" {
				reason = plan.why
			}
		}
		p.vec.zones.WithLabelValues(addr, zone, reason).Set(0)
	}
	p.tcpSeries(addr, why)
}

// hook takes the place of CoreDNS's families in reg.
func (p *publisher) hook(reg prometheus.Registerer) {
	for _, c := range []prometheus.Collector{vars.RequestCount, vars.RequestDo, vars.ResponseRcode} {
		if reg.Unregister(c) {
			reg.MustRegister(meters.UpToDate{Collector: c, Flush: p.flush})
		}
	}
	for family, vec := range map[string]*prometheus.HistogramVec{
		familyDuration: vars.RequestDuration, familyRequest: vars.RequestSize, familyResponse: vars.ResponseSize,
	} {
		if reg.Unregister(vec) {
			reg.MustRegister(&meters.Merged{Vec: vec, Ours: func() map[string]*meters.Histogram { return p.bulksOf(family) }})
		}
	}
}

// retire says that f gets no more batches.
func (f *fastServer) retire() {
	p := &f.home.registry.published
	p.mu.Lock()
	defer p.mu.Unlock()
	f.retired = time.Now()
	p.gather()
}

// flush adds to the series what was counted since the last time.
func (p *publisher) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gather()
}

// gather is flush for who holds the lock.
func (p *publisher) gather() {
	for _, f := range p.servers {
		for _, w := range f.workers {
			p.drainWorker(f, w, "udp")
		}
		for _, w := range f.streams {
			p.drainWorker(f, w, "tcp")
		}
		p.drainShared(f, f.sharedUDP, "udp")
		p.drainShared(f, f.sharedTCP, "tcp")
		p.backlogSeries(f)
		p.connSeries(f)
		p.socketSeries(f)
	}
	p.servers = slices.DeleteFunc(p.servers, func(f *fastServer) bool {
		return !f.retired.IsZero() && time.Since(f.retired) > settle
	})
}

// backlogSeries adds what has become of the queries for the chain of f.
func (p *publisher) backlogSeries(f *fastServer) {
	if p.vec == nil {
		return
	}
	n := f.backlog.takeCounts()
	p.vec.shed.WithLabelValues(f.addr).Add(float64(n.shed))
	p.vec.queued.WithLabelValues(f.addr).Add(float64(n.queued))
	p.vec.atOnce.WithLabelValues(f.addr).Add(float64(n.atOnce))
	if !f.retired.IsZero() {
		return
	}
	quick, long, after, queued := f.backlog.levels()
	unwatched := 0.0
	if f.unwatched.Load() {
		unwatched = 1
	}
	p.vec.unwatched.WithLabelValues(f.addr).Set(unwatched)
	for state, n := range map[string]int{"quick": quick, "long": long, "answered": after, "queued": queued} {
		p.vec.chain.WithLabelValues(f.addr, state).Set(float64(n))
	}
}

// socketSeries says what the kernel does with packets and connections now, and
// adds the replies that it did not take.
func (p *publisher) socketSeries(f *fastServer) {
	if p.vec == nil {
		return
	}
	if f.udp != nil {
		p.vec.unsent.WithLabelValues(f.addr).Add(float64(f.udp.TakeUnsent()))
	}
	if !f.retired.IsZero() {
		return
	}
	if f.udp != nil {
		_, why := f.udp.Steered()
		p.steeredSeries(f.addr, "udp", why)
	}
	if f.tcp != nil {
		_, why := f.tcp.Steered()
		p.steeredSeries(f.addr, "tcp", why)
	}
}

func (p *publisher) steeredSeries(addr, proto string, why error) {
	p.vec.steered.DeletePartialMatch(prometheus.Labels{"server": addr, "proto": proto})
	if why != nil {
		p.vec.steered.WithLabelValues(addr, proto, why.Error()).Set(0)
		return
	}
	p.vec.steered.WithLabelValues(addr, proto, "").Set(1)
}

// closed takes away what is said about sockets at addr.
func (p *publisher) closed(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vec != nil {
		p.vec.steered.DeletePartialMatch(prometheus.Labels{"server": addr})
	}
}

// connSeries adds what has become of the connections of f.
func (p *publisher) connSeries(f *fastServer) {
	if f.tcp == nil || p.vec == nil {
		return
	}
	if f.retired.IsZero() {
		p.vec.conns.WithLabelValues(f.addr).Set(float64(f.tcp.Conns()))
	}
	n := f.tcp.Take()
	p.vec.ended.WithLabelValues(f.addr, "too_many").Add(float64(n.Refused))
	p.vec.ended.WithLabelValues(f.addr, "idle").Add(float64(n.Evicted))
	p.vec.ended.WithLabelValues(f.addr, "slow").Add(float64(n.Slow))
}

// drainWorker adds what w has counted.
func (p *publisher) drainWorker(f *fastServer, w *fastWorker, proto string) {
	w.Mu.Lock()
	full := w.Cur
	w.Cur, w.Spare = w.Spare, nil
	w.Mu.Unlock()
	p.drain(f, full, proto)
	w.Spare = full
}

// drain adds c to the series of f and leaves it empty.
func (p *publisher) drain(f *fastServer, c *meters.CounterSet, proto string) {
	for why, n := range c.Why {
		if n > 0 && p.vec != nil {
			p.vec.declined.WithLabelValues(f.addr, meters.Reason(why).String()).Add(float64(n))
		}
	}
	clear(c.Why[:])
	if c.Batches > 0 && p.vec != nil {
		p.vec.batches.WithLabelValues(f.addr).Add(float64(c.Batches))
	}
	c.Batches = 0
	for i, zc := range c.Zones {
		switch {
		case zc == nil:
		case zc.Success+zc.Denial == 0:
			c.Zones[i] = nil // another zone may have the room
			c.Own--
		default:
			p.zoneSeries(f, f.zones[i], zc, proto)
		}
	}
}

// zoneSeries adds zc, which has hits in z, to the series and leaves it empty.
func (p *publisher) zoneSeries(f *fastServer, z *fastZone, zc *meters.ZoneCounts, proto string) {
	p.cacheSeries(z, zc)
	if z.Counted {
		p.querySeries(f.addr, z, zc, proto)
	}
	*zc = meters.ZoneCounts{}
}

// drainShared adds what workers have counted in common.
func (p *publisher) drainShared(f *fastServer, shared []meters.SharedCounts, proto string) {
	for i := range shared {
		s := &shared[i]
		s.Mu.Lock()
		zc := s.Counts
		s.Counts = nil
		s.Mu.Unlock()
		if zc != nil {
			p.zoneSeries(f, f.zones[i], zc, proto)
		}
	}
}

// cacheSeries adds to the families of the cache.
func (p *publisher) cacheSeries(z *fastZone, zc *meters.ZoneCounts) {
	m := z.meters
	m.Requests.Add(float64(zc.Success + zc.Denial))
	m.Success.Hits.Add(float64(zc.Success - zc.CoalescedSuccess))
	m.Denial.Hits.Add(float64(zc.Denial - zc.CoalescedDenial))
	m.Misses.Add(float64(zc.CoalescedSuccess + zc.CoalescedDenial))
	m.Coalesced.Add(float64(zc.CoalescedSuccess + zc.CoalescedDenial))
	m.Stale.Add(float64(zc.Stale))
}

// querySeries adds to the families of the prometheus plugin.
func (p *publisher) querySeries(server string, z *fastZone, zc *meters.ZoneCounts, proto string) {
	const view = ""
	for t, byFamily := range zc.Types {
		name := "other"
		if meters.TypeNames[t] != dns.TypeNone {
			name = dns.Type(meters.TypeNames[t]).String()
		}
		for family, n := range byFamily {
			if n > 0 {
				vars.RequestCount.WithLabelValues(server, z.metricsIn, view, proto, [meters.IPFamilies]string{"1", "2"}[family], name).Add(float64(n))
			}
		}
	}
	if zc.DO > 0 {
		vars.RequestDo.WithLabelValues(server, z.metricsIn, view).Add(float64(zc.DO))
	}
	for rcode, n := range zc.Rcodes {
		if n > 0 {
			vars.ResponseRcode.WithLabelValues(server, z.metricsIn, view, dns.RcodeToString[rcode], z.next).Add(float64(n))
		}
	}
	vars.RequestDuration.WithLabelValues(server, z.metricsIn, view)
	p.bulk(familyDuration, server, z.metricsIn, view).AddDurations(&zc.Durations)
	vars.RequestSize.WithLabelValues(server, z.metricsIn, view, proto)
	p.bulk(familyRequest, server, z.metricsIn, view, proto).AddSizes(&zc.Requests, zc.Asked[:])
	vars.ResponseSize.WithLabelValues(server, z.metricsIn, view, proto)
	p.bulk(familyResponse, server, z.metricsIn, view, proto).AddSizes(&zc.Responses, zc.Answered[:])
}

// The histograms of the prometheus plugin, with their labels as they are
// sorted in what is collected.
const (
	familyDuration = plugin.Namespace + "_dns_request_duration_seconds"
	familyRequest  = plugin.Namespace + "_dns_request_size_bytes"
	familyResponse = plugin.Namespace + "_dns_response_size_bytes"
)

// bulksOf returns copies of the histograms of a family, with all that has been
// counted.
func (p *publisher) bulksOf(family string) map[string]*meters.Histogram {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gather()
	all := map[string]*meters.Histogram{}
	for key, b := range p.bulks[family] {
		all[key] = b.Clone()
	}
	return all
}

// bulk returns the histogram of a label set. proto may be left out.
func (p *publisher) bulk(family, server, zone, view string, proto ...string) *meters.Histogram {
	key := meters.LabelKey(append(append([]string{}, proto...), server, view, zone)) // sorted by label name
	byLabels := p.bulks[family]
	if byLabels == nil {
		byLabels = map[string]*meters.Histogram{}
		p.bulks[family] = byLabels
	}
	b := byLabels[key]
	if b == nil {
		bounds := meters.SizeBounds
		if family == familyDuration {
			bounds = plugin.TimeBuckets
		}
		b = meters.NewHistogram(bounds)
		byLabels[key] = b
	}
	return b
}
