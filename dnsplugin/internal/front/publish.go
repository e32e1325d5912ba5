package front

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

// The counts of the workers are added to the series of Prometheus when those are
// collected. So the series are exact at every scrape, and a query only costs its
// own additions.

// Publisher brings the counters of the fast path's servers to Prometheus. It
// belongs to the process and not to a Cache, because the series continue over
// reloads.
type Publisher struct {
	mu         sync.Mutex // guards all below
	servers    []*Server
	Histograms map[string]map[string]*meters.Histogram // by family and labels, see meters.LabelKey
	hooked     bool                                    // we collect CoreDNS's own families
	drains     bool                                    // a timer of drainAgainLocked is set
	vec        *Vectors
}

// drainEvery is how often counters are emptied without a scrape. In this time
// 7 million queries a second of one zone and size do not overflow a counter of 32
// bits.
const drainEvery = 10 * time.Minute

// drainAgainLocked empties the counters after drainEvery, as long as there are
// servers.
func (p *Publisher) drainAgainLocked() {
	if p.drains || len(p.servers) == 0 {
		return
	}
	p.drains = true
	time.AfterFunc(drainEvery, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.drains = false
		p.flushLocked()
		p.drainAgainLocked()
	})
}

// retiredGrace is how long the counters of a server are still read after its
// end. By then its last batch is finished.
const retiredGrace = time.Second

// Vectors are the families that only the fast path has.
type Vectors struct {
	declined, shed, queued, atOnce, batches, unsent *prometheus.CounterVec
	zones, chain, unwatched, steered                *prometheus.GaugeVec

	// For TCP.
	tcp, conns *prometheus.GaugeVec
	ended      *prometheus.CounterVec
}

