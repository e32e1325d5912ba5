//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/coredns/coredns/plugin/timeouts"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// streamClient is a client over one TCP connection, with TLS if the server
// speaks it.
type streamClient struct {
	*net.TCPConn
	over net.Conn // the connection for reading and writing, TLS or plain
	t    testing.TB
	in   *bufio.Reader
}

// Write writes to the connection.
func (c *streamClient) Write(p []byte) (int, error) { return c.over.Write(p) }

// Read reads from the connection.
func (c *streamClient) Read(p []byte) (int, error) { return c.over.Read(p) }

// CloseWrite says that nothing more will be sent.
func (c *streamClient) CloseWrite() error {
	if over, ok := c.over.(*tls.Conn); ok {
		return over.CloseWrite()
	}
	return c.TCPConn.CloseWrite()
}

func (s *testServer) dial() *streamClient {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(inTime))
	over := c
	if s.over == "tls" {
		over = tls.Client(c, clientTLS())
	}
	return &streamClient{c.(*net.TCPConn), over, s.t, bufio.NewReader(over)}
}

// frame puts the length of each message before it.
func frame(messages ...[]byte) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

func (c *streamClient) send(messages ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(frame(messages...)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next message, nil at the end of the connection.
func (c *streamClient) next() []byte {
	c.t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(c.in, length[:]); err != nil {
		return nil
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c.in, m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// askTCP sends r over a connection of its own and returns the reply.
func (s *testServer) askTCP(r *dns.Msg) *dns.Msg {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	return c.ask(r)
}

// ask sends r and returns the reply.
func (c *streamClient) ask(r *dns.Msg) *dns.Msg {
	c.t.Helper()
	c.send(wireOf(c.t, r))
	return messageOf(c.t, c.next())
}

func wireOf(t testing.TB, r *dns.Msg) []byte {
	t.Helper()
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageOf(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return m
}

// streamsOf returns the streams of a server.
func (s *testServer) streamsOf() *fastpath.Streams {
	proc.listeners.Mu.Lock()
	defer proc.listeners.Mu.Unlock()
	if l := proc.listeners.ByAddr[s.over+"://"+s.addr]; l != nil {
		return l.Streams
	}
	return nil
}

func TestStreamsAnswerFromTheCacheAndMissesGoThroughTheChain(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	logged := captureLog(t)
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	c := s.dial()
	for i := range 3 {
		r := question("wWw.example.org.", dns.TypeA)
		r.SetEdns0(1232, true)
		m := c.ask(r)
		if m.Id != r.Id || !m.Response || len(m.Answer) != 1 || m.Question[0].Name != "wWw.example.org." || m.IsEdns0() == nil || !m.IsEdns0().Do() {
			t.Fatalf("%d: %v", i, m)
		}
	}
	// The other transport has the same cache.
	r := question("www.example.org.", dns.TypeA)
	r.SetEdns0(1232, true)
	s.ask(r)
	f := s.fast()
	if src.count() != 1 || hitsOf(f) != 3 || declinesOf(f)["miss"] != 1 {
		t.Errorf("%d asked, %d hits, %v", src.count(), hitsOf(f), declinesOf(f))
	}
	if why := s.tcpReason(); why != "" {
		t.Errorf("metric: %q", why)
	}
	if strings.Contains(logged(), "WARN") {
		t.Error(logged())
	}
}

// A connection that opens is counted, and so is why another was closed.
func TestConnectionsAreCounted(t *testing.T) {
	s := start(t, fmt.Sprintf(simple, "prometheus 127.0.0.1:0", ""), map[string]*source{"A": variety()})
	c := s.dial()
	c.ask(question("one.example.org.", dns.TypeA))
	proc.listeners.Flush()
	series := gathered(t, "dns://"+s.addr)
	if got := series["coredns_penstock_fastpath_connections{}"]; got.GetGauge().GetValue() != 1 {
		t.Errorf("connections: %v", got)
	}
	for _, reason := range []string{"slow", "too_many"} {
		if got := series["coredns_penstock_fastpath_connections_closed_total{reason="+reason+"}"]; got == nil || got.GetCounter().GetValue() != 0 {
			t.Errorf("closed: %v", got)
		}
	}
}

// If TCP fails to open, UDP works, and the log and a metric give the reason.
func TestFastPathWithoutTCP(t *testing.T) {
	s := newSuccession(t)
	taken, err := net.Listen("tcp", "127.0.0.1:"+s.port) // without SO_REUSEPORT
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	logged := captureLog(t)
	first := s.instance()
	s.serve(first)
	if owner, group := s.owner(); owner != first || group == nil || first.TCP != nil {
		t.Fatal("no UDP")
	}
	second := s.instance()
	s.serve(second)
	if !strings.Contains(logged(), "not over TCP") {
		t.Errorf("log: %s", logged())
	}
	for _, f := range []*front.Server{first, second} {
		if f.TCPMissing == "" {
			t.Error("no reason")
		}
	}
	if why := (&testServer{t: t, addr: "127.0.0.1:" + s.port, over: "dns"}).tcpReason(); why != second.TCPMissing {
		t.Errorf("metric: %q", why)
	}
}

// Hits, misses and odd messages of several connections, many under way at
// once: each gets one answer, with its identifier and question.
func TestPipelining(t *testing.T) { overTCPAndTLS(t, testPipelining) }

func testPipelining(t *testing.T, block string) {
	s := start(t, fmt.Sprintf(block, "prometheus 127.0.0.1:0\n    loadbalance", ""), map[string]*source{"A": variety()})
	const conns, each = 4, 2000
	var wg sync.WaitGroup
	for n := range conns {
		c := s.dial()
		wg.Go(func() {
			want := map[uint16]string{}
			var all [][]byte
			for i := range each {
				kind := []string{"one", "many", "alias", "nx", "nodata", "srv", "huge", fmt.Sprintf("n%d-%d", n, i%500)}[i%8]
				r := question(kind+".example.org.", dns.TypeA)
				r.Id = uint16(i)
				want[r.Id] = r.Question[0].Name
				p, err := r.Pack()
				if err != nil {
					t.Error(err)
					return
				}
				all = append(all, p)
				if i%100 == 0 {
					all = append(all, nil, []byte("short")) // ignored
				}
			}
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(frame(all...))
				sent <- err
			}()
			for range each {
				m := new(dns.Msg)
				if err := m.Unpack(c.next()); err != nil || len(m.Question) != 1 || want[m.Id] != m.Question[0].Name || m.Truncated {
					t.Errorf("%v %v", err, m)
					return
				}
				delete(want, m.Id)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if f := s.fast(); hitsOf(f) < conns*each/2 {
		t.Errorf("%d hits, %v", hitsOf(f), declinesOf(f))
	}
}

// A message other than a plain query receives the reply of CoreDNS's server.
func TestOddMessagesGetTheRepliesOfTheChain(t *testing.T) {
	overTCPAndTLS(t, testOddMessagesGetTheRepliesOfTheChain)
}

func testOddMessagesGetTheRepliesOfTheChain(t *testing.T, block string) {
	named := map[string]*source{"A": says(nil, "www.example.org. 60 IN A 192.0.2.1")}
	on := start(t, fmt.Sprintf(block, "", ""), named)
	off := start(t, strings.Replace(fmt.Sprintf(block, "", ""), "fastpath on", "fastpath off", 1), named)
	if on.streamsOf() == nil || off.streamsOf() != nil {
		t.Fatal("fast path")
	}
	a, b := on.dial(), off.dial()
	for name, p := range oddPackets(t) {
		a.send(p)
		b.send(p)
		x, y := a.next(), b.next()
		if !bytes.Equal(x, y) && !bytes.Equal(expanded(t, x), y) {
			t.Errorf("%s:\nfast  %x\nchain %x", name, x, y)
		}
	}
	// Some get no reply, and the connection stays open.
	for _, p := range silentPackets(t) {
		a.send(p)
		b.send(p)
	}
	for _, c := range []*streamClient{a, b} {
		if m := c.ask(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
	}
	// So does one whose query is longer than any over UDP.
	r := question("www.example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 60_000)}}
	if x, y := a.ask(r), b.ask(r); len(x.Answer) != 1 || x.String() != y.String() {
		t.Errorf("%v\n%v", x, y)
	}
}

// Answers of any length come from the cache, whole, and as the chain sends
// them; one that no message holds is truncated by the chain.
func TestLongAnswersOverTCP(t *testing.T) { overTCPAndTLS(t, testLongAnswersOverTCP) }

func testLongAnswersOverTCP(t *testing.T, block string) {
	for _, tt := range []struct {
		records   int
		hit       bool
		truncated bool
	}{
		{600, true, false},
		{3800, true, false}, // 64,000 bytes with compression
		{4500, false, true},
	} {
		src := &source{}
		src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			m := new(dns.Msg)
			m.SetReply(r)
			m.Compress = true
			for i := range tt.records {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, byte(i>>8), byte(i))})
			}
			return 0, w.WriteMsg(m)
		}
		s := start(t, fmt.Sprintf(block, "loadbalance", "maxmem 64MiB"), map[string]*source{"A": src})
		c := s.dial()
		for range 3 {
			r := question("www.example.org.", dns.TypeA)
			r.SetEdns0(512, false)
			m := c.ask(r)
			if m.Truncated != tt.truncated || !tt.truncated && len(m.Answer) != tt.records {
				t.Errorf("%d records: %d, truncated: %v", tt.records, len(m.Answer), m.Truncated)
			}
			seen := map[string]bool{}
			for _, rr := range m.Answer {
				seen[rr.String()] = true
			}
			if len(seen) != len(m.Answer) {
				t.Errorf("%d different records of %d", len(seen), len(m.Answer))
			}
		}
		if hits := hitsOf(s.fast()); (hits == 2) != tt.hit {
			t.Errorf("%d records: %d hits, %v", tt.records, hits, declinesOf(s.fast()))
		}
	}
}

// Equal misses over both transports are one question; each client gets its answer.
func TestMissesOfBothTransportsAreOneQuestion(t *testing.T) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	f := s.fast()
	p := wireOf(t, question("www.example.org.", dns.TypeA))
	udp, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_ = udp.SetDeadline(time.Now().Add(inTime))
	if _, err := udp.Write(p); err != nil {
		t.Fatal(err)
	}
	until(t, "the first", func() bool { running, _, _ := countsOf(f.Backlog); return running == 1 })
	begun := time.Now()
	c, other := s.dial(), s.dial()
	c.send(p, p, p)
	other.send(p)
	until(t, "the others", func() bool { running, _, waits := countsOf(f.Backlog); return running+waits == 5 })
	leaders := 1 + int(time.Since(begun)/sides.LeadFor)
	open()
	for range 3 {
		if m := messageOf(t, c.next()); len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
	}
	if m := messageOf(t, other.next()); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	if _, err := udp.Read(make([]byte, 512)); err != nil {
		t.Error(err)
	}
	if src.count() > leaders {
		t.Errorf("%d questions", src.count())
	}
}

// A client that closes its side after its questions gets all answers.
func TestHalfClosedClientGetsItsAnswers(t *testing.T) {
	overTCPAndTLS(t, testHalfClosedClientGetsItsAnswers)
}

func testHalfClosedClientGetsItsAnswers(t *testing.T, block string) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(block, "", ""), map[string]*source{"A": src})
	c := s.dial()
	c.send(wireOf(t, question("a.example.org.", dns.TypeA)), wireOf(t, question("b.example.org.", dns.TypeA)))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	until(t, "the questions", func() bool { return src.count() == 2 })
	open()
	for range 2 {
		if m := messageOf(t, c.next()); len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
	}
	if c.next() != nil {
		t.Error("the connection goes on")
	}
}

// Jobs that are dropped give their connection free.
func TestShedJobsReleaseTheirConnection(t *testing.T) {
	overTCPAndTLS(t, testShedJobsReleaseTheirConnection)
}

func testShedJobsReleaseTheirConnection(t *testing.T, block string) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(block, "", "coalesce 1"), map[string]*source{"A": src})
	b := s.fast().Backlog
	empty := fill(t, b)
	lead := wireOf(t, question("lead.example.org.", dns.TypeA))
	c := s.dial()
	// The leader, one that waits for it, one that takes its place.
	c.send(lead, lead, lead)
	until(t, "the leader", func() bool { _, queued, waits := countsOf(b); return queued == 1 && waits == 1 })
	for i := 0; len(b.Waiters) > 0; i++ {
		b.Submit(&front.Job{Packet: wireOf(t, question(fmt.Sprintf("n%d.example.org.", i), dns.TypeA))})
	}
	if n := b.TakeCounts(); n.Shed != 3 {
		t.Errorf("%d were dropped", n.Shed)
	}
	// Nothing is pending, so the end of the client's side is the end.
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if c.next() != nil {
		t.Error("an answer")
	}
	empty()
}

// transferred answers AXFR with many long messages, and all else at once.
func transferred(messages int) *source {
	src := &source{}
	src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Qtype != dns.TypeAXFR {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
			return 0, w.WriteMsg(m)
		}
		text := strings.Repeat("x", 250)
		for i := range messages {
			m.Answer = nil
			for range 200 {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: fmt.Sprintf("n%d.example.org.", i), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{text}})
			}
			if err := w.WriteMsg(m); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}
	return src
}

