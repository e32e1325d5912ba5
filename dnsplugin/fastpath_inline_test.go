//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// chained is a Corefile whose chain must see every query.
const chained = `.:PORT {
    bind 127.0.0.1
    before
    penstock {
        fastpath on
        workers 1
        %s
    }
    source A
}
`

// watch lets see look at every query on its way to the cache. inline says that
// a worker takes it there.
func watch(t *testing.T, see func(r *dns.Msg, inline bool)) {
	f := func(w dns.ResponseWriter, r *dns.Msg) {
		scrub, ok := w.(*request.ScrubWriter)
		if !ok {
			t.Errorf("a writer %T", w)
			return
		}
		_, inline := scrub.ResponseWriter.(*front.ChainQuery)
		see(r, inline)
	}
	onTheWay.Store(&f)
	t.Cleanup(func() { onTheWay.Store(nil) })
}

// Cached answers of a chain that must see every query come from it by way of
// the worker, byte for byte as from CoreDNS's own socket; others by the backlog.
func TestCachedAnswersPassTheChainInTheWorker(t *testing.T) {
	var inline, all atomic.Int64
	watch(t, func(_ *dns.Msg, in bool) {
		all.Add(1)
		if in {
			inline.Add(1)
		}
	})
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1", "www.example.org. 60 IN A 192.0.2.2")
	named := map[string]*source{"A": src}
	// TTLs as they were stored: the two are not asked at the same time.
	ours := start(t, fmt.Sprintf(chained, "keepttl"), named)
	theirs := start(t, strings.Replace(fmt.Sprintf(chained, "keepttl"), "fastpath on", "fastpath off", 1), named)
	f := ours.fast()
	if f == nil || f.Direct() || theirs.fast() != nil {
		t.Fatal("sockets")
	}
	var packets [][]byte
	for i := range 6 {
		r := question("wWw.example.org.", dns.TypeA)
		if i%2 == 1 {
			r.SetEdns0(1232, i%3 == 1)
		}
		r.Id = uint16(i)
		p, _ := r.Pack()
		packets = append(packets, p)
		if a, b := ours.raw(p, inTime), theirs.raw(p, inTime); a == nil || !bytes.Equal(a, b) {
			t.Errorf("%d:\nours   %x\ntheirs %x", i, a, b)
		}
	}
	if hitsOf(f) != 0 || all.Load() != 12 {
		t.Errorf("%d without the chain, %d of 12 through it", hitsOf(f), all.Load())
	}
	// All are cached now. A machine under load may keep the worker in the chain for so long
	// that another takes its place, and then none takes queries there for a while.
	until(t, "all cached answers in the worker", func() bool {
		inline.Store(0)
		for _, p := range packets {
			ours.raw(p, inTime)
		}
		return inline.Load() == int64(len(packets))
	})
}

// A plugin that blocks holds up one query only. The others of its batch, and later
// ones, are answered, and the held query when the plugin returns.
func TestWorkerIsReplacedWhenTheChainBlocks(t *testing.T) {
	src := &source{}
	src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		rr, _ := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.1")
		m.Answer = []dns.RR{rr}
		return 0, w.WriteMsg(m)
	}
	s := start(t, fmt.Sprintf(chained, ""), map[string]*source{"A": src})
	names := []string{"a.example.org.", "wait.example.org.", "b.example.org.", "c.example.org."}
	for _, name := range names {
		s.ask(question(name, dns.TypeA))
	}
	gate := make(chan struct{})
	var waited atomic.Bool
	watch(t, func(r *dns.Msg, inline bool) {
		if r.Question[0].Name == "wait.example.org." {
			waited.Store(inline)
			<-gate
		}
	})
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(inTime))
	// The packets that arrive while the worker is locked make one batch.
	w := s.fast().Workers[0]
	w.Mu.Lock()
	for i, name := range names {
		r := question(name, dns.TypeA)
		r.Id = uint16(i)
		p, _ := r.Pack()
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	w.Mu.Unlock()
	next := func() uint16 {
		t.Helper()
		buf, m := make([]byte, 512), new(dns.Msg)
		n, err := c.Read(buf)
		if err != nil || m.Unpack(buf[:n]) != nil || len(m.Answer) != 1 {
			t.Fatal(m, err)
		}
		return m.Id
	}
	got := []uint16{next(), next(), next()}
	slices.Sort(got)
	if !slices.Equal(got, []uint16{0, 2, 3}) || !waited.Load() {
		t.Errorf("answered while one waits: %v; it waits in the worker: %v", got, waited.Load())
	}
	s.ask(question("a.example.org.", dns.TypeA))
	close(gate)
	if got := next(); got != 1 {
		t.Errorf("%d after the wait", got)
	}
	until(t, "the worker to take queries itself again", func() bool {
		var again atomic.Bool
		watch(t, func(_ *dns.Msg, inline bool) { again.Store(inline) })
		s.ask(question("a.example.org.", dns.TypeA))
		return again.Load()
	})
}

