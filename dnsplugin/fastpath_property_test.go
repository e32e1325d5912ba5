//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// ledger is a source whose every response can be told apart: it writes a number
// into the data and remembers what it has said under it.
type ledger struct {
	mu    sync.Mutex // guards all below
	now   time.Time
	said  []statement // by number
	epoch int         // counts flushes
}

// statement is one response.
type statement struct {
	name  string // lower case
	qtype uint16
	rcode int
	ttl   uint32
	at    time.Time
	epoch int
}

func (l *ledger) Name() string { return "source" }

func (l *ledger) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	l.mu.Lock()
	n, q := len(l.said), r.Question[0]
	s := statement{name: strings.ToLower(q.Name), qtype: q.Qtype, ttl: []uint32{1, 2, 7, 30, 300}[n%5], at: l.now, epoch: l.epoch}
	m := new(dns.Msg)
	m.SetReply(r)
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: s.ttl}
	switch n % 4 {
	case 0:
		s.rcode, m.Rcode = dns.RcodeNameError, dns.RcodeNameError
		fallthrough
	case 1:
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: s.ttl},
			Ns:  "ns.example.", Mbox: "h.example.", Serial: uint32(n), Minttl: 1 << 20,
		}}
	default:
		if q.Qtype == dns.TypeAAAA {
			m.Answer = []dns.RR{&dns.AAAA{Hdr: h, AAAA: binary.BigEndian.AppendUint32(make([]byte, 12, 16), uint32(n))}}
			break
		}
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: binary.BigEndian.AppendUint32(nil, uint32(n))}}
	}
	l.said = append(l.said, s)
	l.mu.Unlock()
	return m.Rcode, w.WriteMsg(m)
}