// A transfer is many messages in their order, as fast as the client takes
// them, and takes no place of other queries.
func TestTransfersGoThroughTheChain(t *testing.T) { overTCPAndTLS(t, testTransfersGoThroughTheChain) }

func testTransfersGoThroughTheChain(t *testing.T, block string) {
	const messages = 400 // 20 MB: no kernel takes so many
	s := start(t, fmt.Sprintf(block, "", ""), map[string]*source{"A": transferred(messages)})
	b := s.fast().Backlog
	empty := fill(t, b)
	c := s.dial()
	c.send(wireOf(t, question("example.org.", dns.TypeAXFR)))
	for i := range messages {
		m := messageOf(t, c.next())
		if len(m.Answer) != 200 || m.Answer[0].Header().Name != fmt.Sprintf("n%d.example.org.", i) {
			t.Fatalf("message %d: %v", i, m)
		}
	}
	empty()
	b.Mu.Lock()
	b.Transfers = front.MaxTransfers
	b.Mu.Unlock()
	// There is a bound; a client beyond it asks again at another time.
	c.send(wireOf(t, question("example.org.", dns.TypeAXFR)), wireOf(t, question("www.example.org.", dns.TypeA)))
	if m := messageOf(t, c.next()); m.Question[0].Qtype != dns.TypeA {
		t.Errorf("%v", m)
	}
	if n := b.TakeCounts(); n.Shed != 1 {
		t.Errorf("%d dropped", n.Shed)
	}
	b.Mu.Lock()
	b.Transfers = 0
	b.Mu.Unlock()
}

