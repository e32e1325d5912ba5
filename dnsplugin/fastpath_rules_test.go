//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// A source that is dead for an hour: all warm names are answered all the time,
// without the chain but for one attempt for each name in 30 s.
func TestDeadUpstreamForAnHourOnTheFastPath(t *testing.T) {
	for _, st := range []Stale{rfc8767, {UpTo: 24 * time.Hour, ResponseTTL: 30 * time.Second, Recheck: 30 * time.Second}} {
		const names, step = 20, 5
		src := says(nil)
		b := bareServer(t, Config{MaxMem: MinMaxMemory, Stale: st}, src)
		var packets [][]byte
		for i := range names {
			name := fmt.Sprintf("n%d.example.org.", i)
			src.say(nil, name+" 60 IN A 192.0.2.1")
			p, err := question(name, dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			b.chain(p)
			packets = append(packets, p)
		}
		src.dies()
		asked, byChain := src.count(), 0
		for at := 0; at < 3600; at += step {
			b.mu.Lock()
			b.clock = b.clock.Add(step * time.Second)
			b.mu.Unlock()
			for _, p := range packets {
				reply, _ := b.fast(p)
				if reply == nil {
					byChain++
					reply = b.chain(p)
				}
				m := new(dns.Msg)
				if reply == nil || m.Unpack(reply) != nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl > 60 {
					t.Fatalf("%+v: after %d s: %v", st, at, m)
				}
			}
			b.cache.refreshes.Wait()
		}
		if n := src.count() - asked; n > names*3600/30 || byChain > names*3600/30 {
			t.Errorf("%d attempts, %d of %d through the chain", n, byChain, names*3600/step)
		}
	}
}

// If a source never answers, and more misses arrive than may wait, the workers
// still answer from the cache.
func TestStuckSourceNeverBlocksReaders(t *testing.T) {
	src, open := gated()
	s := start(t, fmt.Sprintf(simple, "", "workers 1"), map[string]*source{"A": src})
	defer open()
	warm := question("warm.example.org.", dns.TypeA)
	remember(t, cacheIn(s.fast()), warm)
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := s.fast().Backlog
	b.Mu.Lock()
	b.Admission.Limits.Quick, b.Admission.Limits.Long = 8, 8 // few run at all
	b.Mu.Unlock()
	full := func() bool {
		b.Mu.Lock()
		defer b.Mu.Unlock()
		return b.Counted.Shed > 0
	}
	for i := 0; !full(); i++ {
		p, err := question(fmt.Sprintf("n%d.example.org.", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if m := s.ask(warm); len(m.Answer) != 1 {
				t.Fatalf("after %d misses: %v", i, m)
			}
		}
	}
	if m := s.ask(warm); len(m.Answer) != 1 || hitsOf(s.fast()) < 3 {
		t.Errorf("%v; %d hits", m, hitsOf(s.fast()))
	}
	open()
	until(t, "the end of the misses", func() bool { return !b.Busy() })
}

// remember puts an answer to r into c.
func remember(t *testing.T, c *Cache, r *dns.Msg) {
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
	rec := &recorder{cache: c, req: r, id: id.Clone(), meters: c.meters.Of("")}
	rec.keep(m)
}

// DS at a zone cut is data of the parent (RFC 4035, section 3.1.4.1), also
// where the child's cache has something under that name and type.
func TestDSComesFromTheParent(t *testing.T) {
	const ds = "sub.example. 60 IN DS 1 8 2 0000000000000000000000000000000000000000000000000000000000000000"
	parent, child := says(nil, ds), says(nil, "sub.example. 60 IN A 192.0.2.1")
	s := start(t, `example:PORT {
    bind 127.0.0.1
    penstock
    source A
}
sub.example:PORT {
    bind 127.0.0.1
    penstock
    source B
}
`, map[string]*source{"A": parent, "B": child})
	s.ask(question("sub.example.", dns.TypeA))
	for range 3 {
		if m := s.ask(question("sub.example.", dns.TypeDS)); len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeDS {
			t.Errorf("%v", m)
		}
	}
	if child.count() != 1 || parent.count() != 1 || declinesOf(s.fast())["type_ds"] != 3 {
		t.Errorf("asked: child %d, parent %d; %v", child.count(), parent.count(), declinesOf(s.fast()))
	}
}

// A client's cookie may be left unanswered (RFC 7873, section 5.2.3): its
// query is a hit like any other, on both paths, and no cookie comes back.
func TestCookiesAreLeftUnanswered(t *testing.T) {
	b := bareServer(t, Config{MaxMem: MinMaxMemory}, says(nil, "www.example.org. 60 IN A 192.0.2.1"))
	with := func(options ...dns.EDNS0) []byte {
		r := question("www.example.org.", dns.TypeA)
		r.Id = 7
		r.SetEdns0(1232, false)
		r.IsEdns0().Option = options
		p, err := r.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := with()
	b.chain(plain)
	want, _ := b.fast(plain)
	got, why := b.fast(with(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1234567890"}))
	if want == nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %x, want %x", why, got, want)
	}
	if m := expanded(t, b.chain(with(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1234567890"}))); !bytes.Equal(m, expanded(t, want)) {
		t.Errorf("chain: %x, want %x", m, want)
	}
}

// Every query and every answer is in dnstap, those from the cache too.
func TestDnstapHasCachedAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tap.sock")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var frames atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		name := []byte("\x03tap\x07example\x03org")
		_ = readFrames(c, func(p []byte) {
			if bytes.Contains(p, name) {
				frames.Add(1)
			}
		})
	}()
	t.Cleanup(func() { <-ended }) // after the cleanup of the server, which holds the connection
	s := start(t, fmt.Sprintf(simple, "dnstap unix://"+path+" full", ""), map[string]*source{"A": says(nil, "tap.example.org. 60 IN A 192.0.2.1")})
	for range 3 {
		s.ask(question("tap.example.org.", dns.TypeA))
	}
	until(t, "three queries and their answers", func() bool { return frames.Load() == 6 })
}

// readFrames takes the receiving end of a bidirectional Frame Streams
// connection, which is how dnstap goes over a socket.
func readFrames(c io.ReadWriter, data func([]byte)) error {
	const accept, finish = 1, 5
	control := func(kind uint32, rest []byte) error {
		b := binary.BigEndian.AppendUint32(nil, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(4+len(rest)))
		_, err := c.Write(append(binary.BigEndian.AppendUint32(b, kind), rest...))
		return err
	}
	read := func() ([]byte, error) {
		var n [4]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return nil, err
		}
		p := make([]byte, binary.BigEndian.Uint32(n[:]))
		_, err := io.ReadFull(c, p)
		return p, err
	}
	for {
		p, err := read()
		if err != nil {
			return err
		}
		if len(p) > 0 {
			data(p)
			continue
		}
		if p, err = read(); err != nil {
			return err
		}
		switch binary.BigEndian.Uint32(p) {
		case 4: // READY, with the content types that there are
			err = control(accept, p[4:])
		case 3: // STOP
			return control(finish, nil)
		}
		if err != nil {
			return err
		}
	}
}

// A and AAAA of a name, one right behind the other from one port, as glibc asks: both are
// answered, whichever workers they are dealt to, and each is asked for once.
func TestBothFamiliesFromOnePort(t *testing.T) {
	src := &source{}
	four, six := says(nil, "www.example.org. 60 IN A 192.0.2.1"), says(nil, "www.example.org. 60 IN AAAA 2001:db8::1")
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if r.Question[0].Qtype == dns.TypeA {
			return four.answer(ctx, w, r)
		}
		return six.answer(ctx, w, r)
	}
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 512)
	for i := range 20 {
		for j, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			p := wireOf(t, question("www.example.org.", qtype, func(m *dns.Msg) { m.Id = uint16(2*i + j) }))
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		got := map[uint16]uint16{}
		for range 2 {
			n, err := c.Read(buf)
			m := new(dns.Msg)
			if err != nil || m.Unpack(buf[:n]) != nil || len(m.Answer) != 1 {
				t.Fatalf("%v %v", err, m)
			}
			got[m.Id] = m.Answer[0].Header().Rrtype
		}
		if got[uint16(2*i)] != dns.TypeA || got[uint16(2*i+1)] != dns.TypeAAAA {
			t.Fatalf("%v", got)
		}
	}
	if src.count() != 2 {
		t.Errorf("asked %d times", src.count())
	}
}

// What a hit takes while the source is dead, against one of a fresh entry: the way is the
// same, so are the quantiles. The unit is a hit; 32 are timed at once.
func BenchmarkHitWithADeadSource(b *testing.B) {
	for _, stale := range []bool{false, true} {
		b.Run(map[bool]string{false: "alive", true: "dead"}[stale], func(b *testing.B) {
			src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
			s := bareServer(b, Config{MaxMem: MinMaxMemory, Stale: rfc8767}, src)
			p, err := question("www.example.org.", dns.TypeA).Pack()
			if err != nil {
				b.Fatal(err)
			}
			s.chain(p)
			if stale {
				src.dies()
				s.mu.Lock()
				s.clock = s.clock.Add(time.Hour)
				s.mu.Unlock()
				s.chain(p) // the attempt that fails; the next one is in 30 s
				s.cache.refreshes.Wait()
			}
			w, buf := s.Workers[0], make([]byte, 0, fastpath.MaxPacket)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				for range front.Chunk {
					if _, _, why := s.Answer(w, p, buf, s.clock); why != meters.Understood {
						b.Fatal(why)
					}
				}
				took = append(took, time.Since(begin)/front.Chunk)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}
