//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/dnstap"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/shed"
	_ "github.com/coredns/coredns/plugin/tsig"
	_ "github.com/coredns/coredns/plugin/view"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// sources are the last plugins of the servers of tests, by name: the directive
// "source NAME" puts one into a server block.
var sources sync.Map

// onTheWay sees the queries in servers with the directive "before".
var onTheWay atomic.Pointer[func(dns.ResponseWriter, *dns.Msg)]

// withSource makes the directives of the tests known, once.
var withSource = sync.OnceFunc(func() {
	plugin.Register("source", func(c *caddy.Controller) error {
		c.Next()
		if !c.NextArg() {
			return c.ArgErr()
		}
		s, ok := sources.Load(c.Val())
		if !ok {
			return c.Errf("no source %q", c.Val())
		}
		dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return s.(plugin.Handler) })
		return nil
	})
	plugin.Register("before", func(c *caddy.Controller) error {
		dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
			return plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
				if f := onTheWay.Load(); f != nil {
					(*f)(w, r)
				}
				return next.ServeDNS(ctx, w, r)
			})
		})
		return nil
	})
	plugin.Register("validate", func(c *caddy.Controller) error {
		dnsserver.GetConfig(c).HTTPRequestValidateFunc = func(r *http.Request) bool { return r.URL.Path == "/other" }
		return nil
	})
	at := slices.Index(dnsserver.Directives, "cache")
	order := slices.Insert(slices.Clone(dnsserver.Directives), at+1, Directive)
	order = slices.Insert(order, at, "before")
	dnsserver.Directives = append(order, "source", "validate")
	dnsserver.Quiet, caddy.Quiet = true, true
})

// testServer is a CoreDNS in this process.
type testServer struct {
	t    testing.TB
	addr string
	over string // the transport: "dns", or "tls" or "https" where the Corefile says so
	inst *caddy.Instance
	runs int // instances so far
}

// portsGiven holds the ports that fastPort has returned, because the metrics of an
// address outlive its server.
var portsGiven sync.Map

// fastPort returns a port that is free for UDP and TCP now, and another one each time.
// It is below those that the kernel gives to clients, of whom other tests have many.
func fastPort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(12_000 + rand.IntN(20_000))
		if _, given := portsGiven.LoadOrStore(port, true); given {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		c, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		l.Close()
		if err != nil {
			continue
		}
		c.Close()
		return port
	}
	t.Fatal("no free port")
	return ""
}

// start runs a Corefile in which PORT stands for a free port, with sources in it.
func start(t testing.TB, corefile string, named map[string]*source) *testServer {
	t.Helper()
	withSource()
	for name, s := range named {
		sources.Store(name, s)
	}
	s := &testServer{t: t, addr: "127.0.0.1:" + fastPort(t), over: "dns"}
	if proto, _, ok := strings.Cut(corefile, "://"); ok && (proto == "tls" || proto == "https") {
		s.over = proto
	}
	if err := s.run(func() (*caddy.Instance, error) { return caddy.Start(s.input(corefile)) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range s.inst.ShutdownCallbacks() {
			t.Error(err)
		}
		if err := s.inst.Stop(); err != nil {
			t.Error(err)
		}
		s.inst.Wait()
	})
	return s
}

// reload applies another Corefile. After an error the previous one stays.
func (s *testServer) reload(corefile string) error {
	s.t.Helper()
	return s.run(func() (*caddy.Instance, error) { return s.inst.Restart(s.input(corefile)) })
}

// run starts an instance and returns when its servers serve. CoreDNS starts
// them in goroutines of their own, and one that is stopped before it serves
// does so for ever. Nothing but their stacks says that they do.
func (s *testServer) run(begin func() (*caddy.Instance, error)) error {
	s.t.Helper()
	s.runs++
	name := fmt.Sprintf("%s#%d", s.addr, s.runs)
	var inst *caddy.Instance
	var err error
	// What begin starts inherits the label.
	pprof.Do(context.Background(), pprof.Labels("instance", name), func(context.Context) { inst, err = begin() })
	if err != nil {
		return err
	}
	s.inst = inst
	loops := 0
	for _, l := range inst.Servers() {
		if _, https := front.ServerOf[dnsserver.ServerHTTPS](l); https {
			continue // its loop is net/http's
		}
		loops++ // for TCP
		if _, secure := front.ServerOf[dnsserver.ServerTLS](l); !secure {
			loops++ // for UDP
		}
	}
	until(s.t, "the servers", func() bool { return serving(s.t, name) == loops })
	return nil
}

// serverLoop is in the stacks of servers, but not of their connections.
var serverLoop = regexp.MustCompile(`dns\.\(\*Server\)\.serve(UDP|TCP)\+`)