// Reloads lose no query over open connections, and leave them open.
func TestReloadKeepsConnections(t *testing.T) { overTCPAndTLS(t, testReloadKeepsConnections) }

func testReloadKeepsConnections(t *testing.T, block string) {
	corefile := fmt.Sprintf(block, "", "")
	s := start(t, corefile, map[string]*source{"A": variety()})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 3 {
		c := s.dial()
		p := wireOf(t, question("one.example.org.", dns.TypeA))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(frame(p, p, p)); err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					if c.next() == nil {
						t.Error("a connection was closed")
						return
					}
					answered.Add(1)
				}
			}
		})
	}
	for range 5 {
		if err := s.reload(corefile); err != nil {
			t.Fatal(err)
		}
	}
	// To a chain without a fast path, and back.
	for _, text := range []string{strings.Replace(corefile, "errors", "errors\n    acl {\n allow\n }", 1), corefile} {
		if err := s.reload(text); err != nil {
			t.Fatal(err)
		}
		before := answered.Load()
		until(t, "answers", func() bool { return answered.Load() > before+10 })
	}
	close(stop)
	wg.Wait()
}

// tcpReason returns why a server has no fast path over TCP, as the metric says.
func (s *testServer) tcpReason() string {
	s.t.Helper()
	const family = "coredns_penstock_fastpath_tcp{why="
	var all []string
	for name, m := range gathered(s.t, s.over+"://"+s.addr) {
		why, ok := strings.CutPrefix(name, family)
		if why = strings.TrimSuffix(why, "}"); !ok {
			continue
		}
		all = append(all, why)
		if on := m.GetGauge().GetValue(); (on == 1) != (why == "") {
			s.t.Errorf("%s: %v", name, on)
		}
	}
	if len(all) != 1 {
		s.t.Fatalf("%d series: %q", len(all), all)
	}
	return all[0]
}

