package meters

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

// Vectors are the metric families. The families of the subsystem "cache" have
// the names, help texts and labels of CoreDNS's cache, so dashboards still work.
type Vectors struct {
	entries, bytes                                                       *prometheus.GaugeVec
	hits, evictions                                                      *prometheus.CounterVec // by type
	requests, misses, prefetches, drops, stale, coalesced, cuts, subnets *prometheus.CounterVec
}

// NewVectors registers the families with r. If another instance has registered
// them, before a reload or for another server block, it returns these.
func NewVectors(r Registrar) (*Vectors, error) {
	var v Vectors
	byType := []string{"server", "type", "zones", "view"}
	plain := []string{"server", "zones", "view"}
	return &v, errors.Join(
		r.Gauge(&v.entries, "cache", "entries", "The number of elements in the cache.", byType),
		r.Counter(&v.requests, "cache", "requests_total", "The count of cache requests.", plain),
		r.Counter(&v.hits, "cache", "hits_total", "The count of cache hits.", byType),
		r.Counter(&v.misses, "cache", "misses_total", "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.", plain),
		r.Counter(&v.prefetches, "cache", "prefetch_total", "The number of times the cache has prefetched a cached item.", plain),
		r.Counter(&v.drops, "cache", "drops_total", "The number responses that are not cached, because the reply is malformed.", plain),
		r.Counter(&v.stale, "cache", "served_stale_total", "The number of requests served from stale cache entries.", plain),
		r.Counter(&v.evictions, "cache", "evictions_total", "The count of cache evictions.", byType),
		r.Gauge(&v.bytes, "penstock", "cache_bytes", "The memory that the cache accounts for, in bytes.", byType),
		r.Counter(&v.cuts, "penstock", "nxcut_total", "The number of requests answered by the denial of a name above, or of another type.", plain),
		r.Counter(&v.subnets, "penstock", "subnet_total", "The number of requests with a client subnet (ECS), which bypass the cache.", plain),
		r.Counter(&v.coalesced, "penstock", "coalesced_total", "The number of misses that waited for another query's answer instead of asking.", plain),
	)
}

// Registrar registers families with Into. It calls Flush before a family is
// collected, to add the counts of the workers.
type Registrar struct {
	Into  prometheus.Registerer
	Flush func()
}

// Counter sets *into to the counter family of that name.
func (r Registrar) Counter(into **prometheus.CounterVec, subsystem, name, help string, labels []string) error {
	*into = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	return register(r, into)
}

// Gauge sets *into to the gauge family of that name.
func (r Registrar) Gauge(into **prometheus.GaugeVec, subsystem, name, help string, labels []string) error {
	*into = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: plugin.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	return register(r, into)
}

// register registers *c, or sets *c to an equal collector that is registered.
func register[C prometheus.Collector](r Registrar, c *C) error {
	err := r.Into.Register(UpToDate{*c, r.Flush})
	var have prometheus.AlreadyRegisteredError
	if !errors.As(err, &have) {
		return err
	}
	switch existing := have.ExistingCollector.(type) {
	case UpToDate:
		if ours, ok := existing.Collector.(C); ok {
			*c = ours
			return nil
		}
	case C: // of CoreDNS's cache, which the program contains too
		*c = existing
		r.Into.Unregister(existing)
		return r.Into.Register(UpToDate{existing, r.Flush})
	}
	return fmt.Errorf("another kind of collector is registered under the same name: %w", err)
}

// UpToDate collects a family after Flush has added the counts of the workers.
type UpToDate struct {
	prometheus.Collector
	Flush func()
}

// Collect implements prometheus.Collector.
func (c UpToDate) Collect(ch chan<- prometheus.Metric) {
	c.Flush()
	c.Collector.Collect(ch)
}

// Meters are the metrics of one server with their labels resolved, because
// looking up a set of labels costs more than an answer from the cache.
type Meters struct {
	Requests, Misses, Prefetches, Drops, Stale, Coalesced, Cuts, Subnets prometheus.Counter
	Success, Denial                                                      SideMeters
}

// SideMeters are the metrics of one side of the cache.
type SideMeters struct {
	Entries, Bytes  prometheus.Gauge
	Hits, Evictions prometheus.Counter
}

// Side returns the metrics of one side.
func (m *Meters) Side(kind sides.Kind) *SideMeters {
	if kind == sides.Denial {
		return &m.Denial
	}
	return &m.Success
}

// Set holds the meters of each server that a Cache runs in. There are as few as
// listeners, so the map is copied when one is added.
type Set struct {
	Vec         *Vectors
	Zones, View string

	mu       sync.Mutex // held by writers of byServer
	byServer atomic.Pointer[map[string]*Meters]
}

// Of returns the meters of a server.
func (s *Set) Of(server string) *Meters {
	if all := s.byServer.Load(); all != nil {
		if m := (*all)[server]; m != nil {
			return m
		}
	}
	return s.add(server)
}

func (s *Set) add(server string) *Meters {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]*Meters{}
	if all := s.byServer.Load(); all != nil {
		if m := (*all)[server]; m != nil {
			return m
		}
		maps.Copy(next, *all)
	}
	m := &Meters{
		Requests:   s.Vec.requests.WithLabelValues(server, s.Zones, s.View),
		Misses:     s.Vec.misses.WithLabelValues(server, s.Zones, s.View),
		Prefetches: s.Vec.prefetches.WithLabelValues(server, s.Zones, s.View),
		Drops:      s.Vec.drops.WithLabelValues(server, s.Zones, s.View),
		Stale:      s.Vec.stale.WithLabelValues(server, s.Zones, s.View),
		Cuts:       s.Vec.cuts.WithLabelValues(server, s.Zones, s.View),
		Subnets:    s.Vec.subnets.WithLabelValues(server, s.Zones, s.View),
		Coalesced:  s.Vec.coalesced.WithLabelValues(server, s.Zones, s.View),
		Success:    s.side(server, sides.Success.String()),
		Denial:     s.side(server, sides.Denial.String()),
	}
	next[server] = m
	s.byServer.Store(&next)
	return m
}

// Resize publishes the number of entries on each side.
func (s *Set) Resize(success, denial int) {
	all := s.byServer.Load()
	if all == nil {
		return
	}
	for _, m := range *all {
		m.Success.Entries.Set(float64(success))
		m.Denial.Entries.Set(float64(denial))
	}
}

func (s *Set) side(server, kind string) SideMeters {
	return SideMeters{
		Entries:   s.Vec.entries.WithLabelValues(server, kind, s.Zones, s.View),
		Bytes:     s.Vec.bytes.WithLabelValues(server, kind, s.Zones, s.View),
		Hits:      s.Vec.hits.WithLabelValues(server, kind, s.Zones, s.View),
		Evictions: s.Vec.evictions.WithLabelValues(server, kind, s.Zones, s.View),
	}
}