// serving counts the goroutines of an instance that serve a socket.
func serving(t testing.TB, instance string) (n int) {
	t.Helper()
	var all strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		t.Fatal(err)
	}
	for group := range strings.SplitSeq(all.String(), "\n\n") {
		if !strings.Contains(group, strconv.Quote(instance)) || !serverLoop.MatchString(group) {
			continue
		}
		var alike int // "3 @ 0x..." are three with one stack
		for line := range strings.Lines(group) {
			if _, err := fmt.Sscanf(line, "%d @", &alike); err == nil {
				n += alike
			}
		}
	}
	return n
}

func (s *testServer) input(corefile string) caddy.CaddyfileInput {
	_, port, _ := net.SplitHostPort(s.addr)
	return caddy.CaddyfileInput{
		Filepath: "Corefile", ServerTypeName: "dns",
		Contents: []byte(strings.ReplaceAll(corefile, "PORT", port)),
	}
}

// fast returns the server of the fast path, nil if there is none.
func (s *testServer) fast() *front.Server {
	l := s.listener()
	if l == nil {
		return nil
	}
	proc.listeners.Mu.Lock()
	defer proc.listeners.Mu.Unlock()
	return l.Server
}

// listener returns our sockets, nil if there are none.
func (s *testServer) listener() *front.Listener {
	proc.listeners.Mu.Lock()
	defer proc.listeners.Mu.Unlock()
	return proc.listeners.ByAddr[s.over+"://"+s.addr]
}

