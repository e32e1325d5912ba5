//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"fmt"
	golog "log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// upstream is a source of names for forward. It never answers those that are
// silent, until release.
type upstream struct {
	addr string
	conn *net.UDPConn

	mu     sync.Mutex // guards all below
	silent func(name string) bool
	held   []heldQuery
}

type heldQuery struct {
	from  *net.UDPAddr
	query *dns.Msg
}

func newUpstream(t *testing.T, silent func(name string) bool) *upstream {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	u := &upstream{addr: conn.LocalAddr().String(), conn: conn, silent: silent}
	var wg sync.WaitGroup
	wg.Go(u.serve)
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return u
}

func (u *upstream) serve() {
	buf := make([]byte, 4096)
	for {
		n, from, err := u.conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil || len(q.Question) != 1 {
			continue
		}
		u.mu.Lock()
		silent := u.silent(q.Question[0].Name)
		if silent {
			u.held = append(u.held, heldQuery{from, q})
		}
		u.mu.Unlock()
		if !silent {
			u.answer(from, q)
		}
	}
}

func (u *upstream) answer(to *net.UDPAddr, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 7)}}
	}
	if p, err := m.Pack(); err == nil {
		_, _ = u.conn.WriteToUDP(p, to)
	}
}

// silence makes other names silent.
func (u *upstream) silence(silent func(name string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = silent
}

// holds waits until n queries are held, for a second at most: the kernel keeps
// a few hundred packets for a socket, and a query that is lost on its way is
// only given up when the test is over.
func (u *upstream) holds(n int) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); runtime.Gosched() {
		u.mu.Lock()
		held := len(u.held)
		u.mu.Unlock()
		if held >= n {
			return
		}
	}
}

// release answers all that is held, and everything from now on.
func (u *upstream) release() {
	u.mu.Lock()
	held := u.held
	u.held, u.silent = nil, nobody
	u.mu.Unlock()
	for _, h := range held {
		u.answer(h.from, h.query)
	}
}

func nobody(string) bool   { return false }
func everyone(string) bool { return true }

func below(zone string) func(name string) bool {
	return func(name string) bool { return dns.IsSubDomain(zone, strings.ToLower(name)) }
}

