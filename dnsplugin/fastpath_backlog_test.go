//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/penstock/penstock/dnsplugin/internal/admission"
	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// gated is a source that answers after open is called.
func gated() (src *source, open func()) {
	gate := make(chan struct{})
	src = &source{}
	src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		<-gate
		m := new(dns.Msg)
		m.SetReply(r)
		rr, _ := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.1")
		m.Answer = []dns.RR{rr}
		return 0, w.WriteMsg(m)
	}
	return src, sync.OnceFunc(func() { close(gate) })
}

func countsOf(b *front.Backlog) (running, queued, waits int) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.Admission.Quick + b.Admission.Long, b.Admission.Queued, b.Waits
}

// fill makes the chain look full until the end of the test, or until empty is
// called. Then the waiting jobs are dropped, because they may have no client.
func fill(t *testing.T, b *front.Backlog) (empty func()) {
	t.Helper()
	b.Mu.Lock()
	defer b.Mu.Unlock()
	was := b.Admission.Limits
	b.Admission.Limits.Quick = b.Admission.Quick
	b.Admission.Limits.Wait = time.Hour
	empty = func() {
		b.Mu.Lock()
		defer b.Mu.Unlock()
		b.Admission.Limits.Wait = 0
		for b.Admission.Queued > 0 {
			b.StartQueuedLocked(b.Server.Now(), admission.Probes)
		}
		b.Admission.Limits = was
	}
	t.Cleanup(empty)
	return empty
}

// 10,000 clients miss one name at once: one question to the source, 10,000 answers.
func TestManyMissesOfOneNameAreOneQuestion(t *testing.T) {
	const clients, each = 100, 100 // a client's socket holds 200 replies
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	f := s.fast()
	p, err := question("www.example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range clients {
		c, err := net.Dial("udp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(inTime))
		conns = append(conns, c)
	}
	begun := time.Now()
	for i, c := range conns {
		for range each {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		want := (i + 1) * each
		until(t, "the misses", func() bool { running, _, waits := countsOf(f.Backlog); return running+waits == want })
	}
	// On a machine under load the first one may have led for too long.
	leaders := 1 + int(time.Since(begun)/sides.LeadFor)
	if running, _, _ := countsOf(f.Backlog); running > leaders {
		t.Errorf("%d goroutines for one question", running)
	}
	open()
	buf := make([]byte, 512)
	for _, c := range conns {
		for range each {
			if n, err := c.Read(buf); err != nil || n < 40 {
				t.Fatal(n, err)
			}
		}
	}
	if src.count() > leaders {
		t.Errorf("%d questions", src.count())
	}
	// They count as misses that waited, as in the chain.
	proc.listeners.Flush()
	m := s.metersOf()
	if got := value(t, m.Coalesced); got < float64(clients*each-leaders) {
		t.Errorf("coalesced %v", got)
	}
}

// An answer that may not be kept is not shared: each asks for itself.
func TestAnswersThatAreNotKeptAreNotShared(t *testing.T) {
	src := says(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused })
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if m := s.ask(question("www.example.org.", dns.TypeA)); m.Rcode != dns.RcodeRefused {
				t.Errorf("%v", m)
			}
		})
	}
	wg.Wait()
	if src.count() != 20 {
		t.Errorf("%d questions", src.count())
	}
}

// With all places taken the oldest are dropped, memory and goroutines stay
// bounded, and leaders that are dropped take those along that wait for them.
func TestOverloadShedsTheOldest(t *testing.T) {
	src, open := gated()
	defer open()
	s := bareServer(t, Config{MaxMem: MinMaxMemory}, src)
	b := s.Backlog
	fill(t, b)
	query := func(i int) *front.Job {
		return &front.Job{Packet: wireOf(t, question(fmt.Sprintf("n%d.example.org.", i), dns.TypeA))}
	}
	lead := func() *front.Job {
		j := query(-1)
		j.Key, j.Zone = "k", s.Zones[0]
		return j
	}
	for range 6 { // a leader with 5 that wait for it
		b.Submit(lead())
	}
	for i := 0; b.Counted.Shed == 0 && i < front.ChainLimits.Queued; i++ {
		b.Submit(query(i))
	}
	running, queued, waits := countsOf(b)
	if n := b.TakeCounts(); running != 0 || queued < front.ChainLimits.Queued*3/4 || queued >= front.ChainLimits.Queued || waits != 0 || n.Shed != 6 || len(b.Waiters) != 0 {
		t.Errorf("%d running, %d queued, %d wait, %+v", running, queued, waits, n)
	}
}