// raw sends a packet and returns the reply, nil if there is none within wait.
func (s *testServer) raw(p []byte, wait time.Duration) []byte {
	s.t.Helper()
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write(p); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// ask sends r and returns the reply.
func (s *testServer) ask(r *dns.Msg) *dns.Msg {
	s.t.Helper()
	b, err := r.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	reply := s.raw(b, inTime)
	if reply == nil {
		s.t.Fatalf("no reply to %v", r)
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// declinesOf returns how often each reason has come up.
func declinesOf(f *front.Server) map[string]uint64 {
	all := map[string]uint64{}
	for _, w := range slices.Concat(f.Workers, f.Streams) {
		w.Mu.Lock()
		for why, n := range w.Cur.Why {
			if n > 0 {
				all[meters.Reason(why).String()] += n
			}
		}
		w.Mu.Unlock()
	}
	return all
}

// hitsOf returns how many queries were answered without the chain.
func hitsOf(f *front.Server) (n uint64) {
	for _, w := range slices.Concat(f.Workers, f.Streams) {
		w.Mu.Lock()
		for _, zc := range w.Cur.Zones {
			if zc != nil {
				n += zc.Success + zc.Denial
			}
		}
		w.Mu.Unlock()
	}
	for _, shared := range [][]meters.SharedCounts{f.SharedUDP, f.SharedTCP} {
		for i := range shared {
			shared[i].Mu.Lock()
			if zc := shared[i].Counts; zc != nil {
				n += zc.Success + zc.Denial
			}
			shared[i].Mu.Unlock()
		}
	}
	return n
}

const simple = `.:PORT {
    bind 127.0.0.1
    errors
    %s
    penstock {
        fastpath on
        %s
    }
    source A
}
`

func TestFastPathAnswersFromTheCacheAndMissesGoThroughTheChain(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	for i := range 3 {
		r := question("wWw.example.org.", dns.TypeA)
		r.SetEdns0(1232, true)
		m := s.ask(r)
		if m.Id != r.Id || !m.Response || len(m.Answer) != 1 || m.Question[0].Name != "wWw.example.org." || m.IsEdns0() == nil || !m.IsEdns0().Do() {
			t.Fatalf("%d: %v", i, m)
		}
	}
	f := s.fast()
	if src.count() != 1 || hitsOf(f) != 2 || declinesOf(f)["miss"] != 1 {
		t.Errorf("%d asked, %d hits, %v", src.count(), hitsOf(f), declinesOf(f))
	}
}

// Each plugin that stands before the cache and has an effect keeps all queries
// for the chain; the others keep none.
func TestEligibility(t *testing.T) {
	for _, tt := range []struct{ lines, why string }{
		{"", ""},
		{"nsid x", ""},
		{"any", ""},
		{"chaos", ""},
		{"cancel", ""},
		{"local", ""},
		{"debug", ""},
		{"bufsize 1232", ""},
		{"loadbalance", ""},
		{"loadbalance round_robin", ""},
		{"prometheus 127.0.0.1:0", ""},
		{"multisocket 2", ""},
		{"loadbalance round_robin {\nprefer 192.0.2.0/24\n}", "orders answers"},
		{"log", "plugin log"},
		{"dnstap /tmp/penstock-no-such-socket full", "plugin dnstap"},
		{"acl {\nblock net 192.0.2.0/24\n}", "plugin acl"},
		{"rewrite name a.example. b.example.", "plugin rewrite"},
		{"metadata", "plugin metadata"},
		{"dns64", "plugin dns64"},
		{"view v {\nexpr true\n}", "view"},
		{"tsig {\nsecret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n}", "plugin tsig"},
		{"shed", "plugin shed"},
	} {
		t.Run(strings.Fields(tt.lines + " none")[0], func(t *testing.T) {
			src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
			logged := captureLog(t)
			s := start(t, fmt.Sprintf(simple, tt.lines, ""), map[string]*source{"A": src})
			said := logged()
			checkReason(t, s.addr, tt.why, said)
			f := s.fast()
			if f != nil && f.Direct() != (tt.why == "") || f == nil && tt.why == "" {
				t.Fatalf("fast path: %v", f != nil)
			}
			if s.ask(question("first.example.org.", dns.TypeA)) == nil {
				t.Fatal("no reply")
			}
			plans, why := planned(t, src)
			for _, p := range plans {
				why += p.Why
			}
			if (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("%q, want %q", why, tt.why)
			}
			if strings.HasPrefix(tt.lines, "dns64") {
				return // answers are not the plain ones
			}
			for range 2 {
				if m := s.ask(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
			}
		})
	}
}

// planned decides again for the server that has asked src.
func planned(t *testing.T, src *source) (plans []*front.ZonePlan, why string) {
	t.Helper()
	server, ok := src.lastCtx().Value(dnsserver.Key{}).(*dnsserver.Server)
	if !ok {
		t.Fatal("no server")
	}
	zones, ok := front.ZonesOf(server)
	if !ok {
		t.Fatal("zones can't be read")
	}
	return proc.listeners.PlanListener(zones)
}

// The queries of a zone that is not eligible take the chain, but not the queries of
// another zone on the same listener. Names outside of all zones are refused.
func TestZonesOfOneListener(t *testing.T) {
	fast := says(nil, "www.fast.example. 60 IN A 192.0.2.1")
	slow := says(nil, "www.slow.example. 60 IN A 192.0.2.2")
	sub := says(nil, "www.sub.fast.example. 60 IN A 192.0.2.3")
	s := start(t, `fast.example:PORT {
    bind 127.0.0.1
    penstock
    source A
}
slow.example:PORT {
    bind 127.0.0.1
    log . "" {
        class error
    }
    penstock
    source B
}
sub.fast.example:PORT {
    bind 127.0.0.1
    source C
}
`, map[string]*source{"A": fast, "B": slow, "C": sub})
	for range 3 {
		for name, want := range map[string]string{"www.FAST.example.": "192.0.2.1", "www.slow.example.": "192.0.2.2", "www.sub.fast.example.": "192.0.2.3"} {
			m := s.ask(question(name, dns.TypeA))
			if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), want) {
				t.Errorf("%s: %v", name, m)
			}
		}
		if m := s.ask(question("www.other.example.", dns.TypeA)); m.Rcode != dns.RcodeRefused {
			t.Errorf("%v", m)
		}
		// A name whose label only ends like a zone is in none.
		if m := s.ask(question("wwwfast.example.", dns.TypeA)); m.Rcode != dns.RcodeRefused {
			t.Errorf("%v", m)
		}
	}
	f := s.fast()
	if hitsOf(f) != 2 || fast.count() != 1 || slow.count() != 1 || sub.count() != 3 {
		t.Errorf("%d hits; asked %d %d %d", hitsOf(f), fast.count(), slow.count(), sub.count())
	}
}

// A cache for some names of a zone only.
func TestCacheOfPartOfAZone(t *testing.T) {
	src := &source{}
	src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		rr, _ := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.1")
		m.Answer = []dns.RR{rr}
		return 0, w.WriteMsg(m)
	}
	s := start(t, `.:PORT {
    bind 127.0.0.1
    penstock part.example
    source A
}
`, map[string]*source{"A": src})
	for range 3 {
		s.ask(question("www.part.example.", dns.TypeA))
		s.ask(question("www.example.", dns.TypeA))
	}
	if f := s.fast(); hitsOf(f) != 2 || src.count() != 4 {
		t.Errorf("%d hits, %d asked", hitsOf(f), src.count())
	}
}

// expanded packs a reply again without compression, which is the only difference
// between the two paths' bytes: the fast path compresses all replies, and CoreDNS
// only long ones.
func expanded(t testing.TB, b []byte) []byte {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	m.Compress = false
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What the fast path does not understand gets the reply that the chain gives.
func TestOddPacketsGetTheRepliesOfTheChain(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	named := map[string]*source{"A": src}
	on := start(t, fmt.Sprintf(simple, "", ""), named)
	off := start(t, strings.Replace(fmt.Sprintf(simple, "", ""), "fastpath on", "fastpath off", 1), named)
	if on.fast() == nil || off.fast() != nil {
		t.Fatal("fast path")
	}
	for name, p := range oddPackets(t) {
		a, b := on.raw(p, inTime), off.raw(p, inTime)
		if !bytes.Equal(a, b) && !bytes.Equal(expanded(t, a), b) {
			t.Errorf("%s:\nfast  %x\nchain %x", name, a, b)
		}
	}
	// Responses get no reply, because a loop of two servers would never end.
	for name, p := range silentPackets(t) {
		if a := on.raw(p, 100*time.Millisecond); a != nil {
			t.Errorf("%s: %x", name, a)
		}
	}
}

// oddPackets are unusual queries that get a reply, by their peculiarity.
func oddPackets(t *testing.T) map[string][]byte {
	t.Helper()
	pack := func(edit ...func(*dns.Msg)) []byte {
		m := question("www.example.org.", dns.TypeA, edit...)
		m.Id = 7
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := pack()
	set := func(at int, v byte) []byte { b := bytes.Clone(plain); b[at] = v; return b }
	return map[string][]byte{
		"plain":       plain,
		"status":      set(2, 2<<3),
		"notify":      set(2, 4<<3),
		"update":      set(2, 5<<3),
		"tc":          set(2, 3),
		"z bit":       set(3, 0x40),
		"rcode":       set(3, 3),
		"no question": set(5, 0),
		"two":         append(set(5, 2), plain[12:]...),
		"cut":         plain[:len(plain)-3],
		"header only": plain[:12],
		"trailing":    append(bytes.Clone(plain), 1, 2, 3),
		"any":         pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }),
		"chaos":       pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"ds":          pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeDS }),
		"edns 1":      pack(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }),
		"nsid": pack(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		}),
		"ecs": pack(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IP{192, 0, 2, 0}}}
		}),
		"cookie": pack(func(m *dns.Msg) {
			m.SetEdns0(1232, true)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1234567890"}}
		}),
		"padding": pack(func(m *dns.Msg) {
			m.SetEdns0(100, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 20)}}
		}),
		"keepalive": pack(func(m *dns.Msg) {
			m.SetEdns0(4096, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
		}),
		"two opt": pack(func(m *dns.Msg) { m.SetEdns0(1232, false); m.SetEdns0(4096, true) }),
		"tsig":    pack(func(m *dns.Msg) { m.SetTsig("k.", dns.HmacSHA256, 300, 1) }),
	}
}