// A chain that must see every query has CoreDNS's own listener, until a reload.
func TestReloadOpensListeners(t *testing.T) { overTCPAndTLS(t, testReloadOpensListeners) }

func testReloadOpensListeners(t *testing.T, block string) {
	corefile := fmt.Sprintf(block, "", "")
	acl := strings.Replace(corefile, "errors", "errors\n    acl {\n allow\n }", 1)
	s := start(t, acl, map[string]*source{"A": variety()})
	if s.streamsOf() != nil || s.tcpReason() != front.ErrAllDecline.Error() {
		t.Fatalf("TCP: %q", s.tcpReason())
	}
	if err := s.reload(corefile); err != nil {
		t.Fatal(err)
	}
	if s.streamsOf() == nil || s.tcpReason() != "" {
		t.Fatalf("no TCP: %q", s.tcpReason())
	}
	c := s.dial()
	for range 2 {
		c.ask(question("one.example.org.", dns.TypeA))
	}
	if n := hitsOf(s.fast()); n != 1 {
		t.Errorf("%d hits", n)
	}
	if err := s.reload(acl); err != nil {
		t.Fatal(err)
	}
	c.ask(question("one.example.org.", dns.TypeA))
	if s.tcpReason() != front.ErrAllDecline.Error() {
		t.Errorf("metric: %q", s.tcpReason())
	}
	off := start(t, strings.Replace(corefile, "fastpath on", "fastpath off", 1), map[string]*source{"A": variety()})
	if off.streamsOf() != nil || off.tcpReason() == "" {
		t.Errorf("TCP: %q", off.tcpReason())
	}
}