// The option coalesce bounds the waiting jobs; beyond it the oldest job of a name is
// dropped. A name with many waiting jobs does not reduce the bound of other names.
func TestWaitingJobsAreBounded(t *testing.T) {
	src, open := gated()
	defer open()
	s := bareServer(t, Config{MaxMem: MinMaxMemory, Coalesce: 3}, src)
	b := s.Backlog
	fill(t, b)
	lead := func(key string) *front.Job {
		return &front.Job{Packet: wireOf(t, question("www.example.org.", dns.TypeA)), Key: key, Zone: s.Zones[0]}
	}
	for range 10 {
		b.Submit(lead("k"))
	}
	if _, queued, waits := countsOf(b); queued != 1 || waits != 3 || b.TakeCounts().Shed != 6 {
		t.Errorf("%d queued, %d wait", queued, waits)
	}
	for range 3 {
		b.Submit(lead("other"))
	}
	if _, queued, waits := countsOf(b); queued != 2 || waits != 5 || b.TakeCounts().Shed != 0 {
		t.Errorf("%d queued, %d wait", queued, waits)
	}
}

// metersOf returns the meters of the cache of the first zone.
func (s *testServer) metersOf() *meters.Meters { return s.fast().Zones[0].Meters }

// A reload under load loses no query, keeps the sockets, and applies the new
// configuration. A reload that fails changes nothing.
func TestReloadLosesNoPacket(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	corefile := fmt.Sprintf(simple, "", "")
	s := start(t, corefile, map[string]*source{"A": src, "B": says(nil, "www.example.org. 60 IN A 192.0.2.2")})
	group := s.listener().Group
	stop := make(chan struct{})
	var sent, lost atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			p, _ := question("www.example.org.", dns.TypeA).Pack()
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				if s.raw(p, inTime) == nil {
					lost.Add(1)
				}
			}
		})
	}
	for i := range 5 {
		if err := s.reload(corefile); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := s.reload(strings.Replace(corefile, "errors", "errors nonsense", 1)); err == nil {
		t.Error("a broken Corefile was loaded")
	}
	// With a configuration without a fast path the sockets stay, and all queries
	// take its chain. It has other rules for entries (keepttl), so it does not
	// take over the old ones.
	if err := s.reload(strings.Replace(strings.Replace(fmt.Sprintf(simple, "", "keepttl"), "errors", "errors\n    acl {\n allow\n }", 1), "source A", "source B", 1)); err != nil {
		t.Fatal(err)
	}
	until(t, "the new chain", func() bool {
		return strings.HasSuffix(s.ask(question("www.example.org.", dns.TypeA)).Answer[0].String(), "192.0.2.2")
	})
	if f := s.fast(); f == nil || f.Direct() {
		t.Error("fast path despite acl")
	}
	if err := s.reload(corefile); err != nil {
		t.Fatal(err)
	}
	until(t, "hits", func() bool {
		s.ask(question("www.example.org.", dns.TypeA))
		f := s.fast()
		return f.Direct() && hitsOf(f) > 0
	})
	close(stop)
	wg.Wait()
	if lost.Load() != 0 || sent.Load() < 10 {
		t.Errorf("%d of %d lost", lost.Load(), sent.Load())
	}
	if s.listener().Group != group {
		t.Error("the sockets are not the same")
	}
}

// The sockets close with the instance, or later if its successor does not start.
func TestSocketsCloseWithTheirInstance(t *testing.T) {
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": says(nil)})
	l := s.listener()
	proc.listeners.Mu.Lock()
	l.Successor = &front.Instance{}
	proc.listeners.Mu.Unlock()
	if err := proc.listeners.Release(l.Server.Home); err != nil || l.Expiry == nil {
		t.Fatal(err)
	}
	l.Expiry.Reset(0)
	until(t, "the end of the sockets", func() bool { return s.fast() == nil })
}

// gathered returns the series of the default registry whose labels have server.
func gathered(t testing.TB, server string) map[string]*dto.Metric {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.Metric{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			ours := false
			for _, l := range m.Label {
				if l.GetName() == "server" {
					ours = l.GetValue() == server
					continue
				}
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if ours {
				all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m
			}
		}
	}
	return all
}

// responses adds up the responses to questions of names in all.
func responses(all map[string]*dto.Metric) (n float64) {
	for name, m := range all {
		if strings.HasPrefix(name, "coredns_dns_responses_total{") && !strings.Contains(name, "zone=dropped") {
			n += m.GetCounter().GetValue()
		}
	}
	return n
}

