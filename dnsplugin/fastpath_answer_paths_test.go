//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// bare is the fast path of a server without sockets, whose clock stands still.
type bare struct {
	*front.Server
	cache *Cache
	tcp   bool       // queries come over TCP
	mu    sync.Mutex // refreshes read the clock too
	clock time.Time  // written by the test alone
}

// bareServer makes the server of a root zone with a cache in front of next.
func bareServer(t testing.TB, cfg Config, next plugin.Handler, before ...plugin.Plugin) *bare {
	t.Helper()
	withSource()
	b := &bare{cache: cacheOf(t, cfg, nil), clock: time.Now()}
	b.cache.now = func() time.Time {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.clock
	}
	b.cache.sides.Epoch = b.clock
	conf := &dnsserver.Config{Zone: ".", ListenHosts: []string{""}, Port: "53", Transport: "dns"}
	for _, p := range before {
		conf.AddPlugin(p)
	}
	conf.AddPlugin(func(n plugin.Handler) plugin.Handler { b.cache.Next = n; return b.cache })
	conf.AddPlugin(func(plugin.Handler) plugin.Handler { return next })
	s, err := dnsserver.NewServer("dns://127.0.0.1:53", []*dnsserver.Config{conf})
	if err != nil {
		t.Fatal(err)
	}
	zones, ok := front.ZonesOf(s)
	if !ok {
		t.Fatal("zones")
	}
	plans, why := proc.listeners.PlanListener(zones)
	if why != "" || plans[0].Why != "" {
		t.Fatal(why, plans[0].Why)
	}
	if b.Server, err = front.NewServer(s, b.cache.front, plans); err != nil {
		t.Fatal(err)
	}
	b.Prepare(1)
	b.PrepareStreams(1)
	return b
}

// fast answers p as a worker does; nil if it is for the chain.
func (b *bare) fast(p []byte) ([]byte, meters.Reason) {
	w, room := b.Workers[0], fastpath.MaxPacket
	if b.tcp {
		w, room = b.Streams[0], fastpath.MaxMessage
	}
	reply, _, why := b.Answer(w, p, make([]byte, 0, room), b.clock)
	if why != meters.Understood {
		return nil, why
	}
	return reply, why
}

// capture is a client of the chain that keeps the bytes of its reply.
type capture struct {
	front.ChainWriter
	tcp bool
	got []byte
}

func (c *capture) RemoteAddr() net.Addr {
	if c.tcp {
		return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 4000}
	}
	return &net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 4000}
}

func (c *capture) Write(b []byte) (int, error) {
	c.got = bytes.Clone(b)
	return len(b), nil
}

func (c *capture) WriteMsg(m *dns.Msg) error {
	b, err := m.Pack()
	c.got = b
	return err
}

// chain answers p through the plugin chain; nil if there is no reply.
func (b *bare) chain(p []byte) []byte {
	w := &capture{ChainWriter: front.ChainWriter{Local: b.Local}, tcp: b.tcp}
	req, verdict := front.Admit(p)
	switch verdict {
	case dns.MsgIgnore:
	case dns.MsgAccept:
		b.Server.Server.ServeDNS(context.WithValue(context.Background(), dnsserver.Key{}, b.Server.Server), w, req)
	case dns.MsgReject, dns.MsgRejectNotImplemented:
		_ = w.WriteMsg(req)
	}
	return w.got
}

// variety answers by the first label of the name.
func variety() *source {
	s := &source{}
	s.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.RecursionAvailable = true
		name := r.Question[0].Name
		add := func(section *[]dns.RR, format string, args ...any) {
			rr, err := dns.NewRR(fmt.Sprintf(format, args...))
			if err != nil {
				panic(err)
			}
			*section = append(*section, rr)
		}
		soa := "example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 60"
		kind, _, _ := strings.Cut(strings.ToLower(name), ".")
		switch kind {
		case "one":
			m.AuthenticatedData = true
			add(&m.Answer, "%s 60 IN %s", name, map[bool]string{true: "AAAA 2001:db8::1", false: "A 192.0.2.1"}[r.Question[0].Qtype == dns.TypeAAAA])
		case "many", "huge":
			for i := range map[string]int{"many": 12, "huge": 300}[kind] {
				add(&m.Answer, "%s 60 IN A 192.0.2.%d", name, i%256)
			}
		case "alias":
			m.Authoritative = true
			add(&m.Answer, "%s 60 IN CNAME one.example.org.", name)
			add(&m.Answer, "one.example.org. 50 IN A 192.0.2.1")
		case "nodata":
			add(&m.Ns, "%s", soa)
		case "fail":
			m.Rcode = dns.RcodeServerFailure
		case "blocked":
			m.Rcode = dns.RcodeNameError
			add(&m.Ns, "%s", soa)
			m.SetEdns0(4096, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked, ExtraText: "see policy"}}
		case "refused":
			m.Rcode = dns.RcodeRefused
		case "srv":
			add(&m.Answer, "%s 60 IN SRV 1 2 53 one.example.org.", name)
			add(&m.Extra, "one.example.org. 60 IN A 192.0.2.1")
		default:
			m.Rcode = dns.RcodeNameError
			add(&m.Ns, "%s", soa)
		}
		return m.Rcode, w.WriteMsg(m)
	}
	return s
}