// With the plugin tsig no listener of ours may stay, because it would not sign.
func TestReloadToTSIGClosesTheListeners(t *testing.T) {
	corefile := fmt.Sprintf(simple, "", "")
	s := start(t, corefile, map[string]*source{"A": says(nil, "www.example.org. 60 IN A 192.0.2.1")})
	c := s.dial()
	c.ask(question("www.example.org.", dns.TypeA))
	signed := strings.Replace(corefile, "errors", "errors\n    tsig {\n secret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n }", 1)
	if err := s.reload(signed); err != nil {
		t.Fatal(err)
	}
	if c.next() != nil {
		t.Error("the connection is still open")
	}
	if s.fast() != nil {
		t.Error("fast path despite tsig")
	}
	for _, tcp := range []bool{false, true} {
		r := question("www.example.org.", dns.TypeA)
		r.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
		if m := s.signed(r, tcp); m.IsTsig() == nil || len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
	}
	if err := s.reload(corefile); err != nil {
		t.Fatal(err)
	}
	until(t, "hits", func() bool {
		s.askTCP(question("www.example.org.", dns.TypeA))
		f := s.fast()
		return f != nil && hitsOf(f) > 0
	})
}

// A server that ends answers the queries it has received and leaves no goroutine.
func TestShutdownAnswersPendingQueries(t *testing.T) {
	overTCPAndTLS(t, testShutdownAnswersPendingQueries)
}

