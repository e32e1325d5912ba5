//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// hanging makes the background refreshes of a source hang. Queries of clients
// still get an answer.
type hanging struct {
	mu   sync.Mutex // guards gate
	gate chan struct{}
}

// hang makes refreshes from now on wait for release. None may be running.
func (h *hanging) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gate == nil {
		h.gate = make(chan struct{})
	}
}

// release lets the refreshes that hang continue.
func (h *hanging) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gate != nil {
		close(h.gate)
		h.gate = nil
	}
}

func (h *hanging) hangs() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gate != nil
}

// pass returns at once, unless w belongs to a refresh and refreshes hang.
func (h *hanging) pass(w dns.ResponseWriter) {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil && w.RemoteAddr() == refreshAddr {
		<-gate
	}
}

// step moves the clock of b.
func (b *bare) step(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

// prefetching returns a server whose cache holds an entry that has expired
// while its prefetch hangs, the query for it, and its source.
func prefetching(t *testing.T, stale Stale, age time.Duration) (*bare, []byte, *source) {
	t.Helper()
	src, h := says(nil, "example.org. 60 IN A 192.0.2.1"), &hanging{}
	first := src.answer
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		h.pass(w)
		return first(ctx, w, r)
	}
	b := bareServer(t, Config{
		MaxMem: MinMaxMemory, Stale: stale,
		Prefetch: Prefetch{Amount: 1, Duration: time.Minute, Percentage: 50},
	}, src)
	t.Cleanup(h.release)
	p := wireOf(t, question("example.org.", dns.TypeA))
	b.chain(p)
	b.step(40 * time.Second)
	h.hang()
	b.chain(p) // starts the prefetch
	until(t, "the prefetch", func() bool { return src.count() == 2 })
	b.step(age - 40*time.Second)
	return b, p, src
}

// While the prefetch of a fresh entry hangs, both paths serve the entry and
// start no second prefetch.
func TestFreshEntryIsServedDuringItsPrefetch(t *testing.T) {
	b, p, src := prefetching(t, Stale{}, 50*time.Second)
	fast, why := b.fast(p)
	if why != meters.Understood {
		t.Fatalf("the fast path declines: %v", why)
	}
	if chain := b.chain(p); !sameMessage(t, fast, chain) || src.count() != 2 {
		t.Errorf("fast %x\nchain %x\nasked %d times", fast, chain, src.count())
	}
}

// With "serve_stale 1h verify" and no timeout, the source is asked before a
// stale reply, even though a prefetch of the entry hangs: on both paths.
func TestVerifyAsksFirstDuringAPrefetch(t *testing.T) {
	b, p, src := prefetching(t, Stale{UpTo: time.Hour, Verify: true}, 80*time.Second)
	src.say(nil, "example.org. 60 IN A 192.0.2.2")
	if reply, why := b.fast(p); why != meters.Refresh {
		t.Errorf("the fast path replies %x, or declines as %v", reply, why)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b.chain(p)); err != nil || len(m.Answer) != 1 || m.Answer[0].String() != "example.org.\t60\tIN\tA\t192.0.2.2" {
		t.Errorf("the chain replies %v (%v)", m, err)
	}
}

// With a timeout, the prefetch counts as the question to the source, and both
// paths serve the stale entry.
func TestVerifyWithTimeoutCountsThePrefetch(t *testing.T) {
	b, p, src := prefetching(t, Stale{UpTo: time.Hour, Verify: true, VerifyTimeout: inTime}, 80*time.Second)
	fast, why := b.fast(p)
	if why != meters.Understood {
		t.Fatalf("the fast path declines: %v", why)
	}
	if chain := b.chain(p); !sameMessage(t, fast, chain) || src.count() != 2 {
		t.Errorf("fast %x\nchain %x\nasked %d times", fast, chain, src.count())
	}
}

// A zone whose answers are not kept, as kubeadm configures cluster.local, does
// not keep the misses of other names from sharing one question.
func TestBacklogCoalescesOutsideOfDisabledZones(t *testing.T) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(simple, "", "disable success cluster.local\n        disable denial cluster.local"), map[string]*source{"A": src})
	f := s.fast()
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(inTime))
	send := func(name string, n int) {
		for range n {
			if _, err := c.Write(wireOf(t, question(name, dns.TypeA))); err != nil {
				t.Fatal(err)
			}
		}
	}
	const each = 10
	begun := time.Now()
	send("www.example.org.", each)
	until(t, "the misses", func() bool { running, _, waits := countsOf(f.Backlog); return running+waits == each })
	leaders := 1 + int(time.Since(begun)/sides.LeadFor) // on a machine under load the first may have led for too long
	if running, _, waits := countsOf(f.Backlog); running > leaders || waits < each-leaders {
		t.Errorf("%d questions, %d misses wait", running, waits)
	}
	before, _, waiting := countsOf(f.Backlog)
	send("www.cluster.local.", each)
	until(t, "the others", func() bool { running, _, waits := countsOf(f.Backlog); return running+waits == 2*each })
	if running, _, waits := countsOf(f.Backlog); running-before != each || waits != waiting {
		t.Errorf("%d questions and %d waits for a name whose answers are not kept", running-before, waits-waiting)
	}
	open()
	buf := make([]byte, 512)
	for range 2 * each {
		if n, err := c.Read(buf); err != nil || bytes.Count(buf[:n], []byte{192, 0, 2, 1}) != 1 {
			t.Fatal(n, err)
		}
	}
}
