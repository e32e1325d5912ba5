//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// ledger is a source with distinct responses: each has a number in its data, under
// which the ledger records it.
type ledger struct {
	mu    sync.Mutex // guards all below
	now   time.Time
	said  []statement // by number
	epoch int         // counts flushes
	dead  bool        // fails without a response
	hanging
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
	l.pass(w)
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return dns.RcodeServerFailure, errors.New("no upstream")
	}
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

// wrong returns the fault of reply, the answer to p, or "". p was asked when since
// flushes had ended. fast says that the reply is from the fast path.
func (l *ledger) wrong(p, reply []byte, since int, cfg *Config, fast bool) string {
	stale := &cfg.Stale
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
	if m.Rcode == dns.RcodeServerFailure { // the source was dead, and the cache may keep that
		if fast && cfg.ServFail < 0 {
			return "a SERVFAIL that was not to be kept"
		}
		return ""
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
	most := uint32(max(0, left)) // TTL of the reply
	if left <= 0 {
		most = uint32(stale.ResponseTTL / time.Second)
	}
	if cfg.KeepTTL && (left > 0 || most == 0) {
		most = s.ttl
	}
	disable := cfg.Success.Disable
	if len(m.Answer) == 0 {
		disable = cfg.Denial.Disable
	}
	switch {
	case fast && slices.ContainsFunc(disable, func(z string) bool { return dns.IsSubDomain(z, name) }):
		return "from a zone that is not kept"
	case fast && left <= 0 && stale.Verify && stale.VerifyTimeout == 0 && stale.Recheck == 0:
		return "stale, and the source was not asked first"
	case s.name != name || s.qtype != q.Question[0].Qtype:
		return fmt.Sprintf("it was said of %s %d", s.name, s.qtype)
	case s.rcode != m.Rcode:
		return "rcode"
	case s.epoch < since:
		return "flushed"
	case left > 0 && ttl > most:
		return fmt.Sprintf("TTL %d, %d left", ttl, left)
	case left <= 0 && (stale.UpTo == 0 || time.Duration(-left)*time.Second > stale.UpTo || ttl > most):
		return fmt.Sprintf("TTL %d, ended %d s ago", ttl, -left)
	}
	return ""
}

// With random interleavings of stores, hits, expiries, evictions and flushes,
// neither the fast path nor the chain ever answers with the wrong name, type,
// identifier, rcode, or a TTL above the remaining one.
func TestNoAnswerIsEverWrongOnEitherPath(t *testing.T) {
	answered := 0
	rapid.Check(t, func(rt *rapid.T) {
		cfg := drawPolicy(rt)
		cfg.MaxMem = MinMaxMemory
		cfg.Success.Capacity, cfg.Success.MinTTL = MinCapacity, -1
		cfg.Denial.Capacity, cfg.Denial.MinTTL = MinCapacity, -1
		if cfg.Stale.UpTo > 0 {
			cfg.Stale.UpTo = 20 * time.Second
		}
		l := &ledger{}
		defer l.release()
		b := bareServer(t, cfg, l)
		l.now = b.clock
		run := &interleaving{rt: rt, b: b, l: l, cfg: &cfg}
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

// drawPolicy draws all options that decide how a query is answered. Both random
// tests of the fast path use its zones.
func drawPolicy(t *rapid.T) Config {
	const second = time.Second
	return Config{
		KeepTTL:  rapid.Bool().Draw(t, "keepttl"),
		ServFail: rapid.SampledFrom([]time.Duration{0, -1}).Draw(t, "servfail"),
		Success:  Side{Disable: rapid.SampledFrom([][]string{nil, nil, {"b.example."}, {"one.example.org."}, {"."}}).Draw(t, "disable success")},
		Denial:   Side{Disable: rapid.SampledFrom([][]string{nil, nil, {"a.example."}, {"nx.example.org."}, {"."}}).Draw(t, "disable denial")},
		Stale: rapid.SampledFrom([]Stale{
			{},
			{UpTo: time.Hour, ResponseTTL: 30 * second, Recheck: 5 * second},
			{UpTo: time.Hour},
			{UpTo: time.Hour, Verify: true},
			{UpTo: time.Hour, Verify: true, ResponseTTL: 30 * second},
			{UpTo: time.Hour, Verify: true, VerifyTimeout: time.Millisecond},
			{UpTo: time.Hour, Verify: true, VerifyTimeout: time.Millisecond, ResponseTTL: 30 * second, Recheck: 30 * second},
			{UpTo: time.Hour, Verify: true, Recheck: 5 * second},
		}).Draw(t, "stale"),
		Prefetch: Prefetch{Amount: rapid.IntRange(0, 2).Draw(t, "prefetch"), Percentage: 50},
	}
}

type interleaving struct {
	rt   *rapid.T
	b    *bare
	l    *ledger
	cfg  *Config
	fast int
}

// round takes one random action.
func (i *interleaving) round() {
	switch rapid.IntRange(0, 7).Draw(i.rt, "do") {
	case 0: // advance the clock, but not between a response and its arrival
		if !i.l.hangs() {
			i.b.cache.refreshes.Wait()
		}
		step := time.Duration(rapid.SampledFrom([]int{1, 300, 1000, 1001, 2500, 8000, 30000}).Draw(i.rt, "ms")) * time.Millisecond
		i.b.step(step)
		i.l.mu.Lock()
		i.l.now = i.l.now.Add(step)
		i.l.mu.Unlock()
	case 1: // a flood evicts other entries
		from := rapid.IntRange(0, 1<<20).Draw(i.rt, "from")
		for k := range 500 {
			p, _ := question(fmt.Sprintf("f%d.example.", from+k), dns.TypeA).Pack()
			i.b.chain(p)
		}
	case 2: // no older answer may come after a flush, except from running refreshes
		if i.b.cache.cfg.Prefetch.Amount == 0 && i.cfg.Stale.UpTo == 0 {
			i.b.cache.flush(&selector{name: []byte{0}, below: true})
			i.l.mu.Lock()
			i.l.epoch++
			i.l.mu.Unlock()
		}
	case 3: // the source fails, or works again
		i.l.mu.Lock()
		i.l.dead = !i.l.dead
		i.l.mu.Unlock()
	case 4: // refreshes hang, or no longer hang
		if i.l.hangs() {
			i.l.release()
		} else {
			i.b.cache.refreshes.Wait()
			i.l.hang()
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
	flushes := rapid.IntRange(0, 3).Draw(i.rt, "flush") == 0 // during the questions, so it may affect them or not
	var wg sync.WaitGroup
	problems := make(chan string, 64)
	check := func(p, reply []byte, fast bool) {
		if bad := i.l.wrong(p, reply, epoch, i.cfg, fast); bad != "" {
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
					check(p, i.b.chain(p), false)
				} else if reply, _ := i.b.fast(p); reply != nil {
					i.fast++
					check(p, reply, true)
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