func testShutdownAnswersPendingQueries(t *testing.T, block string) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(block, "", ""), map[string]*source{"A": src})
	streams := s.streamsOf()
	c, idle := s.dial(), s.dial()
	c.send(wireOf(t, question("www.example.org.", dns.TypeA)))
	until(t, "the question", func() bool { return src.count() == 1 })
	done := make(chan error)
	home := s.fast().Home
	go func() { done <- proc.listeners.Release(home) }()
	if idle.next() != nil {
		t.Error("an idle connection stays")
	}
	open()
	if m := messageOf(t, c.next()); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	if c.next() != nil {
		t.Error("the connection stays")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := streams.Conns(); n != 0 {
		t.Errorf("%d connections", n)
	}
	// CoreDNS's own listener has the address to itself again.
	if m := s.askTCP(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// Limits of the plugin timeouts hold here too.
func TestServerTimeoutsApply(t *testing.T) { overTCPAndTLS(t, testServerTimeoutsApply) }

func testServerTimeoutsApply(t *testing.T, block string) {
	s := start(t, fmt.Sprintf(block, "timeouts {\n read 1h\n idle 1h\n maxtcpqueries 2\n}", ""), map[string]*source{"A": variety()})
	want := fastpath.StreamLimits{Read: time.Hour, Idle: time.Hour, Write: 5 * time.Second, Messages: 2}
	if got := s.fast().Limits(); got != want {
		t.Errorf("%+v", got)
	}
	c := s.dial()
	c.ask(question("one.example.org.", dns.TypeA))
	c.ask(question("one.example.org.", dns.TypeA))
	if c.next() != nil {
		t.Error("the connection goes on")
	}
}

// Listeners of other addresses: IPv6, and all addresses of both families.
func TestStreamsOfOtherAddresses(t *testing.T) {
	for bind, hosts := range map[string][]string{"bind ::1": {"::1"}, "": {"127.0.0.1", "127.0.0.2", "::1"}} {
		src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
		s := start(t, strings.Replace(fmt.Sprintf(simple, "prometheus 127.0.0.1:0", ""), "bind 127.0.0.1", bind, 1), map[string]*source{"A": src})
		_, port, _ := net.SplitHostPort(s.addr)
		s.addr = ":" + port
		if bind != "" {
			s.addr = "[::1]:" + port
		}
		f := s.fast()
		if f == nil || f.TCP == nil {
			t.Fatal("no fast path")
		}
		for _, host := range hosts {
			s.addr = net.JoinHostPort(host, port)
			for range 2 {
				if m := s.askTCP(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
					t.Errorf("%s: %v", host, m)
				}
			}
		}
		if n := hitsOf(f); n != uint64(2*len(hosts)-1) {
			t.Errorf("%q: %d hits", bind, n)
		}
	}
}

// A hit over a connection allocates nothing, with all counters on.
func TestStreamHitsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector buffers are thrown away at random")
	}
	s := start(t, fmt.Sprintf(simple, "prometheus 127.0.0.1:0\n    loadbalance", ""), map[string]*source{"A": variety()})
	c := s.dial()
	p := wireOf(t, question("many.example.org.", dns.TypeA))
	c.ask(question("many.example.org.", dns.TypeA))
	burst := frame(p, p, p, p, p, p, p, p)
	c.send(p)
	buf := make([]byte, 8*len(frame(c.next())))
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(burst); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for 8 hits", n)
	}
	if f := s.fast(); hitsOf(f) < 8000 {
		t.Errorf("%d hits", hitsOf(f))
	}
}