// drawPacket draws a query, which is valid in most cases.
func drawPacket(t *rapid.T) []byte {
	kinds := []string{"one", "many", "huge", "alias", "nodata", "fail", "refused", "srv", "blocked", "nx"}
	name := []byte(rapid.SampledFrom(kinds).Draw(t, "kind") + ".example.org.")
	for i := range name {
		if rapid.IntRange(0, 3).Draw(t, "case") == 2 {
			name[i] = bytes.ToUpper(name[i : i+1])[0]
		}
	}
	m := question(string(name), rapid.SampledFrom([]uint16{1, 1, 1, 28, 28, 33, 16, 43, 255, 41, 250, 65, 13}).Draw(t, "type"))
	m.Id = rapid.Uint16().Draw(t, "id")
	odd := func(label string) bool { return rapid.IntRange(0, 15).Draw(t, label) == 9 } // not an end: those are drawn often
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = !odd("rd"), odd("cd"), odd("ad")
	if odd("class") {
		m.Question[0].Qclass = rapid.SampledFrom([]uint16{3, 255, 254}).Draw(t, "qclass")
	}
	if odd("opcode") {
		m.Opcode = rapid.IntRange(0, 15).Draw(t, "op")
	}
	if odd("bits") {
		m.Response, m.Truncated, m.Authoritative, m.Zero, m.RecursionAvailable = odd("qr"), odd("tc"), odd("aa"), odd("z"), odd("ra")
	}
	if odd("questions") {
		m.Question = append(m.Question, m.Question[0])
	}
	if rapid.Bool().Draw(t, "edns") {
		m.SetEdns0(rapid.SampledFrom([]uint16{0, 100, 512, 600, 1232, 1452, 4096, 65535}).Draw(t, "size"), rapid.Bool().Draw(t, "do"))
		opt := m.IsEdns0()
		switch rapid.IntRange(0, 20).Draw(t, "option") {
		case 5:
			opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1234567890"})
		case 6:
			opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, 20)})
		case 7:
			opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		case 8:
			opt.SetVersion(1)
		case 9:
			opt.SetZ(3)
		}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case odd("cut"):
		b = b[:rapid.IntRange(0, len(b)).Draw(t, "at")]
	case odd("trailing"):
		b = append(b, rapid.SliceOfN(rapid.Byte(), 1, 30).Draw(t, "more")...)
	case odd("flip") && len(b) > 0:
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	}
	return b
}

// The chain gives the same answer as the fast path to every query that the fast
// path answers. The bytes differ only in compression, see expanded.
func TestDifferentialAgainstTheChain(t *testing.T) {
	answered, declines := 0, map[meters.Reason]int{}
	rapid.Check(t, func(rt *rapid.T) { differFromChain(t, rt, &answered, declines) })
	t.Logf("%d answered, declined %v", answered, declines)
	if answered == 0 {
		t.Error("the fast path answered nothing")
	}
}

func FuzzDifferentialAgainstTheChain(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { differFromChain(t, rt, new(int), map[meters.Reason]int{}) })(t, seed)
	})
}

func differFromChain(tb testing.TB, t *rapid.T, answered *int, declines map[meters.Reason]int) {
	cfg := drawPolicy(t)
	cfg.MaxMem = MinMaxMemory
	src, h, dead := variety(), &hanging{}, false
	alive := src.answer
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if h.pass(w); dead {
			return dns.RcodeServerFailure, errors.New("no upstream")
		}
		return alive(ctx, w, r)
	}
	b := bareServer(tb, cfg, src)
	defer h.release()
	b.tcp = rapid.Bool().Draw(t, "tcp")
	for range rapid.IntRange(1, 40).Draw(t, "queries") {
		switch rapid.IntRange(0, 15).Draw(t, "source") {
		case 5: // it fails, or works again
			h.release()
			b.cache.refreshes.Wait()
			dead = !dead
		case 7: // refreshes hang
			if !h.hangs() {
				b.cache.refreshes.Wait()
				h.hang()
			}
		case 9:
			h.release()
		}
		p := drawPacket(t)
		if rapid.Bool().Draw(t, "ask before") {
			b.chain(p)
		}
		got, why := b.fast(p)
		declines[why]++
		want := b.chain(p)
		if again, _ := b.fast(p); !bytes.Equal(again, got) {
			continue // a refresh in the background has ended in between
		}
		if got != nil {
			*answered++
			if want == nil || !sameMessage(tb, got, want) {
				t.Fatalf("query %x\nfast  %x\nchain %x", p, got, want)
			}
		}
		step := time.Duration(rapid.IntRange(0, 20000).Draw(t, "ms")) * time.Millisecond
		b.step(step)
	}
}

