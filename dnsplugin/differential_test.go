package dnsplugin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/cache" // the reference, as directive "cache"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// This test runs the same script of questions, answers and waiting through
// CoreDNS's own cache and through ours, in one process and in fake time, and
// compares every field of every answer. What differs on purpose is listed in
// README.md ("Differences"), has a test of its own and is left out here:
//
//   - questions with ECS, and of type ANY: never cached by us
//   - a SOA MINIMUM below the SOA's TTL; TTLs above 2^31; RRSIGs about to end
//   - SERVFAIL together with serve_stale: ours ends with its own TTL
//   - serve_stale verify without timeout together with denials: theirs keeps
//     asking after a denial has been superseded
//   - disable together with refreshes: ours heeds it there too
//   - which entry stays popular after a prefetch under prefer_positive, when a
//     denial that has ended lies beside it

// handlerFor sets a directive up from Corefile text, as CoreDNS does.
func handlerFor(t testing.TB, directive, text string, next plugin.Handler) plugin.Handler {
	t.Helper()
	c := caddy.NewTestController("dns", directive+text)
	c.ServerBlockKeys = []string{"."}
	action, err := caddy.DirectiveAction("dns", directive)
	if err != nil {
		t.Fatal(err)
	}
	if err := action(c); err != nil {
		t.Fatal(err)
	}
	return dnsserver.GetConfig(c).Plugin[0](next)
}

// kinds of answers that the world gives.
const (
	positive = iota
	manyRecords
	cname
	cnameBroken // a chain that does not end in the type, no SOA: not cached
	cnameNoData
	nxdomain
	nxdomainNoSOA
	nodata
	empty
	delegation
	extraOnly
	servfail // all below are left out with serve_stale
	notimp
	refused
	truncated
	wrongQuestion
	failure // an error without a response
	lastKind
)

// world is the upstream of both caches. It answers by name and time only, so
// both see the same whenever they ask.
type world struct {
	mu    sync.Mutex // guards all below
	kind  map[string]int
	ttl   map[string]uint32
	delay map[string]time.Duration // before the answer comes
	step  uint32                   // changes addresses, so that a stale answer shows
}

func (w *world) Name() string { return "world" }

func (w *world) ServeDNS(_ context.Context, rw dns.ResponseWriter, r *dns.Msg) (int, error) {
	m, delay := w.answer(r)
	time.Sleep(delay) // fake time
	if m == nil {
		return dns.RcodeServerFailure, errors.New("no upstream")
	}
	return dns.RcodeSuccess, rw.WriteMsg(m)
}

// answer returns the world's response to r, nil for none, and its delay.
func (w *world) answer(r *dns.Msg) (*dns.Msg, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative, m.RecursionAvailable = w.step%2 == 0, true
	m.AuthenticatedData = w.step%3 != 0
	ttl := w.ttl[name]
	add := func(section *[]dns.RR, format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			panic(err)
		}
		*section = append(*section, rr)
	}
	data := func(section *[]dns.RR, owner string, n uint32) {
		switch q.Qtype {
		case dns.TypeA:
			add(section, "%s %d IN A 10.0.%d.%d", owner, ttl+n, w.step%256, n)
		case dns.TypeAAAA:
			add(section, "%s %d IN AAAA 2001:db8::%x:%x", owner, ttl+n, w.step, n)
		default:
			add(section, "%s %d IN TXT \"%d\" \"%d\"", owner, ttl+n, w.step, n)
		}
	}
	soa := func() { add(&m.Ns, "example. %d IN SOA ns.example. host.example. %d 1 2 3 100000", ttl, w.step) }
	switch w.kind[name] {
	case positive:
		data(&m.Answer, q.Name, 0)
	case manyRecords:
		for n := range uint32(5) {
			data(&m.Answer, q.Name, n)
		}
		add(&m.Ns, "example. %d IN NS ns.example.", ttl+7)
		add(&m.Extra, "ns.example. %d IN A 192.0.2.53", ttl+9)
		if r.IsEdns0() != nil && r.IsEdns0().Do() {
			add(&m.Answer, "%s %d IN RRSIG A 8 2 60 20990101000000 20200101000000 1 example. AAAA", q.Name, ttl)
		}
	case cname:
		add(&m.Answer, "%s %d IN CNAME target.example.", q.Name, ttl)
		data(&m.Answer, "target.example.", 1)
	case cnameBroken:
		add(&m.Answer, "%s %d IN CNAME target.example.", q.Name, ttl)
	case cnameNoData:
		add(&m.Answer, "%s %d IN CNAME target.example.", q.Name, ttl)
		soa()
	case nxdomain:
		m.Rcode = dns.RcodeNameError
		soa()
	case nxdomainNoSOA:
		m.Rcode = dns.RcodeNameError
	case nodata:
		soa()
	case empty:
	case delegation:
		add(&m.Ns, "%s %d IN NS ns.other.", q.Name, ttl)
	case extraOnly:
		data(&m.Extra, q.Name, 0)
	case servfail:
		m.Rcode = dns.RcodeServerFailure
	case notimp:
		m.Rcode = dns.RcodeNotImplemented
	case refused:
		m.Rcode = dns.RcodeRefused
	case truncated:
		data(&m.Answer, q.Name, 0)
		m.Truncated = true
	case wrongQuestion:
		m.Question[0].Name = "other.example."
		data(&m.Answer, "other.example.", 0)
	case failure:
		return nil, w.delay[name]
	}
	if o := r.IsEdns0(); o != nil {
		m.SetEdns0(1232, o.Do())
	}
	return m, w.delay[name]
}

