package dnsplugin

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// CoreDNS ends the manager of forward's connections in a finalizer.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/coredns/coredns/plugin/pkg/proxy.(*Transport).connManager"))
}

// value reads a counter or gauge.
func value(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

// A hit allocates only the message that the plugins before the cache need.
// CoreDNS's cache makes 9 allocations for the same answer.
func TestAllocationsPerHit(t *testing.T) {
	for name, tt := range map[string]struct {
		s    *source
		most float64
	}{
		"A":        {says(nil, "example.org. 60 IN A 192.0.2.1"), 2},
		"NXDOMAIN": {says(nx, soa300), 4},
	} {
		c := cacheOf(t, Config{}, tt.s)
		r := question("example.org.", dns.TypeA)
		ask(t, c, r)
		w, ctx := &nullWriter{}, context.Background()
		if got := testing.AllocsPerRun(200, func() { _, _ = c.ServeDNS(ctx, w, r) }); got > tt.most {
			t.Errorf("%s: %v allocations, at most %v allowed", name, got, tt.most)
		}
		if got := testing.AllocsPerRun(200, func() {
			var buf [300]byte
			id, ok := c.identify(r, buf[:0])
			if !ok {
				t.Fatal("no key")
			}
			if e, _ := c.sides.Lookup(&id, 0); e == nil {
				t.Fatal("no entry")
			}
		}); got != 0 {
			t.Errorf("%s: the look-up allocates %v times", name, got)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 10 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: Stale{UpTo: time.Hour}}, s)
		m := c.meters.Of("")
		ask(t, c, question("example.org.", dns.TypeA))
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(20 * time.Second)
		ask(t, c, question("example.org.", dns.TypeA)) // stale
		synctest.Wait()
		s.say(nx, soa300)
		ask(t, c, question("a.example.org.", dns.TypeA))
		ask(t, c, question("a.example.org.", dns.TypeA))
		s.say(func(m *dns.Msg) { m.Question[0].Name = "other." }, "other. 10 IN A 192.0.2.1")
		ask(t, c, question("b.example.org.", dns.TypeA))
		for name, tt := range map[string]struct {
			m    prometheus.Metric
			want float64
		}{
			"requests": {m.Requests, 6}, "misses": {m.Misses, 3}, "stale": {m.Stale, 1}, "prefetches": {m.Prefetches, 1}, "drops": {m.Drops, 1},
			"success hits": {m.Success.Hits, 2}, "denial hits": {m.Denial.Hits, 1},
			"success entries": {m.Success.Entries, 1}, "denial entries": {m.Denial.Entries, 1},
		} {
			if got := value(t, tt.m); got != tt.want {
				t.Errorf("%s: %v, want %v", name, got, tt.want)
			}
		}
		if b := value(t, m.Success.Bytes); b < 100 || int64(b) != c.sides.Success.Store.Bytes() {
			t.Errorf("%v bytes", b)
		}
	})
}

// The memory stays within maxmem under a flood of names, and a name that is
// queried all the time survives it.
func TestFloodOfNamesStaysWithinMaxMem(t *testing.T) {
	s := &source{}
	s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return says(nil, r.Question[0].Name+` 60 IN TXT "`+strings.Repeat("x", 200)+`"`).answer(ctx, w, r)
	}
	c := cacheOf(t, Config{MaxMem: MinMaxMemory}, s)
	for i := range 10000 {
		ask(t, c, question(fmt.Sprintf("flood-%d.", i), dns.TypeTXT))
		if i%100 == 0 {
			ask(t, c, question("popular.", dns.TypeTXT))
		}
	}
	m := c.meters.Of("")
	if b := c.sides.Success.Store.Bytes(); b > MinMaxMemory/2 {
		t.Errorf("%d bytes", b)
	}
	if value(t, m.Success.Evictions) == 0 || value(t, m.Success.Hits) != 99 {
		t.Errorf("%v evictions, %v hits", value(t, m.Success.Evictions), value(t, m.Success.Hits))
	}
}

func TestZonesAndBypass(t *testing.T) {
	s := says(nil)
	c := cacheOf(t, Config{Zones: []string{"example.org."}}, s)
	c.front.Bypass = []string{"dyn.example.org."}
	for name, want := range map[string]int{"www.example.org.": 1, "Example.Org.": 1, "example.com.": 2, "a.dyn.example.org.": 2} {
		before := s.count()
		ask(t, c, question(name, dns.TypeA))
		ask(t, c, question(name, dns.TypeA))
		if got := s.count() - before; got != want {
			t.Errorf("%s: asked %d times, want %d", name, got, want)
		}
	}
}