// sameMessage reports whether a and b are equal but for compression and, with
// it, the letter case of names in records: a name that is a pointer into the
// question is spelt as this client has spelt it, in the chain as the first did.
func sameMessage(tb testing.TB, a, b []byte) bool {
	a, b = expanded(tb, a), expanded(tb, b)
	end := bytes.IndexByte(a[12:], 0) + 12
	return len(a) == len(b) && bytes.Equal(a[:end], b[:end]) && bytes.Equal(bytes.ToLower(a[end:]), bytes.ToLower(b[end:]))
}

// FuzzFastAnswer: no packet makes the fast path panic, and every reply is a
// message that answers the packet.
func FuzzFastAnswer(f *testing.F) {
	b := bareServer(f, Config{}, variety())
	for _, name := range []string{"one.example.org.", "nx.example.org.", "many.example.org."} {
		r := question(name, dns.TypeA)
		r.SetEdns0(1232, false)
		p, err := r.Pack()
		if err != nil {
			f.Fatal(err)
		}
		b.chain(p)
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		reply, _ := b.fast(p)
		if reply == nil {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil || !m.Response || !bytes.Equal(reply[:2], p[:2]) || len(m.Question) != 1 {
			t.Errorf("%x: %x: %v", p, reply, err)
		}
	})
}

// warmed returns a server with metrics whose cache has the answer to the
// packet that it returns.
func warmed(t testing.TB) (*bare, []byte) {
	t.Helper()
	m := metrics.New("127.0.0.1:0")
	m.AddZone(".")
	b := bareServer(t, Config{}, variety(), func(n plugin.Handler) plugin.Handler { m.Next = n; return m })
	p, err := question("one.example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	b.chain(p)
	if reply, why := b.fast(p); reply == nil {
		t.Fatal(why)
	}
	return b, p
}

func TestHitsAllocateNothing(t *testing.T) {
	b, p := warmed(t)
	w, buf := b.Workers[0], make([]byte, 0, fastpath.MaxPacket)
	if n := testing.AllocsPerRun(1000, func() {
		_, a, why := b.Answer(w, p, buf, b.clock)
		if why != meters.Understood {
			t.Fatal(why)
		}
		w.CountQuery(&a.Zone.Zone, &a.Q, len(p), true)
		w.CountDuration(time.Microsecond)
	}); n != 0 {
		t.Errorf("%v allocations per hit", n)
	}
}

// Nothing that one worker writes on a hit is on a line with anything of
// another: its counters are in an allocation of its own and padded.
func TestWorkersOfTheFastPathDoNotShareLines(t *testing.T) {
	var w front.Worker
	if pad := unsafe.Sizeof(w) - unsafe.Offsetof(w.Keys) - unsafe.Sizeof(w.Keys); pad < 128 {
		t.Errorf("%d bytes after what a worker writes", pad)
	}
	if pad := unsafe.Offsetof(w.Counters); pad < 128 {
		t.Errorf("%d bytes before what a worker writes", pad)
	}
	if s := unsafe.Sizeof(meters.ZoneCounts{}); s < 1024 {
		t.Errorf("%d bytes of counters: small objects of two workers may share a line", s)
	}
	var c meters.CounterSet
	if before, after := unsafe.Offsetof(c.Zones), unsafe.Sizeof(c)-unsafe.Offsetof(c.Batches)-unsafe.Sizeof(c.Batches); before < 128 || after < 128 {
		t.Errorf("counters have %d bytes before and %d after them", before, after)
	}
	var batch front.InlineBatch
	if before, after := unsafe.Offsetof(batch.Server), unsafe.Sizeof(batch)-unsafe.Offsetof(batch.Started)-unsafe.Sizeof(batch.Started); before < 128 || after < 128 {
		t.Errorf("an inline batch has %d bytes before and %d after it", before, after)
	}
	b := bareServer(t, Config{}, variety())
	b.Prepare(2)
	at := func(c *meters.CounterSet) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(c.Zones))) }
	for i, x := range b.Workers {
		for _, y := range b.Workers[i+1:] {
			if d := max(at(x.Cur), at(y.Cur)) - min(at(x.Cur), at(y.Cur)); d < 128 {
				t.Errorf("the lists of counters are %d bytes apart", d)
			}
		}
	}
	for i, x := range b.Workers {
		for _, y := range b.Workers[i+1:] {
			if x.Cur == y.Cur || x.Cur.Zones == nil || &x.Cur.Zones[0] == &y.Cur.Zones[0] {
				t.Error("counters are shared")
			}
		}
	}
}

