package dnsload_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/dnsload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs h on UDP and TCP of one port of the loopback address.
func serve(t testing.TB, h dns.HandlerFunc) string {
	t.Helper()
	// A TCP port that is free may be taken for UDP: try a few.
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close()
			continue
		}
		for _, s := range []*dns.Server{{Listener: l, Handler: h}, {PacketConn: p, Handler: h}} {
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			ended := make(chan error, 1)
			go func() { ended <- s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() {
				s.Shutdown()
				<-ended
			})
		}
		return l.Addr().String()
	}
	t.Fatal("no port that is free for TCP and UDP")
	return ""
}

func echo(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(r)
	if strings.HasPrefix(r.Question[0].Name, "no") {
		m.Rcode = dns.RcodeNameError
	} else {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{192, 0, 2, 1}}}
	}
	w.WriteMsg(m)
}

var someQueries = []dnsload.Query{{"a.example.", dns.TypeA}, {"no.example.", dns.TypeA}, {"b.example.", dns.TypeAAAA}}

func TestRunAsksEverythingOnce(t *testing.T) {
	var seen atomic.Int64
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) { seen.Add(1); echo(w, r) })
	r, err := dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Count: 3000, Flows: 4, Outstanding: 40, EDNS: 1232, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 3000 || r.Answered != 3000 || r.Timeouts != 0 || r.Wrong != 0 || seen.Load() != 3000 {
		t.Errorf("%+v, server saw %d", r, seen.Load())
	}
	if r.Rcodes["NOERROR"]+r.Rcodes["NXDOMAIN"] != 3000 || r.Rcodes["NXDOMAIN"] < 900 {
		t.Errorf("codes %v", r.Rcodes)
	}
	if r.Rate() <= 0 || r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P99 || r.Latency.P99 < r.Latency.P50 {
		t.Errorf("rate %v, latency %+v", r.Rate(), r.Latency)
	}
}

func TestOutstandingIsBounded(t *testing.T) {
	var now, most atomic.Int64
	hold := make(chan struct{})
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		if now.Load() == 10 {
			select {
			case <-hold:
			default:
				close(hold) // the window is full, so release all answers
			}
		}
		<-hold
		now.Add(-1)
		echo(w, r)
	})
	r, err := dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Count: 200, Flows: 2, Outstanding: 10, Timeout: time.Minute})
	if err != nil || r.Answered != 200 {
		t.Fatalf("%+v %v", r, err)
	}
	if most.Load() > 10 {
		t.Errorf("%d outstanding, at most 10 allowed", most.Load())
	}
}

func TestLostAnswersAreCounted(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if strings.HasPrefix(r.Question[0].Name, "no") {
			return
		}
		echo(w, r)
	})
	r, err := dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Count: 30, Flows: 1, Outstanding: 3, Timeout: 60 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Timeouts < 10 || r.Answered+r.Timeouts != 30 {
		t.Errorf("%+v", r)
	}
}

func TestAnswersToOtherQuestionsAreNotCountedAsAnswers(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Question[0].Name = strings.ToUpper(m.Question[0].Name) // not letter for letter
		w.WriteMsg(m)
		m.Question[0].Name, m.Id = r.Question[0].Name, r.Id+1 // not the ID
		w.WriteMsg(m)
		echo(w, r)
	})
	r, err := dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Flows: 1, Outstanding: 1, Timeout: time.Minute})
	if err != nil || r.Answered != 3 || r.Wrong != 6 || r.Timeouts != 0 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestNobodyListens(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := p.LocalAddr().String()
	p.Close()
	_, err = dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Timeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v does not name %s", err, addr)
	}
}

func TestContextEndsARun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) { cancel() }) // never answers
	r, err := dnsload.Run(ctx, dnsload.Options{Addr: addr, Queries: someQueries, Flows: 2, Timeout: time.Hour})
	if !errors.Is(err, context.Canceled) || r.Sent == 0 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestDurationEndsARun(t *testing.T) {
	addr := serve(t, echo)
	const d = 50 * time.Millisecond
	r, err := dnsload.Run(t.Context(), dnsload.Options{Addr: addr, Queries: someQueries, Flows: 2, Outstanding: 4, Duration: d})
	if err != nil || r.Elapsed < d || r.Answered+r.Timeouts != r.Sent {
		t.Errorf("%+v %v", r, err)
	}
}

func TestBadOptionsNameTheValueAndTheFix(t *testing.T) {
	for _, tt := range []struct {
		o    dnsload.Options
		want string
	}{
		{dnsload.Options{Addr: "nowhere", Queries: someQueries}, "host:port"},
		{dnsload.Options{Addr: "127.0.0.1:1"}, "at least one"},
		{dnsload.Options{Addr: "127.0.0.1:1", Queries: someQueries, Count: -1}, "negative"},
		{dnsload.Options{Addr: "127.0.0.1:1", Queries: someQueries, Flows: 1, Outstanding: 1 << 20}, "at most"},
		{dnsload.Options{Addr: "127.0.0.1:1", Queries: []dnsload.Query{{strings.Repeat("a", 64) + ".", 1}}}, "query"},
	} {
		if _, err := dnsload.Run(t.Context(), tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.o, err)
		}
	}
}