// counted is a world seen by one cache: how often it was asked shows refreshes.
type counted struct {
	*world
	asked atomic.Int64
}

func (c *counted) ServeDNS(ctx context.Context, rw dns.ResponseWriter, r *dns.Msg) (int, error) {
	c.asked.Add(1)
	return c.world.ServeDNS(ctx, rw, r)
}

// step is one line of a script.
type step struct {
	wait   time.Duration
	change bool // the world's answer for name becomes kind with ttl
	name   string
	kind   int
	ttl    uint32
	delay  time.Duration
	ask    *dns.Msg
}

func (s step) String() string {
	switch {
	case s.change:
		return fmt.Sprintf("%s becomes %d with TTL %d after %v", s.name, s.kind, s.ttl, s.delay)
	case s.ask != nil:
		return fmt.Sprintf("ask %s %s do=%v cd=%v ad=%v", s.ask.Question[0].Name, dns.TypeToString[s.ask.Question[0].Qtype],
			wantsDNSSEC(s.ask), s.ask.CheckingDisabled, s.ask.AuthenticatedData)
	}
	return fmt.Sprintf("wait %v", s.wait)
}

// drawConfig returns Corefile text that both directives understand.
func drawConfig(t *rapid.T) (text string) {
	lines := []string{}
	add := func(choices ...string) string {
		s := rapid.SampledFrom(choices).Draw(t, "option")
		if s != "" {
			lines = append(lines, s)
		}
		return s
	}
	add("", "success 2000 20", "success 2000 20 3", "success 2000 100 0")
	add("", "denial 2000 20", "denial 2000 15 2", "denial 2000 100 0")
	add("", "keepttl")
	prefetch := add("", "prefetch 1", "prefetch 2 10s 50%", "prefetch 3 1m 90%") != ""
	add("", "servfail 0", "servfail 3s", "servfail 30s")
	stale := add("", "serve_stale", "serve_stale 30s", "serve_stale 1h immediate 30s", "serve_stale 30s immediate 10s 5s",
		"serve_stale 1h verify", "serve_stale 1h verify 100ms", "serve_stale 30s verify 50ms 30s 8s") != ""
	if stale {
		add("", "serve_stale_policy prefer_positive")
	} else if !prefetch {
		add("", "disable denial", "disable success b.example", "disable success")
	}
	head := rapid.SampledFrom([]string{"", " 12", " 60 a.example b.example"}).Draw(t, "head")
	return head + " {\n" + strings.Join(lines, "\n") + "\n}"
}