// profiledHits is how many hits are watched by the profiles of locks:
// PENSTOCK_PROFILED_HITS, or as many as a second takes.
func profiledHits() int {
	if n, err := strconv.Atoi(os.Getenv("PENSTOCK_PROFILED_HITS")); err == nil {
		return n
	}
	return 20_000
}

// watchLocks lets four clients run with the mutex and block profiles at rate
// 1, and calls event with the stack of each, from the innermost call outward.
func watchLocks(t *testing.T, client func(*testing.T), event func(count int64, stack []string)) {
	t.Helper()
	before := runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	t.Run("clients", func(t *testing.T) {
		for range 4 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				client(t)
			})
		}
	})
	runtime.SetMutexProfileFraction(before)
	runtime.SetBlockProfileRate(0)
	records := make([]runtime.BlockProfileRecord, 10000)
	for _, profile := range []func([]runtime.BlockProfileRecord) (int, bool){runtime.MutexProfile, runtime.BlockProfile} {
		n, _ := profile(records)
		for _, r := range records[:n] {
			var stack []string
			frames := runtime.CallersFrames(r.Stack())
			for f, more := frames.Next(); ; f, more = frames.Next() {
				stack = append(stack, f.Function)
				if !more {
					break
				}
			}
			event(r.Count, stack)
		}
	}
}

// Hits through real sockets leave no trace in the mutex and block profiles.
func TestHitsNeverWaitForALock(t *testing.T) {
	hits := profiledHits()
	// The entry must outlive a long run.
	s := start(t, fmt.Sprintf(simple, "prometheus 127.0.0.1:0\n    loadbalance", "success 10000 3600 3600"), map[string]*source{"A": variety()})
	p, err := question("many.example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	s.raw(p, inTime)
	s.burst(t, p, 500)        // the first hit of each worker makes its counters
	start := hitsOf(s.fast()) // takes the workers' locks, as a scrape does: not while they are watched
	watchLocks(t, func(t *testing.T) { s.burst(t, p, hits/4) }, func(count int64, stack []string) {
		at := slices.IndexFunc(stack, func(f string) bool {
			return strings.Contains(f, "front.(*Server).Serve") || strings.Contains(f, "fastpath.(*worker)")
		})
		// The scheduler has a lock of its own, around a call that waits in the
		// kernel, where the worker has nothing to answer, and where a worker
		// gives way, which it does 250 times a second at most.
		waits := at > 0 && strings.Contains(stack[at-1], ".Syscall6") && strings.HasSuffix(stack[at], "(*worker).recvmmsg")
		waits = waits || at > 1 && strings.Contains(stack[at-2], "runtime.Gosched") && strings.HasSuffix(stack[at-1], "(*Worker).yield")
		if at >= 0 && !waits {
			t.Errorf("%d events at %s", count, strings.Join(stack, " < "))
		}
	})
	if got := hitsOf(s.fast()) - start; got < uint64(hits*9/10) {
		t.Fatalf("%d hits", got)
	}
}

// burst sends p n times, with a few under way, and reads the replies.
func (s *testServer) burst(t *testing.T, p []byte, n int) {
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute + time.Duration(n)*20*time.Microsecond))
	buf := make([]byte, 4096)
	for sent, got := 0, 0; got < n; got++ {
		for ; sent < n && sent < got+16; sent++ {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkFastAnswer(b *testing.B) {
	s, p := warmed(b)
	s.Prepare(runtime.GOMAXPROCS(0))
	next := make(chan *front.Worker, len(s.Workers))
	for _, w := range s.Workers {
		next <- w
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w, buf := <-next, make([]byte, 0, fastpath.MaxPacket)
		for pb.Next() {
			if _, _, why := s.Answer(w, p, buf, s.clock); why != meters.Understood {
				b.Error(why)
			}
		}
	})
}