// zoneNames parses the master files of a mix: they must be valid.
func zoneNames(t *testing.T, mix *dnsload.Mix) map[dnsload.Query]bool {
	t.Helper()
	names := map[dnsload.Query]bool{}
	for _, z := range mix.Zones {
		p := dns.NewZoneParser(strings.NewReader(string(z.Text)), "", z.Origin)
		for rr, ok := p.Next(); ok; rr, ok = p.Next() {
			names[dnsload.Query{Name: rr.Header().Name, Type: rr.Header().Rrtype}] = true
			names[dnsload.Query{Name: rr.Header().Name}] = true
		}
		if p.Err() != nil {
			t.Fatal(p.Err())
		}
	}
	return names
}

func TestMixHasTheSharesOfTheResearch(t *testing.T) {
	mix := dnsload.NewMix(dnsload.MixOptions{Seed: 7})
	names := zoneNames(t, mix)
	types, nx := map[uint16]int{}, 0
	for _, q := range mix.Queries {
		types[q.Type]++
		if !names[dnsload.Query{Name: q.Name}] {
			nx++
		}
	}
	n := float64(len(mix.Queries))
	if len(mix.Queries) != 300000 {
		t.Errorf("%v queries", n)
	}
	t.Logf("NXDOMAIN %.1f %%, A %.1f %%, SRV %.1f %%, %d distinct", 100*float64(nx)/n, 100*float64(types[dns.TypeA])/n, 100*float64(types[dns.TypeSRV])/n, len(mix.Distinct()))
	if s := float64(nx) / n; s < 0.58 || s > 0.64 {
		t.Errorf("NXDOMAIN %.3f", s)
	}
	if s := float64(types[dns.TypeA]) / n; s < 0.47 || s > 0.51 {
		t.Errorf("A %.3f", s)
	}
	if s := float64(types[dns.TypeSRV]) / n; s < 0.01 || s > 0.04 {
		t.Errorf("SRV %.3f", s)
	}
	if d := len(mix.Distinct()); d < 40000 || d > 100000 {
		t.Errorf("%d distinct", d)
	}
}

func TestMixIsDeterministic(t *testing.T) {
	o := dnsload.MixOptions{Services: 200, Queries: 3000, Seed: 1}
	a, b := fmt.Sprint(dnsload.NewMix(o)), fmt.Sprint(dnsload.NewMix(o))
	if a != b {
		t.Error("equal seeds, different mixes")
	}
	o.Seed = 2
	if a == fmt.Sprint(dnsload.NewMix(o)) {
		t.Error("different seeds, equal mixes")
	}
}

func TestWriteZones(t *testing.T) {
	mix := dnsload.NewMix(dnsload.MixOptions{Services: 20, Queries: 10})
	files, err := mix.WriteZones(t.TempDir())
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for origin, name := range files {
		b, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(b), "$ORIGIN "+origin+".") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompareFindsEveryKindOfDifference(t *testing.T) {
	with := func(change func(*dns.Msg)) string {
		return serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(r)
			for _, ip := range []string{"192.0.2.1", "192.0.2.2"} {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(ip)})
			}
			change(m)
			w.WriteMsg(m)
		})
	}
	base := with(func(*dns.Msg) {})
	for name, change := range map[string]func(*dns.Msg){
		"":              func(m *dns.Msg) { m.Answer[0], m.Answer[1] = m.Answer[1], m.Answer[0]; m.Answer[0].Header().Ttl = 58 },
		"response code": func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure },
		"flags":         func(m *dns.Msg) { m.Authoritative = true },
		"answer":        func(m *dns.Msg) { m.Answer = m.Answer[:1] },
		"authority":     func(m *dns.Msg) { m.Ns = m.Answer[:1] },
		"TTLs":          func(m *dns.Msg) { m.Answer[1].Header().Ttl = 10 },
	} {
		diffs, err := dnsload.Compare(t.Context(), base, with(change), someQueries[:1], 5)
		if err != nil {
			t.Fatal(err)
		}
		if name == "" && len(diffs) != 0 {
			t.Errorf("differences that are none: %v", diffs)
		}
		if name != "" && (len(diffs) != 1 || !strings.Contains(diffs[0].Text, name)) {
			t.Errorf("%s: %v", name, diffs)
		}
	}
}

func TestAskGoesToTCPForATruncatedAnswer(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		_, m.Truncated = w.RemoteAddr().(*net.UDPAddr)
		w.WriteMsg(m)
	})
	a, err := dnsload.Ask(t.Context(), addr, someQueries[0])
	if err != nil || a.Transport != "tcp" {
		t.Errorf("%+v %v", a, err)
	}
}

func ExampleNewMix() {
	mix := dnsload.NewMix(dnsload.MixOptions{Services: 100, Queries: 1000, Seed: 1})
	fmt.Println(len(mix.Queries), "questions about", mix.Zones[0].Origin, "and", mix.Zones[1].Origin)
	// Output: 1000 questions about cluster.local and corp.example
}
