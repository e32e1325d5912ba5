package dnsplugin

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/admission"
	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

const (
	// maxBackground bounds the refreshes that run in the background. Each is
	// one goroutine and one upstream query. Beyond the bound an entry is
	// refreshed a little later, by a query that finds a free place. Names share
	// the places as they share the chain (internal/admission), so the entries of
	// a silent source do not prevent others from being refreshed.
	maxBackground = 1024

	// closeGrace is how long Close waits for refreshes that ignore their
	// cancelled context. CoreDNS gives its servers 5 s to stop.
	closeGrace = 5 * time.Second
)

// Cache is a CoreDNS plugin handler that answers from stored responses. Create
// one with [New], set Next, and Close it when it is no longer needed.
type Cache struct {
	// Next answers the queries that the cache does not.
	Next plugin.Handler

	name    string
	cfg     Config
	zones   plugin.Zones
	sides   *sides.Sides
	flights *flights // nil if misses are not coalesced
	meters  meters.Set
	now     func() time.Time

	life     context.Context // ends with Close; only refreshes derive from it
	cancel   context.CancelFunc
	bypassed atomic.Uint64 // queries that bypassed the cache because of a client subnet
	warmNow  chan struct{} // requests a snapshot before the next tick

	front *front.Instance // as the fast path knows it

	mu         sync.Mutex // guards closed, background, and refreshes against Add after Wait
	closed     bool
	background *admission.Control // of refreshes
	refreshes  sync.WaitGroup
}

// New returns a Cache for cfg. It registers its metrics with the default
// registry, which the prometheus plugin serves.
func New(cfg Config) (*Cache, error) {
	return newCache("penstock", cfg, prometheus.DefaultRegisterer)
}

func newCache(name string, cfg Config, reg prometheus.Registerer) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	vec, err := meters.NewVectors(meters.Registrar{Into: reg, Flush: proc.listeners.Flush})
	if err != nil {
		return nil, err
	}
	if err := publishBuild(reg); err != nil {
		return nil, err
	}
	side := func(s Side) sides.Options { return sides.Options{Store: cfg.storeOptions(s), Disable: s.Disable} }
	both, err := sides.New(side(cfg.Success), side(cfg.Denial), cfg.policy(), time.Now())
	if err != nil {
		return nil, err
	}
	c := &Cache{
		name:    name,
		cfg:     cfg,
		zones:   cfg.Zones,
		sides:   both,
		flights: newFlights(cfg.Coalesce),
		now:     time.Now,
		background: admission.New(admission.Limits{
			Quick: maxBackground, Long: maxBackground, Reserve: maxBackground / 8, Groups: maxBackground, LongAfter: front.ChainLimits.LongAfter,
		}),
		warmNow: make(chan struct{}, 1),
	}
	c.meters.Vec, c.meters.Zones = vec, strings.Join(cfg.Zones, ",")
	c.front = proc.listeners.Join(&front.Instance{
		Handler: c, Name: name, Mode: front.Mode(cfg.FastPath.Mode), Workers: cfg.FastPath.Workers, Batch: cfg.FastPath.Batch,
		Coalesce: cfg.Coalesce, Zones: cfg.Zones, Sides: both, Meters: c.meters.Of,
		Now: func() time.Time { return c.now() },
	})
	c.life, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close cancels the background refreshes and waits for them. It returns
// context.DeadlineExceeded if some have not ended after a few seconds.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	done := make(chan struct{})
	go func() {
		c.refreshes.Wait()
		close(done)
	}()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return context.DeadlineExceeded
	}
}

// Name implements plugin.Handler.
func (c *Cache) Name() string { return c.name }

// identify returns the cache's form of r's question, whose key it appends to
// buf. It is not ok if the name cannot be packed; no entry has such a name.
func (c *Cache) identify(r *dns.Msg, buf []byte) (id sides.Ident, ok bool) {
	q := &r.Question[0]
	var name [wire.MaxNameLen + 1]byte
	n, err := dns.PackDomainName(q.Name, name[:], 0, nil, false)
	if err != nil {
		return sides.Ident{}, false
	}
	id = sides.Ident{DO: wantsDNSSEC(r), CD: r.CheckingDisabled, AD: r.AuthenticatedData}
	id.Key = wire.AppendKey(buf, name[:n], q.Qtype, q.Qclass, id.DO, id.CD)
	id.Hash = c.sides.Hash(id.Key)
	return id, true
}