// NewVectors registers the families that only the fast path has.
func NewVectors(r meters.Registrar) (*Vectors, error) {
	v := &Vectors{}
	for _, err := range []error{
		r.Counter(&v.declined, "penstock", "fastpath_declined_total", "The number of queries to the fast path's sockets that went through the plugin chain, by reason.", []string{"server", "reason"}),
		r.Counter(&v.shed, "penstock", "fastpath_shed_total", "The number of queries that were dropped because too many were waiting for the plugin chain, or for too long.", []string{"server"}),
		r.Counter(&v.queued, "penstock", "fastpath_queued_total", "The number of queries that had to wait for a place in the plugin chain.", []string{"server"}),
		r.Counter(&v.atOnce, "penstock", "fastpath_served_without_refresh_total", "The number of queries that were answered from the cache, stale where necessary, because there was no place in the plugin chain to ask the source first.", []string{"server"}),
		r.Gauge(&v.chain, "penstock", "fastpath_chain_queries", "The number of queries in the plugin chain or waiting for it, by state: quick (for less than 100 ms so far), long, answered (but still in it), queued.", []string{"server", "state"}),
		r.Counter(&v.batches, "penstock", "fastpath_batches_total", "The number of batches of UDP queries that were taken from the fast path's sockets.", []string{"server"}),
		r.Gauge(&v.unwatched, "penstock", "fastpath_unwatched", "1 if cached answers bypass the plugins log and dnstap because thousands of queries are blocked in them, else 0.", []string{"server"}),
		r.Counter(&v.unsent, "penstock", "fastpath_unsent_total", "The number of UDP replies that the kernel did not take: a full buffer, or a firewall.", []string{"server"}),
		r.Gauge(&v.steered, "penstock", "fastpath_steered", "1 if the kernel deals all queries to the fast path's sockets, else 0; why holds the reason.", []string{"server", "proto", "why"}),
		r.Gauge(&v.zones, "penstock", "fastpath_zone", "1 if cached answers of a zone are sent without the plugin chain, else 0; why holds the reason.", []string{"server", "zone", "why"}),
		r.Gauge(&v.tcp, "penstock", "fastpath_tcp", "1 if the fast path serves TCP on this listener, else 0; why holds the reason.", []string{"server", "why"}),
		r.Gauge(&v.conns, "penstock", "fastpath_connections", "The number of TCP connections that are open.", []string{"server"}),
		r.Counter(&v.ended, "penstock", "fastpath_connections_closed_total", "The number of TCP connections that were closed to protect the server, by reason.", []string{"server", "reason"}),
	} {
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

// publish adds the counters of f to the series from now on.
func (f *Server) publish() {
	p := &f.Home.registry.published
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers = append(p.servers, f)
	p.drainAgainLocked()
	counted := slices.ContainsFunc(f.Zones, func(z *Zone) bool { return (z.Why == "" || z.watched) && z.Counted })
	if counted && !p.hooked {
		p.hooked = true
		p.hook(prometheus.DefaultRegisterer)
	}
	if err := p.registerLocked(); err != nil {
		f.debugf("metrics of the fast path: %v", err)
		return
	}
	p.vec.zones.DeletePartialMatch(prometheus.Labels{"server": f.Addr})
	for _, z := range f.Zones {
		on := 0.0
		if z.Why == "" {
			on = 1
		}
		p.vec.zones.WithLabelValues(f.Addr, z.Name, z.Why).Set(on)
	}
	p.tcpSeriesLocked(f.Addr, f.TCPMissing)
}

// tcpSeriesLocked publishes whether the fast path serves TCP at addr; why is the
// reason if it does not. mu must be held.
func (p *Publisher) tcpSeriesLocked(addr, why string) {
	p.vec.tcp.DeletePartialMatch(prometheus.Labels{"server": addr})
	on := 0.0
	if why == "" {
		on = 1
	}
	p.vec.tcp.WithLabelValues(addr, why).Set(on)
}

// registerLocked registers the families of the fast path. mu must be held.
func (p *Publisher) registerLocked() error {
	if p.vec != nil {
		return nil
	}
	vec, err := NewVectors(meters.Registrar{Into: prometheus.DefaultRegisterer, Flush: p.flush})
	if err == nil {
		p.vec = vec
	}
	return err
}

// describe publishes for each zone of a listener without a fast path the reason.
func (p *Publisher) describe(addr string, zones map[string][]*dnsserver.Config, plans []*ZonePlan, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.registerLocked() != nil {
		return // publish logs the error
	}
	p.vec.zones.DeletePartialMatch(prometheus.Labels{"server": addr})
	for zone := range zones {
		reason := why
		for _, plan := range plans {
			if plan.Name == strings.ToLower(zone) && plan.Why != "" {
				reason = plan.Why
			}
		}
		p.vec.zones.WithLabelValues(addr, zone, reason).Set(0)
	}
	p.tcpSeriesLocked(addr, why)
}

// hook replaces CoreDNS's families in reg with collectors that add our counts.
func (p *Publisher) hook(reg prometheus.Registerer) {
	for _, c := range []prometheus.Collector{vars.RequestCount, vars.RequestDo, vars.ResponseRcode} {
		if reg.Unregister(c) {
			reg.MustRegister(meters.UpToDate{Collector: c, Flush: p.flush})
		}
	}
	for family, vec := range map[string]*prometheus.HistogramVec{
		familyDuration: vars.RequestDuration, familyRequest: vars.RequestSize, familyResponse: vars.ResponseSize,
	} {
		if reg.Unregister(vec) {
			reg.MustRegister(&meters.Merged{Vec: vec, Ours: func() map[string]*meters.Histogram { return p.histogramsOf(family) }})
		}
	}
}

// retire removes f from the publisher, because it receives no more batches.
func (f *Server) retire() {
	p := &f.Home.registry.published
	p.mu.Lock()
	defer p.mu.Unlock()
	f.retired = time.Now()
	p.flushLocked()
}

// flush adds the counts since the last call to the series.
func (p *Publisher) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushLocked()
}

// flushLocked is flush while mu is held.
func (p *Publisher) flushLocked() {
	for _, f := range p.servers {
		for _, w := range f.Workers {
			p.drainWorker(f, w, "udp")
		}
		for _, w := range f.Streams {
			p.drainWorker(f, w, "tcp")
		}
		p.DrainShared(f, f.SharedUDP, "udp")
		p.DrainShared(f, f.SharedTCP, "tcp")
		p.backlogSeries(f)
		p.connSeries(f)
		p.socketSeries(f)
	}
	p.servers = slices.DeleteFunc(p.servers, func(f *Server) bool {
		return !f.retired.IsZero() && time.Since(f.retired) > retiredGrace
	})
}

// backlogSeries adds the counts of the backlog of f, and publishes its levels.
func (p *Publisher) backlogSeries(f *Server) {
	if p.vec == nil {
		return
	}
	n := f.Backlog.TakeCounts()
	p.vec.shed.WithLabelValues(f.Addr).Add(float64(n.Shed))
	p.vec.queued.WithLabelValues(f.Addr).Add(float64(n.queued))
	p.vec.atOnce.WithLabelValues(f.Addr).Add(float64(n.atOnce))
	if !f.retired.IsZero() {
		return
	}
	quick, long, after, queued := f.Backlog.Levels()
	unwatched := 0.0
	if f.Unwatched.Load() {
		unwatched = 1
	}
	p.vec.unwatched.WithLabelValues(f.Addr).Set(unwatched)
	for state, n := range map[string]int{"quick": quick, "long": long, "answered": after, "queued": queued} {
		p.vec.chain.WithLabelValues(f.Addr, state).Set(float64(n))
	}
}

// socketSeries publishes whether the kernel steers packets and connections to the
// sockets of f, and adds the replies that it did not accept.
func (p *Publisher) socketSeries(f *Server) {
	if p.vec == nil {
		return
	}
	if f.udp != nil {
		p.vec.unsent.WithLabelValues(f.Addr).Add(float64(f.udp.TakeUnsent()))
	}
	if !f.retired.IsZero() {
		return
	}
	if f.udp != nil {
		_, why := f.udp.Steered()
		p.steeredSeries(f.Addr, "udp", why)
	}
	if f.TCP != nil {
		_, why := f.TCP.Steered()
		p.steeredSeries(f.Addr, "tcp", why)
	}
}

func (p *Publisher) steeredSeries(addr, proto string, why error) {
	p.vec.steered.DeletePartialMatch(prometheus.Labels{"server": addr, "proto": proto})
	if why != nil {
		p.vec.steered.WithLabelValues(addr, proto, why.Error()).Set(0)
		return
	}
	p.vec.steered.WithLabelValues(addr, proto, "").Set(1)
}

// closed removes the series of the sockets at addr.
func (p *Publisher) closed(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vec != nil {
		p.vec.steered.DeletePartialMatch(prometheus.Labels{"server": addr})
	}
}

// connSeries publishes the number of connections of f, and adds the closed ones.
func (p *Publisher) connSeries(f *Server) {
	if f.TCP == nil || p.vec == nil {
		return
	}
	if f.retired.IsZero() {
		p.vec.conns.WithLabelValues(f.Addr).Set(float64(f.TCP.Conns()))
	}
	n := f.TCP.Take()
	p.vec.ended.WithLabelValues(f.Addr, "too_many").Add(float64(n.Refused))
	p.vec.ended.WithLabelValues(f.Addr, "idle").Add(float64(n.Evicted))
	p.vec.ended.WithLabelValues(f.Addr, "slow").Add(float64(n.Slow))
}

// drainWorker adds the counts of w to the series.
func (p *Publisher) drainWorker(f *Server, w *Worker, proto string) {
	w.Mu.Lock()
	full := w.Cur
	w.Cur, w.Spare = w.Spare, nil
	w.Mu.Unlock()
	p.Drain(f, full, proto)
	w.Spare = full
}

// Drain adds c to the series of f and leaves it empty.
func (p *Publisher) Drain(f *Server, c *meters.CounterSet, proto string) {
	for why, n := range c.Why {
		if n > 0 && p.vec != nil {
			p.vec.declined.WithLabelValues(f.Addr, meters.Reason(why).String()).Add(float64(n))
		}
	}
	clear(c.Why[:])
	if c.Batches > 0 && p.vec != nil {
		p.vec.batches.WithLabelValues(f.Addr).Add(float64(c.Batches))
	}
	c.Batches = 0
	for i, zc := range c.Zones {
		switch {
		case zc == nil:
		case zc.Success+zc.Denial == 0:
			c.Zones[i] = nil // make room for another zone
			c.Own--
		default:
			p.zoneSeries(f, f.Zones[i], zc, proto)
		}
	}
}

// zoneSeries adds zc, which has hits in z, to the series and leaves it empty.
func (p *Publisher) zoneSeries(f *Server, z *Zone, zc *meters.ZoneCounts, proto string) {
	p.cacheSeries(z, zc)
	if z.Counted {
		p.querySeries(f.Addr, z, zc, proto)
	}
	*zc = meters.ZoneCounts{}
}

// DrainShared adds the shared counts of zones to the series.
func (p *Publisher) DrainShared(f *Server, shared []meters.SharedCounts, proto string) {
	for i := range shared {
		s := &shared[i]
		s.Mu.Lock()
		zc := s.Counts
		s.Counts = nil
		s.Mu.Unlock()
		if zc != nil {
			p.zoneSeries(f, f.Zones[i], zc, proto)
		}
	}
}

// cacheSeries adds to the families of the cache.
func (p *Publisher) cacheSeries(z *Zone, zc *meters.ZoneCounts) {
	m := z.Meters
	m.Requests.Add(float64(zc.Success + zc.Denial))
	m.Success.Hits.Add(float64(zc.Success - zc.CoalescedSuccess))
	m.Denial.Hits.Add(float64(zc.Denial - zc.CoalescedDenial))
	m.Misses.Add(float64(zc.CoalescedSuccess + zc.CoalescedDenial))
	m.Coalesced.Add(float64(zc.CoalescedSuccess + zc.CoalescedDenial))
	m.Stale.Add(float64(zc.Stale))
}

// querySeries adds to the families of the prometheus plugin.
func (p *Publisher) querySeries(server string, z *Zone, zc *meters.ZoneCounts, proto string) {
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
	p.histogram(familyDuration, server, z.metricsIn, view).AddDurations(&zc.Durations)
	vars.RequestSize.WithLabelValues(server, z.metricsIn, view, proto)
	p.histogram(familyRequest, server, z.metricsIn, view, proto).AddSizes(&zc.Requests, zc.Asked[:])
	vars.ResponseSize.WithLabelValues(server, z.metricsIn, view, proto)
	p.histogram(familyResponse, server, z.metricsIn, view, proto).AddSizes(&zc.Responses, zc.Answered[:])
}

// The histograms of the prometheus plugin. A collected metric has its labels
// sorted by name.
const (
	familyDuration = plugin.Namespace + "_dns_request_duration_seconds"
	familyRequest  = plugin.Namespace + "_dns_request_size_bytes"
	familyResponse = plugin.Namespace + "_dns_response_size_bytes"
)

// histogramsOf returns copies of the histograms of a family, with all counts of
// the workers.
func (p *Publisher) histogramsOf(family string) map[string]*meters.Histogram {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushLocked()
	all := map[string]*meters.Histogram{}
	for key, b := range p.Histograms[family] {
		all[key] = b.Clone()
	}
	return all
}

// histogram returns the histogram of a label set. proto may be left out.
func (p *Publisher) histogram(family, server, zone, view string, proto ...string) *meters.Histogram {
	key := meters.LabelKey(append(append([]string{}, proto...), server, view, zone)) // sorted by label name
	byLabels := p.Histograms[family]
	if byLabels == nil {
		byLabels = map[string]*meters.Histogram{}
		p.Histograms[family] = byLabels
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
