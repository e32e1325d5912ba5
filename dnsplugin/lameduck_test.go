//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/health"
	"github.com/miekg/dns"
)

// lameducks holds the functions that the directive "lameduck" calls when the process
// ends, as health waits for its lameduck. It stands in the place of health.
var lameducks sync.Map

var withLameduck = sync.OnceFunc(func() {
	withSource()
	plugin.Register("lameduck", func(c *caddy.Controller) error {
		c.Next()
		c.NextArg()
		wait, ok := lameducks.Load(c.Val())
		if !ok {
			return c.Errf("no lameduck %q", c.Val())
		}
		c.OnFinalShutdown(func() error {
			wait.(func())()
			return nil
		})
		return nil
	})
	at := slices.Index(dnsserver.Directives, "health")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), at, "lameduck")
})

// Between SIGTERM and the end of the lameduck everything works: cached answers,
// misses, open and new connections, and refreshes.
func TestLameduckAnswersEverything(t *testing.T) {
	withLameduck()
	src := says(func(m *dns.Msg) {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 99)}}
	})
	began, over := make(chan struct{}), make(chan struct{})
	lameducks.Store("L", func() {
		close(began)
		<-over
	})
	const corefile = `.:PORT {
    bind 127.0.0.1
    lameduck L
    penstock {
        fastpath on
        serve_stale 1h verify 10s 30s 30s
    }
    source A
}
`
	withSource()
	sources.Store("A", src)
	s := &testServer{t: t, addr: "127.0.0.1:" + fastPort(t), over: "dns"}
	if err := s.run(func() (*caddy.Instance, error) { return caddy.Start(s.input(corefile)) }); err != nil {
		t.Fatal(err)
	}
	www := question("www.example.org.", dns.TypeA)
	s.ask(www)
	c := s.dial()
	c.send(wireOf(t, www))
	if m := messageOf(t, c.next()); len(m.Answer) != 1 {
		t.Fatalf("%v", m)
	}
	hits := hitsOf(s.fast())
	ended := make(chan []error, 1)
	go func() { // as the signal handler does
		errs := s.inst.ShutdownCallbacks()
		if err := s.inst.Stop(); err != nil {
			errs = append(errs, err)
		}
		ended <- errs
	}()
	<-began
	lost := 0
	for range 200 {
		if s.raw(wireOf(t, www), inTime) == nil {
			lost++
		}
	}
	if got := hitsOf(s.fast()) - hits; lost > 0 || got < 200 {
		t.Errorf("%d of 200 lost, %d answered by the fast path", lost, got)
	}
	if m := s.ask(question("www.example.org.", dns.TypeAAAA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("a miss: %v", m)
	}
	other := s.dial()
	for _, c := range []*streamClient{c, other} {
		c.send(wireOf(t, www))
		if m := messageOf(t, c.next()); len(m.Answer) != 1 {
			t.Errorf("over TCP: %v", m)
		}
	}
	// An entry that has ended is refreshed from its source.
	stale(t, cacheIn(s.fast()), question("stale.example.org.", dns.TypeA))
	if m := s.ask(question("stale.example.org.", dns.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.99" {
		t.Errorf("not refreshed: %v", m)
	}
	close(over)
	for _, err := range <-ended {
		t.Error(err)
	}
	s.inst.Wait()
	if s.listener() != nil {
		t.Error("sockets are left")
	}
	if l, err := net.Listen("tcp", s.addr); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

// health waits in a callback of the same kind as ours; the order of the
// directives decides which comes first.
func TestHealthStandsBeforeTheCache(t *testing.T) {
	withSource()
	health := slices.Index(dnsserver.Directives, "health")
	for _, ours := range []string{"cache", Directive} {
		if at := slices.Index(dnsserver.Directives, ours); health < 0 || at < health {
			t.Errorf("health is directive %d, %s is %d", health, ours, at)
		}
	}
}

// stale puts an answer to r into c that has ended a minute ago.
func stale(t *testing.T, c *Cache, r *dns.Msg) {
	t.Helper()
	m := new(dns.Msg)
	m.SetReply(r)
	rr, err := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	m.Answer = []dns.RR{rr}
	id, ok := c.identify(r, nil)
	if !ok {
		t.Fatal("no key")
	}
	now := c.now()
	if c.put(m, classify(m, now), id.Clone(), 60, c.sides.Instant(now)-120*1e9, extras{}, c.meters.Of("")) == nil {
		t.Fatal("not kept")
	}
}