// A server ends while a worker's goroutine is stuck in its chain.
func TestServerEndsWhileTheChainBlocks(t *testing.T) {
	s := start(t, fmt.Sprintf(chained, ""), map[string]*source{"A": says(nil, "www.example.org. 60 IN A 192.0.2.1")})
	s.ask(question("www.example.org.", dns.TypeA))
	entered, gate := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(gate) })
	watch(t, func(*dns.Msg, bool) {
		entered <- struct{}{}
		<-gate
	})
	p, _ := question("www.example.org.", dns.TypeA).Pack()
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
	<-entered
	for _, err := range s.inst.ShutdownCallbacks() {
		t.Error(err)
	}
}

// Plugins may write twice, something else than a message, or when the query is over.
func TestRepliesOutsideOfTheInlineBatch(t *testing.T) {
	s := start(t, fmt.Sprintf(chained, ""), map[string]*source{"A": says(nil, "www.example.org. 60 IN A 192.0.2.1")})
	s.ask(question("www.example.org.", dns.TypeA))
	late := make(chan dns.ResponseWriter, 1)
	t.Cleanup(func() { onTheWay.Store(nil) })
	f := func(w dns.ResponseWriter, _ *dns.Msg) {
		_, _ = w.Write([]byte("first"))
		_, _ = w.Write([]byte("second"))
		late <- w
	}
	onTheWay.Store(&f)
	p, _ := question("www.example.org.", dns.TypeA).Pack()
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(inTime))
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
	got, buf := map[string]bool{}, make([]byte, 512)
	read := func() {
		t.Helper()
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n > 20 {
			n = 0 // the cache's
		}
		got[string(buf[:n])] = true
	}
	read()
	read()
	read()
	w := <-late
	if _, err := w.Write([]byte("late")); err != nil {
		t.Error(err)
	}
	read()
	for _, want := range []string{"first", "second", "", "late"} {
		if !got[want] {
			t.Errorf("%q is missing", want)
		}
	}
	if w.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("from %v", w.RemoteAddr())
	}
}

// A query is unpacked as miekg/dns does.
func TestInlineQueryUnpacksAsTheLibraryDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := new(dns.Msg)
		name := rapid.SampledFrom([]string{".", "www.example.org.", `a\.b.\000c.EXAMPLE.org.`, strings.Repeat("a.", 100)}).Draw(t, "name")
		m.SetQuestion(name, rapid.SampledFrom([]uint16{dns.TypeA, dns.TypeSRV, 65280}).Draw(t, "type"))
		m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled = rapid.Bool().Draw(t, "rd"), rapid.Bool().Draw(t, "ad"), rapid.Bool().Draw(t, "cd")
		if rapid.Bool().Draw(t, "edns") {
			m.SetEdns0(rapid.Uint16().Draw(t, "size"), rapid.Bool().Draw(t, "do"))
			if rapid.Bool().Draw(t, "cookie") {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
			}
		}
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q wire.Query
		if why := wire.ParseQuery(p, &q); why != wire.OK {
			t.Fatal(why)
		}
		want, x := new(dns.Msg), &front.ChainQuery{}
		if err := want.Unpack(p); err != nil {
			t.Fatal(err)
		}
		if !x.Unpack(p, &q) || !reflect.DeepEqual(&x.Req, want) {
			t.Errorf("%#v\nwant %#v", &x.Req, want)
		}
	})
}