// silentPackets get no reply.
func silentPackets(t *testing.T) map[string][]byte {
	t.Helper()
	response := oddPackets(t)["plain"]
	response[2] = 0x80
	return map[string][]byte{"response": response, "short": response[:5], "empty": {}}
}

// With the PROXY protocol the packets on the wire are no DNS messages.
func TestProxyProtocolKeepsTheListenerForTheChain(t *testing.T) {
	withSource()
	c := &dnsserver.Config{Zone: "."}
	// Any policy. Its type belongs to a module that we do not import.
	policy := reflect.ValueOf(c).Elem().FieldByName("ProxyProtoConnPolicy")
	policy.Set(reflect.MakeFunc(policy.Type(), func([]reflect.Value) []reflect.Value { return nil }))
	if _, why := proc.listeners.PlanListener(map[string][]*dnsserver.Config{".": {c}}); !strings.Contains(why, "plugin proxyproto") {
		t.Errorf("%q", why)
	}
}

// named is a plugin of which only the name is known.
type named string

func (n named) Name() string { return string(n) }

func (named) ServeDNS(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return 0, nil }

// Every directive that may stand before the cache is either known to be
// harmless or keeps its queries; those that we stand in for must be CoreDNS's own.
func TestEveryPluginBeforeTheCacheHasADecision(t *testing.T) {
	withSource()
	for _, d := range append(slices.Clone(dnsserver.Directives[:slices.Index(dnsserver.Directives, "cache")]), "unheard-of") {
		why := (&front.ZonePlan{Name: "."}).Consider(named(d), "next", nil)
		_, ok := front.Harmless[d]
		switch d {
		case "prometheus", "bufsize", "loadbalance":
			ok = false
		}
		if ok != (why == "") {
			t.Errorf("%s: %q", d, why)
		}
	}
}

// cacheIn returns the cache of the first zone of f.
func cacheIn(f *front.Server) *Cache { return f.Zones[0].Cache.Handler.(*Cache) }