func TestDisable(t *testing.T) {
	success, denial := says(nil, "a.example.org. 60 IN A 192.0.2.1"), says(nx, soa300)
	for _, tt := range []struct {
		cfg  Config
		s    *source
		name string
		want int
	}{
		{Config{Success: Side{Disable: []string{"."}}}, success, "a.example.org.", 2},
		{Config{Success: Side{Disable: []string{"."}}}, denial, "a.example.org.", 1},
		{Config{Denial: Side{Disable: []string{"example.org."}}}, denial, "A.example.org.", 2},
		{Config{Denial: Side{Disable: []string{"example.org."}}}, denial, "example.com.", 1},
	} {
		c := cacheOf(t, tt.cfg, tt.s)
		before := tt.s.count()
		ask(t, c, question(tt.name, dns.TypeA))
		ask(t, c, question(tt.name, dns.TypeA))
		if got := tt.s.count() - before; got != tt.want {
			t.Errorf("%+v %s: asked %d times, want %d", tt.cfg, tt.name, got, tt.want)
		}
	}
}

func TestWildcardIsKeptAsMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "a.example.org. 60 IN A 192.0.2.1")
		answer := s.answer
		s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			metadata.SetValueFunc(ctx, wildcardLabel, func() string { return "*.example.org." })
			return answer(ctx, w, r)
		}
		c := cacheOf(t, Config{Stale: Stale{UpTo: time.Hour}}, s)
		for range 4 { // a miss, a hit, a stale hit, and a hit on the refreshed entry
			ctx := metadata.ContextWithMetadata(t.Context())
			if _, err := c.ServeDNS(ctx, &clientWriter{}, question("a.example.org.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if f := metadata.ValueFunc(ctx, wildcardLabel); f == nil || f() != "*.example.org." {
				t.Error("no wildcard")
			}
			time.Sleep(40 * time.Second)
		}
	})
}

func TestKeepTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cacheOf(t, Config{KeepTTL: true}, says(nil, "example.org. 60 IN A 192.0.2.1"))
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(59 * time.Second)
		if m := ask(t, c, question("example.org.", dns.TypeA)); ttls(m)[0] != 60 {
			t.Errorf("%v", m)
		}
		time.Sleep(time.Second)
		ask(t, c, question("example.org.", dns.TypeA))
		if n := c.Next.(*source).count(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A response written as bytes passes unseen, and is not a failure.
func TestPackedResponsePassesThrough(t *testing.T) {
	s := &source{}
	s.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		n, err := w.Write([]byte("packed"))
		if n != 6 {
			t.Errorf("wrote %d", n)
		}
		return dns.RcodeSuccess, err
	}
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	if c.sides.Success.Store.Len()+c.sides.Denial.Store.Len() != 0 {
		t.Error("cached")
	}
}

func TestNoNextPlugin(t *testing.T) {
	c := cacheOf(t, Config{}, nil)
	w := &clientWriter{}
	if rcode, err := c.ServeDNS(t.Context(), w, question("example.org.", dns.TypeA)); rcode != dns.RcodeServerFailure || err == nil {
		t.Errorf("%d %v", rcode, err)
	}
}

// bypassing is an authoritative plugin that changes its zones.
type bypassing struct{ source }

func (*bypassing) CacheBypassZones() []string { return []string{"dyn.example.org."} }

// The way of CoreDNS: setup, startup, shutdown.
func TestSetup(t *testing.T) {
	c := caddy.NewTestController("dns", "penstock 30 {\nmaxmem 4MiB\n}")
	if err := setup(Directive, c); err != nil {
		t.Fatal(err)
	}
	config := dnsserver.GetConfig(c)
	ca, ok := config.Plugin[0](&bypassing{}).(*Cache)
	if !ok || ca.Name() != "penstock" || ca.cfg.Success.TTL != 30*time.Second {
		t.Fatalf("%+v", ca)
	}
	if err := ca.Close(); err != nil {
		t.Error(err)
	}
	if err := setup(Directive, caddy.NewTestController("dns", "penstock {\nmaxmem 1\n}")); err == nil || !strings.HasPrefix(err.Error(), "plugin/penstock: Testfile:2") {
		t.Errorf("%v", err)
	}
}

// After a reload, or in a second server block, the metrics are shared.
func TestSecondInstanceTakesOverTheMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	a, err := newCache("cache", Config{}, reg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newCache("cache", Config{}, reg)
	if err != nil {
		t.Fatal(err)
	}
	a.meters.Of("x").Requests.Inc()
	if got := value(t, b.meters.Of("x").Requests); got != 1 {
		t.Errorf("%v", got)
	}
	// Something else under one of the names is an error, not a panic.
	reg = prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "coredns_cache_entries", Help: "x"}))
	if _, err := newCache("cache", Config{}, reg); err == nil {
		t.Error("no error")
	}
	for _, c := range []*Cache{a, b} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

var _ plugin.Handler = (*Cache)(nil)