// wrong says what is wrong with reply as an answer to p, asked when since
// flushes were over.
func (l *ledger) wrong(p, reply []byte, since int, stale *Stale) string {
	var q, m dns.Msg
	if err := q.Unpack(p); err != nil {
		return err.Error()
	}
	if err := m.Unpack(reply); err != nil {
		return err.Error()
	}
	if m.Id != q.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != q.Question[0] || m.RecursionDesired != q.RecursionDesired {
		return "identifier, question or flags"
	}
	if (m.IsEdns0() == nil) != (q.IsEdns0() == nil) || len(m.Answer)+len(m.Ns) != 1 {
		return "records"
	}
	var n, ttl uint32
	name := strings.ToLower(q.Question[0].Name)
	switch rr := append(m.Answer, m.Ns...)[0].(type) {
	case *dns.SOA:
		n, ttl = rr.Serial, rr.Hdr.Ttl
		if !strings.EqualFold(rr.Hdr.Name, "example.") { // compressed: spelt as in the question
			return "owner of the SOA"
		}
	case *dns.A:
		n, ttl = binary.BigEndian.Uint32(rr.A.To4()), rr.Hdr.Ttl
	case *dns.AAAA:
		n, ttl = binary.BigEndian.Uint32(rr.AAAA[12:]), rr.Hdr.Ttl
	}
	if len(m.Answer) == 1 && (strings.ToLower(m.Answer[0].Header().Name) != name || m.Answer[0].Header().Rrtype != q.Question[0].Qtype) {
		return "owner or type"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(n) >= len(l.said) {
		return "never said"
	}
	s := l.said[n]
	left := int(s.ttl) - int(l.now.Sub(s.at)/time.Second)
	switch {
	case s.name != name || s.qtype != q.Question[0].Qtype:
		return fmt.Sprintf("it was said of %s %d", s.name, s.qtype)
	case s.rcode != m.Rcode:
		return "rcode"
	case s.epoch < since:
		return "flushed"
	case left > 0 && ttl > uint32(left):
		return fmt.Sprintf("TTL %d, %d left", ttl, left)
	case left <= 0 && (stale.UpTo == 0 || time.Duration(-left)*time.Second > stale.UpTo || ttl > uint32(stale.ResponseTTL/time.Second)):
		return fmt.Sprintf("TTL %d, ended %d s ago", ttl, -left)
	}
	return ""
}

// With random interleavings of stores, hits, expiries, evictions and flushes,
// neither the fast path nor the chain ever answers with the wrong name, type,
// identifier, rcode, or a TTL above what is left.
func TestNoAnswerIsEverWrongOnEitherPath(t *testing.T) {
	answered := 0
	rapid.Check(t, func(rt *rapid.T) {
		st := rapid.SampledFrom([]Stale{{}, {UpTo: 20 * time.Second, ResponseTTL: 30 * time.Second, Recheck: 5 * time.Second}}).Draw(rt, "stale")
		l := &ledger{}
		b := bareServer(t, Config{
			MaxMem: MinMaxMemory, Success: Side{Capacity: MinCapacity, MinTTL: -1}, Denial: Side{Capacity: MinCapacity, MinTTL: -1},
			Stale: st, Prefetch: Prefetch{Amount: rapid.IntRange(0, 2).Draw(rt, "prefetch"), Percentage: 50},
		}, l)
		l.now = b.clock
		run := &interleaving{rt: rt, b: b, l: l, stale: &st}
		for range rapid.IntRange(1, 30).Draw(rt, "rounds") {
			run.round()
		}
		answered += run.fast
	})
	if answered == 0 {
		t.Error("the fast path answered nothing")
	}
	t.Logf("%d answers by the fast path", answered)
}

type interleaving struct {
	rt    *rapid.T
	b     *bare
	l     *ledger
	stale *Stale
	fast  int
}

// round does one thing; bursts do several at once.
func (i *interleaving) round() {
	switch rapid.IntRange(0, 5).Draw(i.rt, "do") {
	case 0: // time goes on, but not between a response and its arrival
		i.b.cache.refreshes.Wait()
		step := time.Duration(rapid.SampledFrom([]int{1, 300, 1000, 1001, 2500, 8000, 30000}).Draw(i.rt, "ms")) * time.Millisecond
		i.b.mu.Lock()
		i.b.clock = i.b.clock.Add(step)
		i.b.mu.Unlock()
		i.l.mu.Lock()
		i.l.now = i.l.now.Add(step)
		i.l.mu.Unlock()
	case 1: // a flood pushes others out
		from := rapid.IntRange(0, 1<<20).Draw(i.rt, "from")
		for k := range 500 {
			p, _ := question(fmt.Sprintf("f%d.example.", from+k), dns.TypeA).Pack()
			i.b.chain(p)
		}
	case 2: // nothing of before may come after a flush, but for refreshes under way
		if i.b.cache.cfg.Prefetch.Amount == 0 && i.stale.UpTo == 0 {
			i.b.cache.flush(&selector{name: []byte{0}, below: true})
			i.l.mu.Lock()
			i.l.epoch++
			i.l.mu.Unlock()
		}
	default:
		i.burst()
	}
}

// burst asks from several goroutines; one of them is the fast path's worker.
func (i *interleaving) burst() {
	var packets [4][][]byte
	for g := range packets {
		for range rapid.IntRange(1, 12).Draw(i.rt, "questions") {
			m := question(rapid.SampledFrom([]string{"a.example.", "B.example.", "b.Example.", "x.a.example."}).Draw(i.rt, "name"),
				rapid.SampledFrom([]uint16{dns.TypeA, dns.TypeAAAA}).Draw(i.rt, "type"))
			m.Id = rapid.Uint16().Draw(i.rt, "id")
			if rapid.Bool().Draw(i.rt, "edns") {
				m.SetEdns0(1232, rapid.Bool().Draw(i.rt, "do"))
			}
			p, _ := m.Pack()
			packets[g] = append(packets[g], p)
		}
	}
	epoch := i.l.epoch
	flushes := rapid.IntRange(0, 3).Draw(i.rt, "flush") == 0 // beside the questions: its effect on them is open
	var wg sync.WaitGroup
	problems := make(chan string, 64)
	check := func(p, reply []byte) {
		if bad := i.l.wrong(p, reply, epoch, i.stale); bad != "" {
			problems <- fmt.Sprintf("%s\nquery %x\nreply %x", bad, p, reply)
		}
	}
	for g, list := range packets {
		wg.Go(func() {
			for k, p := range list {
				if flushes && k == 3 {
					i.b.cache.flush(&selector{name: []byte{0}, below: true})
				}
				if g > 0 {
					check(p, i.b.chain(p))
				} else if reply, _ := i.b.fast(p); reply != nil {
					i.fast++
					check(p, reply)
				}
			}
		})
	}
	wg.Wait()
	close(problems)
	for bad := range problems {
		i.rt.Fatal(bad)
	}
}
