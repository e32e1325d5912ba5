package dnsplugin

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// vectors are the metric families. Those of the subsystem "cache" have the
// names, help texts and labels of CoreDNS's cache, so dashboards go on working.
type vectors struct {
	entries, bytes                                                       *prometheus.GaugeVec
	hits, evictions                                                      *prometheus.CounterVec // by type
	requests, misses, prefetches, drops, stale, coalesced, cuts, subnets *prometheus.CounterVec
}

// newVectors registers the families with reg, or takes over those that an
// earlier instance (before a reload, in another server block) has registered.
func newVectors(reg prometheus.Registerer, flush func()) (*vectors, error) {
	var v vectors
	r := registrar{reg, flush}
	byType := []string{"server", "type", "zones", "view"}
	plain := []string{"server", "zones", "view"}
	return &v, errors.Join(
		r.gauge(&v.entries, "cache", "entries", "The number of elements in the cache.", byType),
		r.counter(&v.requests, "cache", "requests_total", "The count of cache requests.", plain),
		r.counter(&v.hits, "cache", "hits_total", "The count of cache hits.", byType),
		r.counter(&v.misses, "cache", "misses_total", "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.", plain),
		r.counter(&v.prefetches, "cache", "prefetch_total", "The number of times the cache has prefetched a cached item.", plain),
		r.counter(&v.drops, "cache", "drops_total", "The number responses that are not cached, because the reply is malformed.", plain),
		r.counter(&v.stale, "cache", "served_stale_total", "The number of requests served from stale cache entries.", plain),
		r.counter(&v.evictions, "cache", "evictions_total", "The count of cache evictions.", byType),
		r.gauge(&v.bytes, "penstock", "cache_bytes", "The memory that the cache accounts for, in bytes.", byType),
		r.counter(&v.cuts, "penstock", "nxcut_total", "The number of requests answered by the denial of a name above, or of another type.", plain),
		r.counter(&v.subnets, "penstock", "subnet_total", "The number of requests with a client subnet (ECS), which go past the cache.", plain),
		r.counter(&v.coalesced, "penstock", "coalesced_total", "The number of misses that waited for another query's answer instead of asking.", plain),
	)
}

// registrar registers families that are up to date when they are collected:
// flush is called before.
type registrar struct {
	reg   prometheus.Registerer
	flush func()
}

// counter makes *into the family of that name.
func (r registrar) counter(into **prometheus.CounterVec, subsystem, name, help string, labels []string) error {
	*into = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	return register(r, into)
}

// gauge makes *into the family of that name.
func (r registrar) gauge(into **prometheus.GaugeVec, subsystem, name, help string, labels []string) error {
	*into = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: plugin.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	return register(r, into)
}

// register registers *c, or replaces *c by the equal collector that is registered already.
func register[C prometheus.Collector](r registrar, c *C) error {
	err := r.reg.Register(upToDate{*c, r.flush})
	var have prometheus.AlreadyRegisteredError
	if !errors.As(err, &have) {
		return err
	}
	switch existing := have.ExistingCollector.(type) {
	case upToDate:
		if ours, ok := existing.Collector.(C); ok {
			*c = ours
			return nil
		}
	case C: // CoreDNS's cache is linked in too
		*c = existing
		r.reg.Unregister(existing)
		return r.reg.Register(upToDate{existing, r.flush})
	}
	return fmt.Errorf("another kind of collector is registered under the same name: %w", err)
}

// upToDate collects a family after flush has added what workers have counted.
type upToDate struct {
	prometheus.Collector
	flush func()
}

// Collect implements prometheus.Collector.
func (c upToDate) Collect(ch chan<- prometheus.Metric) {
	c.flush()
	c.Collector.Collect(ch)
}

// meters are the metrics of one server, with their labels resolved: looking
// up a label set costs more than the answer from the cache.
type meters struct {
	requests, misses, prefetches, drops, stale, coalesced, cuts, subnets prometheus.Counter
	success, denial                                                      sideMeters
}

type sideMeters struct {
	entries, bytes  prometheus.Gauge
	hits, evictions prometheus.Counter
}

// side returns the metrics of one side.
func (m *meters) side(kind sides.Kind) *sideMeters {
	if kind == sides.Denial {
		return &m.denial
	}
	return &m.success
}

// meterSet hands out the meters of each server that a Cache runs in. Their
// number is that of the listeners, so the map is copied to add one.
type meterSet struct {
	vec         *vectors
	zones, view string

	mu       sync.Mutex // serialises writers of byServer
	byServer atomic.Pointer[map[string]*meters]
}

// of returns the meters of server.
func (s *meterSet) of(server string) *meters {
	if all := s.byServer.Load(); all != nil {
		if m := (*all)[server]; m != nil {
			return m
		}
	}
	return s.add(server)
}

func (s *meterSet) add(server string) *meters {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]*meters{}
	if all := s.byServer.Load(); all != nil {
		if m := (*all)[server]; m != nil {
			return m
		}
		maps.Copy(next, *all)
	}
	m := &meters{
		requests:   s.vec.requests.WithLabelValues(server, s.zones, s.view),
		misses:     s.vec.misses.WithLabelValues(server, s.zones, s.view),
		prefetches: s.vec.prefetches.WithLabelValues(server, s.zones, s.view),
		drops:      s.vec.drops.WithLabelValues(server, s.zones, s.view),
		stale:      s.vec.stale.WithLabelValues(server, s.zones, s.view),
		cuts:       s.vec.cuts.WithLabelValues(server, s.zones, s.view),
		subnets:    s.vec.subnets.WithLabelValues(server, s.zones, s.view),
		coalesced:  s.vec.coalesced.WithLabelValues(server, s.zones, s.view),
		success:    s.side(server, sides.Success.String()),
		denial:     s.side(server, sides.Denial.String()),
	}
	next[server] = m
	s.byServer.Store(&next)
	return m
}

// resize publishes how many entries there are.
func (s *meterSet) resize(success, denial int) {
	all := s.byServer.Load()
	if all == nil {
		return
	}
	for _, m := range *all {
		m.success.entries.Set(float64(success))
		m.denial.entries.Set(float64(denial))
	}
}

func (s *meterSet) side(server, kind string) sideMeters {
	return sideMeters{
		entries:   s.vec.entries.WithLabelValues(server, kind, s.zones, s.view),
		bytes:     s.vec.bytes.WithLabelValues(server, kind, s.zones, s.view),
		hits:      s.vec.hits.WithLabelValues(server, kind, s.zones, s.view),
		evictions: s.vec.evictions.WithLabelValues(server, kind, s.zones, s.view),
	}
}