// kindsFor returns the kinds of answers that the two caches treat alike with the
// options in text.
func kindsFor(t *rapid.T, text string) (kinds []int) {
	stale := strings.Contains(text, "serve_stale")
	// Theirs gives the popularity of a refreshed entry to a denial that has
	// ended, if there is one, when neither removes the other.
	apart := strings.Contains(text, "prefer_positive") && strings.Contains(text, "prefetch")
	without := []int{}
	if apart {
		without = rapid.SampledFrom([][]int{{empty, delegation, extraOnly}, {cnameNoData, nxdomain, nodata}}).Draw(t, "without")
	}
	// Without a timeout theirs keeps asking after a denial has been superseded.
	if strings.Contains(text+"\n", "verify\n") {
		without = append(without, cnameNoData, nxdomain, nxdomainNoSOA, nodata)
	}
	for k := range lastKind {
		if (!stale || k < servfail) && !slices.Contains(without, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

func drawScript(t *rapid.T, text string) []step {
	names := []string{"a.example.", "b.example.", "c.example."}
	kinds := kindsFor(t, text)
	ttls := []uint32{0, 1, 2, 5, 7, 30, 400, 4000}
	delays := []time.Duration{0, 0, 0, 40 * time.Millisecond, 60 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second}
	change := func(name string) step {
		return step{
			change: true, name: name, kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
			ttl: rapid.SampledFrom(ttls).Draw(t, "ttl"), delay: rapid.SampledFrom(delays).Draw(t, "delay"),
		}
	}
	var script []step
	for _, n := range names {
		script = append(script, change(n))
	}
	least := 1
	if *steps > 100 {
		least = *steps / 2
	}
	for range rapid.IntRange(least, *steps).Draw(t, "steps") {
		s := step{}
		switch rapid.IntRange(0, 5).Draw(t, "do") {
		case 0:
			s = change(rapid.SampledFrom(names).Draw(t, "name"))
		case 1, 2:
			s.wait = time.Duration(rapid.SampledFrom([]int{1, 500, 999, 1000, 1700, 3000, 5000, 12000, 31000, 70000}).Draw(t, "ms")) * time.Millisecond
		default:
			s.ask = drawQuestion(t, rapid.SampledFrom(names).Draw(t, "name"))
		}
		script = append(script, s)
	}
	return script
}

func drawQuestion(t *rapid.T, name string) *dns.Msg {
	m := new(dns.Msg)
	if rapid.Bool().Draw(t, "upper") {
		name = strings.ToUpper(name[:1]) + name[1:3] + strings.ToUpper(name[3:5]) + name[5:]
	}
	m.SetQuestion(name, rapid.SampledFrom([]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT}).Draw(t, "type"))
	m.Id = uint16(rapid.IntRange(0, 65535).Draw(t, "id"))
	m.RecursionDesired = rapid.Bool().Draw(t, "rd")
	m.CheckingDisabled = rapid.IntRange(0, 5).Draw(t, "cd") == 0
	m.AuthenticatedData = rapid.IntRange(0, 3).Draw(t, "ad") == 0
	switch rapid.IntRange(0, 3).Draw(t, "edns") {
	case 0:
		m.SetEdns0(1232, true)
	case 1:
		m.SetEdns0(4096, false)
	}
	return m
}

// outcome is all that can be seen of a ServeDNS call.
type outcome struct {
	after time.Duration
	rcode int
	err   bool
	sent  string // what the client got, packed
	msgs  []*dns.Msg
}

// outcomeOf sends r through h.
func outcomeOf(h plugin.Handler, r *dns.Msg) outcome {
	w, start := &clientWriter{}, time.Now()
	before := packed(r)
	rcode, err := h.ServeDNS(context.Background(), w, r)
	o := outcome{after: time.Since(start), rcode: rcode, err: err != nil, msgs: w.msgs}
	if packed(r) != before {
		o.sent = "the request was changed: " + r.String()
	}
	for _, m := range w.msgs {
		o.sent += packed(m)
	}
	return o
}

func packed(m *dns.Msg) string {
	plain := *m
	plain.Compress = false
	// That an answer is stale is an extended error, which CoreDNS doesn't send.
	plain.Extra = slices.DeleteFunc(slices.Clone(m.Extra), func(rr dns.RR) bool {
		opt, ok := rr.(*dns.OPT)
		return ok && slices.Contains([]string{"[15 3 (Stale Answer): ()]", "[15 19 (Stale NXDOMAIN Answer): ()]"}, fmt.Sprint(errorsOf(&dns.Msg{Extra: []dns.RR{opt}})))
	})
	b, err := plain.Pack()
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (o *outcome) equals(p *outcome) bool {
	return o.after == p.after && o.rcode == p.rcode && o.err == p.err && o.sent == p.sent && len(o.msgs) == len(p.msgs)
}

func (o outcome) String() string {
	s := fmt.Sprintf("after %v: rcode %d, error %v, %d messages, %q\n", o.after, o.rcode, o.err, len(o.msgs), o.sent)
	for _, m := range o.msgs {
		s += fmt.Sprintf("%d aa=%v tc=%v zero=%v %s", m.Id, m.Authoritative, m.Truncated, m.Zero, m)
	}
	return s
}

// steps is how long a script of the differential test may be. Longer ones cost
// less for each step: making the two caches is half of the work of a short one.
var steps = flag.Int("steps", 40, "most steps of a script of the differential test")

// triples counts the comparisons. Each is a question at a time, with the response
// that the world has for it.
var triples atomic.Int64

// 100 short scripts, or as many as -rapid.checks says. More than ten million
// triples, in about half an hour on one core:
//
//	GOGC=400 go test -run TestDifferentialAgainstCoreDNSCache -v ./dnsplugin -timeout 0 -rapid.checks 150000 -steps 300
func TestDifferentialAgainstCoreDNSCache(t *testing.T) {
	triples.Store(0)
	rapid.Check(t, func(rt *rapid.T) { differential(t, rt) })
	t.Logf("%d triples compared", triples.Load())
}

// FuzzDifferential lets coverage choose the scripts.
func FuzzDifferential(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { differential(t, rt) })(t, in)
	})
}