// extras are stored together with a response.
type extras struct {
	wildcard string // the wildcard record that made it
	ede      []byte // its extended errors, packed by edeOf
}

// put stores m, the response to id that classify judged as v, for ttl seconds.
// It returns the entry, or nil if the response cannot or must not be kept.
func (c *Cache) put(m *dns.Msg, v verdict, id *sides.Ident, ttl uint32, now store.Instant, with extras, meters *meters.Meters) *store.Entry {
	s, counts := &c.sides.Success, &meters.Success
	if v.denial() {
		s, counts = &c.sides.Denial, &meters.Denial
	}
	if s.Disabled.Contain(id.Name()) {
		// The denial is not kept, but it must still end the answer that it
		// supersedes. A failure does not supersede anything.
		if v.denial() && v.kind != response.ServerError && !c.cfg.Stale.PreferPositive {
			c.sides.Success.Store.Delete(id.Hash, id.Key)
		}
		return nil
	}
	a, ok := pack(m)
	if !ok {
		meters.Drops.Inc()
		return nil
	}
	grace := c.cfg.Stale.UpTo
	if v.kind == response.ServerError {
		grace = 0 // RFC 2308, section 7: 5 minutes at most, whatever serve_stale says
	}
	if c.cfg.Stale.PreferPositive && !v.denial() {
		c.keepLastGood(id, v.answering, now)
	}
	rec := store.NewRecord(a, now, ttl, grace)
	rec.Answering, rec.Wildcard, rec.EDE, rec.Plain = v.answering, with.wildcard, with.ede, plainLen(m)
	e, evicted := s.Store.Put(id.Hash, id.Key, rec, now)
	switch {
	case c.cfg.NXCut.cuts(m, v, id):
		c.putCut(m, id, ttl, now, with)
	case c.cfg.NXCut.On && v.kind != response.NameError && v.kind != response.ServerError:
		c.liftCuts(id, now)
	}
	counts.Evictions.Add(float64(evicted))
	counts.Entries.Set(float64(s.Store.Len()))
	counts.Bytes.Set(float64(s.Store.Bytes()))
	return e
}

// keepLastGood moves the answering entry of id to a second key if the response
// that is about to replace it does not answer; sides.Lookup finds it there. A
// response that answers replaces both entries.
func (c *Cache) keepLastGood(id *sides.Ident, answering bool, now store.Instant) {
	s := c.sides.Success.Store
	if answering {
		id.Key[0] |= store.Variant
		s.Delete(s.Hash(id.Key), id.Key)
		id.Key[0] &^= store.Variant
		return
	}
	e := s.Get(id.Hash, id.Key, now)
	if e == nil || !e.Answering {
		return
	}
	a := e.Answer()
	rec := store.Record{
		Answer: &a, Stored: e.Stored, TTL: e.TTL, Dead: e.Dead,
		Answering: true, Wildcard: e.Wildcard(), EDE: e.EDE(), Plain: int(e.Plain),
	}
	id.Key[0] |= store.Variant
	kept, _ := s.Put(s.Hash(id.Key), id.Key, rec, now)
	id.Key[0] &^= store.Variant
	if kept != nil { // popularity and the pause move along
		kept.LastHit.Store(e.LastHit.Load())
		kept.Hits.Store(e.Hits.Load())
		kept.RetryAfter.Store(e.RetryAfter.Load())
	}
}

// plainLen returns the length of m without compression, which is the form that
// most clients receive and that the prometheus plugin counts.
func plainLen(m *dns.Msg) int {
	s := *m
	s.Compress = false
	return s.Len()
}

// pack turns a response into a stored answer. It is not ok for a response that
// cannot be packed or cannot be unpacked again, so that no hit fails later.
func pack(m *dns.Msg) (*wire.Answer, bool) {
	s := *m
	s.Id, s.Zero, s.Compress = 0, false, true
	b, err := s.Pack()
	if err != nil {
		return nil, false
	}
	a, _, err := wire.NewAnswer(b)
	if err != nil {
		return nil, false
	}
	_, err = reply(a, m, 0, false)
	return a, err == nil
}