// A hit over TCP does not wait for a lock. The locks of the runtime's poller, where
// a connection waits for its client, do not count.
func TestStreamHitsNeverWaitForALock(t *testing.T) {
	s := start(t, fmt.Sprintf(simple, "prometheus 127.0.0.1:0\n    loadbalance", "success 10000 3600 3600"), map[string]*source{"A": variety()})
	hits := profiledHits() / 4 / 16 * 16
	p := wireOf(t, question("many.example.org.", dns.TypeA))
	burst := frame(p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p)
	s.askTCP(question("many.example.org.", dns.TypeA))
	client := func(t *testing.T) {
		c := s.dial()
		_ = c.SetDeadline(time.Now().Add(time.Minute + time.Duration(hits)*20*time.Microsecond))
		for n := 0; n < hits; n += 16 {
			if _, err := c.Write(burst); err != nil {
				t.Fatal(err)
			}
			for range 16 {
				if c.next() == nil {
					t.Fatal("the end")
				}
			}
		}
	}
	start := hitsOf(s.fast())
	watchLocks(t, client, func(count int64, stack []string) {
		ours := slices.ContainsFunc(stack, func(f string) bool {
			return strings.HasSuffix(f, "fastpath.(*Conn).receive") || strings.HasSuffix(f, "fastpath.(*Conn).serve")
		})
		// After a collection each processor allocates its part of the pool of
		// buffers under a lock of sync: four events in ten million hits.
		pool := slices.Contains(stack, "sync.(*Pool).pinSlow")
		if ours && !pool && strings.HasPrefix(stack[0], "sync.") {
			t.Errorf("%d events at %s", count, strings.Join(stack, " < "))
		}
	})
	if got := hitsOf(s.fast()) - start; got < uint64(4*hits) {
		t.Errorf("%d hits", got)
	}
}

// Connections that do nothing take no thread.
func TestIdleConnectionsTakeNoThread(t *testing.T) {
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": variety()})
	threads := func() int {
		all, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := threads()
	const conns = 400
	for range conns {
		s.dial().ask(question("one.example.org.", dns.TypeA))
	}
	if n := s.streamsOf().Conns(); n != conns {
		t.Errorf("%d connections", n)
	}
	if more := threads() - before; more > conns/10 {
		t.Errorf("%d more threads", more)
	}
}

// No more goroutines serve at a time than Go has processors, so a worker is usually
// free. If none is, as in this test, the connection waits for one.
func TestBorrowedWorkersAreNotShared(t *testing.T) {
	b := bareServer(t, Config{}, variety())
	b.PrepareStreams(3)
	c := &fastpath.Conn{}
	seen := map[*front.Worker]bool{}
	var all []*front.Worker
	for range len(b.Streams) - 1 {
		w := b.Borrow(&c.Hint)
		if seen[w] || w == b.Streams[len(b.Streams)-1] {
			t.Fatal("a worker twice, or that of the waiters")
		}
		seen[w] = true
		all = append(all, w)
	}
	got := make(chan *front.Worker)
	go func() { got <- b.Borrow(&c.Hint) }()
	for _, w := range all {
		w.Mu.Unlock()
	}
	w := <-got
	w.Mu.Unlock()
	if again := b.Borrow(&c.Hint); again != w {
		t.Error("a connection does not keep its worker")
	} else {
		again.Mu.Unlock()
	}
}

// Addresses of two lengths that are longer together than any answer over UDP
// are not put in order here.
func TestLongMixedAddressesAreLeftToTheChain(t *testing.T) {
	t.Parallel()
	var records []string
	for i := range 200 {
		records = append(records, fmt.Sprintf("example.org. 60 IN A 192.0.2.%d", i), fmt.Sprintf("example.org. 60 IN AAAA 2001:db8::%d", i))
	}
	for n, ok := range map[int]bool{160: true, 190: false, 400: false} {
		m, _ := answerOf(t, records[:n]...)
		a, packed := pack(m)
		if !packed {
			t.Fatal("pack")
		}
		rnd := front.Random(1)
		if got := front.Arrange(a, bytes.Clone(a.Msg()), &rnd); got != ok {
			t.Errorf("%d records: %v", n, got)
		}
	}
}