func differential(t *testing.T, rt *rapid.T) {
	text := drawConfig(rt)
	script := drawScript(rt, text)
	problem := ""
	synctest.Test(t, func(t *testing.T) { problem = runBoth(t, text, script) })
	if problem != "" {
		rt.Fatalf("cache%s\n%v\n%s", text, script, problem)
	}
}

// runBoth runs a script through both caches and says where they differ.
func runBoth(t *testing.T, text string, script []step) string {
	w := &world{kind: map[string]int{}, ttl: map[string]uint32{}, delay: map[string]time.Duration{}}
	theirUp, ourUp := &counted{world: w}, &counted{world: w}
	theirs, ours := handlerFor(t, "cache", text, theirUp), handlerFor(t, "penstock", text, ourUp)
	ours.(*Cache).sides.Sampling = 0 // as theirs, which notes every hit
	defer time.Sleep(time.Minute)    // refreshes end; when this function has, time stands still
	defer ours.(*Cache).Close()
	for i, s := range script {
		switch {
		case s.change:
			w.mu.Lock()
			w.step++
			w.kind[s.name], w.ttl[s.name], w.delay[s.name] = s.kind, s.ttl, s.delay
			w.mu.Unlock()
		case s.ask != nil:
			// At once, so that a delay is the same moment for both.
			var want, got outcome
			var both sync.WaitGroup
			both.Go(func() { want = outcomeOf(theirs, s.ask.Copy()) })
			both.Go(func() { got = outcomeOf(ours, s.ask.Copy()) })
			both.Wait()
			triples.Add(1)
			if !want.equals(&got) {
				return fmt.Sprintf("step %d: %v\nCoreDNS: %s\nours: %s", i, s, want, got)
			}
		default:
			time.Sleep(s.wait) // fake time
		}
		synctest.Wait() // for refreshes in the background
		if theirUp.asked.Load() != ourUp.asked.Load() {
			return fmt.Sprintf("step %d: %v\nCoreDNS has asked its upstream %d times, ours %d times", i, s, theirUp.asked.Load(), ourUp.asked.Load())
		}
	}
	return ""
}