// clusterZone is the file of cluster.local in the tests.
func clusterZone(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.local")
	const zone = `$ORIGIN cluster.local.
@ 5 IN SOA ns.dns.cluster.local. host.cluster.local. 1 7200 1800 86400 5
kubernetes.default.svc 5 IN A 10.0.0.1
*.web.svc 5 IN A 10.0.0.2
`
	if err := os.WriteFile(path, []byte(zone), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// flood sends n queries for pattern, with a number in it, from a few clients
// that read no answers, and calls probe all along.
func (s *testServer) flood(n int, pattern string, probe func(i int)) {
	s.t.Helper()
	var clients []net.Conn
	for range 8 {
		c, err := net.Dial("udp", s.addr)
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	for i := range n {
		if _, err := clients[i%len(clients)].Write(wireOf(s.t, question(strings.ReplaceAll(pattern, "%d", strconv.Itoa(i)), dns.TypeA))); err != nil {
			s.t.Fatal(err)
		}
		if i%100 == 99 {
			probe(i)
		}
	}
}

// clientWaits is how long a client waits. It asks twice, as stub resolvers do.
const clientWaits = 5 * time.Second

// answered reports whether name gets an address.
func (s *testServer) answered(name string) bool {
	s.t.Helper()
	p := s.raw(wireOf(s.t, question(name, dns.TypeA)), clientWaits)
	if p == nil {
		p = s.raw(wireOf(s.t, question(name, dns.TypeA)), clientWaits)
	}
	m := new(dns.Msg)
	return p != nil && m.Unpack(p) == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1
}

// overload is a row of the tables: a Corefile, names that a source never
// answers, and others that must be answered all the same.
type overload struct {
	name     string
	corefile string // with CACHE, CACHE2, CLUSTER, SILENT and GOOD in it
	silent   func(string) bool
	queries  []int // how many of the silent names; about as many as are under way at a rate
	pattern  string
	warm     []string // asked for before that, and gone stale
	probes   []string // % is a number
	stock    bool     // CoreDNS with its own cache is tried too
	stale    string   // options of our cache for warm, and of CoreDNS's
}

const (
	oneBlock = `.:PORT {
    bind 127.0.0.1
    errors {
        consolidate 5m ".*" warning
    }
    loadbalance
    CACHE
    file CLUSTER cluster.local
    forward . SILENT {
        max_concurrent 10000
        read_timeout 30s
        max_fails 0
    }
}
`
	// notCluster keeps cluster.local out of the cache, as kubeadm does.
	notCluster = "disable success cluster.local\n disable denial cluster.local\n"
	quickStale = "success 9984 1 0\n serve_stale 1h verify 50ms 30s 30s\n"
)

var overloads = []overload{
	{
		name: "kube: cluster names in the block of a dead forwarder", corefile: oneBlock, stale: notCluster,
		silent: everyone, queries: []int{4000}, pattern: "n%d.ext.x.", stock: true,
		probes: []string{"kubernetes.default.svc.cluster.local.", "p%.web.svc.cluster.local."},
	},
	{
		name: "kube2: cluster names in a block of their own without a cache",
		corefile: `cluster.local:PORT {
    bind 127.0.0.1
    errors
    file CLUSTER
}
` + strings.Replace(oneBlock, "    file CLUSTER cluster.local\n", "", 1),
		silent: everyone, queries: []int{4000}, pattern: "n%d.ext.x.",
		probes: []string{"kubernetes.default.svc.cluster.local.", "p%.web.svc.cluster.local."},
	},
	{
		name: "cond: a dead conditional forwarder beside a healthy one", stock: true,
		corefile: strings.Replace(strings.Replace(oneBlock, ".:PORT", "corp.example:PORT", 1), "    file CLUSTER cluster.local\n", "", 1) +
			strings.Replace(strings.Replace(oneBlock, "    file CLUSTER cluster.local\n", "", 1), "SILENT", "GOOD", 1),
		silent: everyone, queries: []int{4000}, pattern: "n%d.corp.example.",
		probes: []string{"p%.good."},
	},
	{
		name: "st3: stale answers while a dead source is asked for unknown names", corefile: oneBlock, stale: quickStale, stock: true,
		silent: everyone, queries: []int{4000}, pattern: "n%d.ext.x.",
		warm:   []string{"a.test.", "b.test.", "c.test.", "www.d.org."},
		probes: []string{"a.test.", "b.test.", "c.test.", "www.d.org."},
	},
	{
		name: "a silent zone: its names take nothing from others of the same upstream", corefile: oneBlock, stale: quickStale, stock: true,
		silent: below("evil."), queries: []int{1200, 4000, 9000}, pattern: "n%d.evil.",
		warm:   []string{"known.good."},
		probes: []string{"p%.web.svc.cluster.local.", "kubernetes.default.svc.cluster.local.", "p%.good.", "known.good."},
	},
	{
		name: "a silent zone below a top level domain of others", corefile: oneBlock,
		silent: below("evil.com."), queries: []int{4000}, pattern: "n%d.evil.com.",
		probes: []string{"p%.web.svc.cluster.local.", "p%.good.com."},
	},
	{
		name: "a stopped upstream, ordinary names", corefile: oneBlock, stale: quickStale, stock: true,
		silent: everyone, queries: []int{4000, 9000}, pattern: "www.n%d.org.",
		warm:   []string{"known.good.", "known.org."},
		probes: []string{"p%.web.svc.cluster.local.", "kubernetes.default.svc.cluster.local.", "known.good.", "known.org."},
	},
	{
		name: "many silent zones at once", corefile: oneBlock, stale: quickStale,
		silent: everyone, queries: []int{9000}, pattern: "www.example.z%d.",
		warm:   []string{"known.good."},
		probes: []string{"p%.web.svc.cluster.local.", "known.good."},
	},
}

// Each row of the table: whatever a source does, all else is
// answered, as by CoreDNS with its own cache.
func TestOverloadedSourceDoesNotAffectOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of queries under way")
	}
	for _, row := range overloads {
		for _, queries := range row.queries {
			t.Run(fmt.Sprintf("%s/%d", row.name, queries), func(t *testing.T) { row.run(t, queries, "penstock {\n fastpath on\n"+row.stale+"}") })
		}
		if row.stock {
			t.Run(row.name+"/CoreDNS", func(t *testing.T) { row.run(t, 1200, "cache {\n"+row.stale+"}") })
		}
	}
}

func (row *overload) run(t *testing.T, queries int, cache string) {
	u := newUpstream(t, nobody)
	good := newUpstream(t, nobody)
	corefile := row.corefile
	for name, value := range map[string]string{"CACHE": cache, "CLUSTER": clusterZone(t), "SILENT": u.addr, "GOOD": good.addr} {
		corefile = strings.ReplaceAll(corefile, name, value)
	}
	s := start(t, corefile, nil)
	t.Cleanup(func() {
		u.release()
		if f := s.fast(); f != nil {
			until(t, "the end of the queries", func() bool { running, queued, _ := countsOf(f.Backlog); return running+queued == 0 })
		}
	})
	for _, name := range row.warm {
		if !s.answered(name) {
			t.Fatalf("%s is not there", name)
		}
	}
	u.silence(row.silent)
	if row.warm != nil {
		expired := time.NewTimer(1100 * time.Millisecond) // their TTL is 1 s
		defer expired.Stop()
		<-expired.C
	}
	asked, got := map[string]int{}, map[string]int{}
	s.flood(queries, row.pattern, func(i int) {
		n := i + 1
		if f := s.fast(); f != nil {
			n, _, _ = countsOf(f.Backlog)
		}
		u.holds(n)
		name := row.probes[i/100%len(row.probes)]
		asked[name]++
		if s.answered(strings.ReplaceAll(name, "%", strconv.Itoa(i))) {
			got[name]++
		}
	})
	for _, name := range row.probes {
		if got[name] != asked[name] {
			t.Errorf("%s: %d of %d answered", name, got[name], asked[name])
		}
	}
	if f := s.fast(); f != nil {
		quick, long, after, queued := f.Backlog.Levels()
		t.Logf("in the chain: %d quick, %d long, %d answered; %d queued", quick, long, after, queued)
		if quick+long == 0 {
			t.Error("nothing was under way")
		}
	}
}

// blockedLog is a pipe without a reader, so writing to it blocks until the end.
type blockedLog struct{ open chan struct{} }

func (b blockedLog) Write(p []byte) (int, error) {
	<-b.open
	return len(p), nil
}

// block makes everything block that writes to the log, until the end of the test.
func block(t *testing.T) {
	t.Helper()
	b := blockedLog{make(chan struct{})}
	was := golog.Writer()
	golog.SetOutput(b)
	t.Cleanup(func() {
		close(b.open)
		golog.SetOutput(was)
	})
}

// A log without a reader blocks its lines, but neither the cached answers of its
// block nor any answer of another block.
func TestBlockedLogStopsNoAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of queries under way")
	}
	const corefile = `test:PORT {
    bind 127.0.0.1
    log
    penstock {
        fastpath on
    }
    source A
}
.:PORT {
    bind 127.0.0.1
    penstock {
        fastpath on
    }
    source A
}
`
	src := says(nil)
	src.answer = variety().answer
	s := start(t, corefile, map[string]*source{"A": src})
	if m := s.ask(question("one.test.", dns.TypeA)); len(m.Answer) == 0 {
		t.Fatalf("%v", m)
	}
	block(t)
	lost := 0
	// As many as a bound of 8,192 stuck goroutines would stop, of a cached name.
	s.flood(3*front.MaxAfter, "one.test.", func(i int) {
		if s.raw(wireOf(t, question("one.test.", dns.TypeA)), clientWaits) == nil {
			lost++
		}
	})
	if lost > 0 {
		t.Errorf("%d cached answers lost", lost)
	}
	for i := range 50 {
		if s.raw(wireOf(t, question(fmt.Sprintf("one.n%d.example.", i), dns.TypeA)), clientWaits) == nil {
			t.Fatalf("a miss of another block is lost, the %dth", i)
		}
	}
	_, _, after, _ := s.fast().Backlog.Levels()
	t.Logf("%d stuck in the log; unwatched: %v", after, s.fast().Unwatched.Load())
	if after > front.MaxAfter {
		t.Errorf("%d goroutines are stuck", after)
	}
}