// The same questions with and without fast path make the same series: names,
// labels, counts, and every bucket of the sizes.
func TestMetricsEqualTheChains(t *testing.T) {
	t.Run("udp", func(t *testing.T) { compareMetrics(t, (*testServer).ask) })
	t.Run("tcp", func(t *testing.T) { compareMetrics(t, (*testServer).askTCP) })
}

func compareMetrics(t *testing.T, ask func(*testServer, *dns.Msg) *dns.Msg) {
	var series [2]map[string]*dto.Metric
	for i, mode := range []string{"on", "off"} {
		corefile := strings.Replace(fmt.Sprintf(simple, "prometheus 127.0.0.1:0\n    loadbalance", ""), "fastpath on", "fastpath "+mode, 1)
		s := start(t, corefile, map[string]*source{"A": variety()})
		server := "dns://" + s.addr
		before := gathered(t, server)
		for range 3 {
			for _, name := range []string{"one", "MANY", "alias", "nx", "nodata", "srv", "huge", "refused", "blocked"} {
				ask(s, question(name+".example.org.", dns.TypeA))
				r := question(name+".example.org.", dns.TypeAAAA)
				r.SetEdns0(1400, true)
				ask(s, r)
			}
		}
		// The chain counts a response after it has sent it.
		until(t, "the last response to be counted", func() bool { return responses(gathered(t, server)) >= 54 })
		series[i] = gathered(t, server) // families are gathered one behind the other
		if len(before) > 40 {
			t.Fatal("series of an earlier server")
		}
		if mode == "on" && s.fast() == nil {
			t.Fatal("no fast path")
		}
	}
	for name, chain := range series[1] {
		fast := series[0][name]
		switch {
		case strings.HasPrefix(name, "coredns_penstock_"), strings.Contains(name, "cache_entries"):
		case strings.Contains(name, "type=other") || strings.Contains(name, "zone=dropped"): // the probe of start
		case fast == nil:
			t.Errorf("%s is missing", name)
		case chain.Histogram != nil && strings.Contains(name, "duration"):
			if fast.Histogram.GetSampleCount() != chain.Histogram.GetSampleCount() {
				t.Errorf("%s: %d, chain %d", name, fast.Histogram.GetSampleCount(), chain.Histogram.GetSampleCount())
			}
		case chain.Histogram != nil:
			f, c := fast.Histogram, chain.Histogram
			f.CreatedTimestamp, c.CreatedTimestamp = nil, nil
			if f.String() != c.String() {
				t.Errorf("%s:\n%v\nchain\n%v", name, f, c)
			}
		case fast.GetCounter().GetValue() != chain.GetCounter().GetValue() || fast.GetGauge().GetValue() != chain.GetGauge().GetValue():
			t.Errorf("%s: %v, chain %v", name, fast, chain)
		}
	}
	for name := range series[0] {
		if series[1][name] == nil && !strings.HasPrefix(name, "coredns_penstock_") {
			t.Errorf("%s is new", name)
		}
	}
}

// Over our sockets too, a question without EDNS does not wait for one with it.
func TestFallbackWithoutEDNSReachesTheSource(t *testing.T) {
	src, release := dropsEDNS()
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	defer close(release)
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := question("www.example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	if _, err := c.Write(wireOf(t, r)); err != nil {
		t.Fatal(err)
	}
	until(t, "the first question", func() bool { return src.count() == 1 })
	if m := s.ask(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// A query of the same shape that comes a second after one that the source has
// dropped asks for itself and for those that wait.
func TestSecondLeaderOfABacklog(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	answer, release := src.answer, make(chan struct{})
	var calls atomic.Int64
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if calls.Add(1) == 1 {
			<-release
			return dns.RcodeServerFailure, context.DeadlineExceeded
		}
		return answer(ctx, w, r)
	}
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	defer close(release)
	c := s.dial()
	www := wireOf(t, question("www.example.org.", dns.TypeA))
	c.send(www, www)
	b := s.fast().Backlog
	until(t, "the two", func() bool { running, _, waits := countsOf(b); return running == 1 && waits == 1 })
	b.Mu.Lock() // as if a second had passed
	for _, w := range b.Waiters {
		w.Since = w.Since.Add(-sides.LeadFor)
	}
	b.Mu.Unlock()
	if m := s.ask(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	if m := messageOf(t, c.next()); len(m.Answer) != 1 { // the one that waits; the first is still asked for
		t.Errorf("%v", m)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d questions", n)
	}
}
