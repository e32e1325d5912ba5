package dnsplugin

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// One test for each rule of the DNS that a cache can break. internal/wire tests the
// rules for parsing and patching bytes, and internal/store the rules that only the
// store can break (collisions, eviction).

const soa300 = "example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 300"

func nx(m *dns.Msg) { m.Rcode = dns.RcodeNameError }

// RFC 2181, section 5.2.
func TestRecordsOfAnAnswerShareOneTTLThatIsAgedBySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cacheOf(t, Config{}, says(nil, "a.example.org. 60 IN CNAME b.example.org.", "b.example.org. 40 IN A 192.0.2.1", "b.example.org. 50 IN A 192.0.2.2"))
		for _, tt := range []struct {
			wait time.Duration
			ttl  uint32
		}{{0, 40}, {0, 40}, {999 * time.Millisecond, 40}, {time.Millisecond, 39}, {38 * time.Second, 1}} {
			time.Sleep(tt.wait)
			m := ask(t, c, question("a.example.org.", dns.TypeA))
			if got := ttls(m); !slices.Equal(got, []uint32{tt.ttl, tt.ttl, tt.ttl}) {
				t.Errorf("TTLs %v, want %d", got, tt.ttl)
			}
		}
		if c.Next.(*source).count() != 1 {
			t.Error("asked more than once")
		}
		time.Sleep(time.Second)
		ask(t, c, question("a.example.org.", dns.TypeA))
		if c.Next.(*source).count() != 2 {
			t.Error("served beyond its TTL")
		}
	})
}

func TestTTLIsWithinCapAndFloor(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		ttl  int
		want uint32
	}{
		{Config{}, 1 << 20, 3600},
		{Config{Success: Side{TTL: 10 * time.Second}}, 60, 10},
		{Config{}, 1, 5},
		{Config{Success: Side{MinTTL: -1}}, 1, 1},
		{Config{Success: Side{MinTTL: 20 * time.Second}}, 1, 20},
	} {
		c := cacheOf(t, tt.cfg, says(nil, fmt.Sprintf("example.org. %d IN A 192.0.2.1", tt.ttl)))
		for range 2 {
			if got := ttls(ask(t, c, question("example.org.", dns.TypeA))); got[0] != tt.want {
				t.Errorf("%+v: TTL %d, want %d", tt.cfg, got[0], tt.want)
			}
		}
	}
}

// RFC 2181, section 8.
func TestTTLWithTopBitCountsAsZero(t *testing.T) {
	s := says(func(m *dns.Msg) { m.Answer[0].Header().Ttl = 1 << 31 }, "example.org. 0 IN A 192.0.2.1")
	c := cacheOf(t, Config{Success: Side{MinTTL: -1}}, s)
	for range 2 {
		if got := ttls(ask(t, c, question("example.org.", dns.TypeA))); got[0] != 0 {
			t.Errorf("TTL %d", got[0])
		}
	}
	if s.count() != 2 {
		t.Error("cached an answer with TTL 0")
	}
}

// 0x20: the question comes back letter for letter, for one entry.
func TestReplyHasIDQuestionAndFlagsOfTheQuery(t *testing.T) {
	s := says(func(m *dns.Msg) { m.RecursionAvailable, m.Authoritative = true, true }, "example.org. 60 IN A 192.0.2.1")
	c := cacheOf(t, Config{}, s)
	for i, name := range []string{"example.org.", "eXaMpLe.oRg.", "EXAMPLE.ORG."} {
		r := question(name, dns.TypeA, func(m *dns.Msg) { m.Id = uint16(1000 + i); m.RecursionDesired = i != 1 })
		m := ask(t, c, r)
		if m.Id != r.Id || m.Question[0].Name != name || m.RecursionDesired != r.RecursionDesired || !m.RecursionAvailable || !m.Authoritative || !m.Response {
			t.Errorf("%v", m)
		}
	}
	if s.count() != 1 {
		t.Errorf("%d entries for one name", s.count())
	}
}

// RFC 2181, section 10.1.
func TestTwoTargetsOfOneCNAMEAreNotCached(t *testing.T) {
	s := says(nil, "example.org. 60 IN CNAME a.example.org.", "example.org. 60 IN CNAME b.example.org.", "a.example.org. 60 IN A 192.0.2.1")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	ask(t, c, question("example.org.", dns.TypeA))
	if s.count() != 2 {
		t.Error("cached")
	}
}

func TestCNAMELoopIsNotCached(t *testing.T) {
	s := says(nil, "example.org. 60 IN CNAME a.example.org.", "a.example.org. 60 IN CNAME example.org.")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	ask(t, c, question("example.org.", dns.TypeA))
	if s.count() != 2 {
		t.Error("cached")
	}
}

// RFC 2181, section 5.4.1: additional and authority data do not answer a question.
func TestAdditionalDataIsNotServedAsAnswer(t *testing.T) {
	s := says(func(m *dns.Msg) {
		rr, _ := dns.NewRR("ns.example.org. 60 IN A 198.51.100.66")
		m.Extra = append(m.Extra, rr)
	}, "example.org. 60 IN A 192.0.2.1", "example.org. 60 IN NS ns.example.org.")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	s.say(nil, "ns.example.org. 60 IN A 192.0.2.53")
	if m := ask(t, c, question("ns.example.org.", dns.TypeA)); m.Answer[0].(*dns.A).A.String() != "192.0.2.53" {
		t.Errorf("glue served as answer: %v", m)
	}
}

// RFC 2308, section 5.
func TestDenialIsKeptForTheSmallerOfSOATTLAndMinimum(t *testing.T) {
	for _, tt := range []struct {
		soa  string
		want uint32
	}{
		{"example.org. 300 IN SOA ns. host. 1 2 3 4 60", 60},
		{"example.org. 30 IN SOA ns. host. 1 2 3 4 600", 30},
		{"example.org. 300000 IN SOA ns. host. 1 2 3 4 300000", 1800},
	} {
		for _, edit := range []func(*dns.Msg){nx, nil} {
			c := cacheOf(t, Config{}, says(edit, tt.soa))
			for range 2 {
				if got := ttls(ask(t, c, question("a.example.org.", dns.TypeA))); got[0] != tt.want {
					t.Errorf("%s: TTL %d, want %d", tt.soa, got[0], tt.want)
				}
			}
		}
	}
}

func TestNXDOMAINAndNODATAAreKeptApart(t *testing.T) {
	s := says(nil, soa300)
	c := cacheOf(t, Config{}, s)
	for range 2 {
		if m := ask(t, c, question("a.example.org.", dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Ns) != 1 {
			t.Errorf("NODATA: %v", m)
		}
	}
	s.say(nx, soa300)
	for range 2 {
		if m := ask(t, c, question("b.example.org.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("NXDOMAIN: %v", m)
		}
		if m := ask(t, c, question("a.example.org.", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
			t.Errorf("NODATA became NXDOMAIN: %v", m)
		}
	}
	if s.count() != 2 {
		t.Errorf("asked %d times", s.count())
	}
}

// RFC 2308, section 2.2: a CNAME chain without an end is NODATA if there is a SOA.
func TestCNAMEChainWithoutDataIsADenial(t *testing.T) {
	s := says(nil, "example.org. 3000 IN CNAME a.example.org.", "example.org. 3000 IN SOA ns. host. 1 2 3 4 20")
	c := cacheOf(t, Config{}, s)
	for range 2 {
		if got := ttls(ask(t, c, question("example.org.", dns.TypeA))); got[0] != 20 {
			t.Errorf("TTL %d", got[0])
		}
	}
	if s.count() != 1 || c.sides.Denial.Store.Len() != 1 {
		t.Error("not kept as a denial")
	}
}

func TestDenialWithoutSOAIsNotCached(t *testing.T) {
	for name, s := range map[string]*source{
		"NXDOMAIN":     says(nx),
		"broken chain": says(nil, "example.org. 3000 IN CNAME a.example.org."),
	} {
		c := cacheOf(t, Config{}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		ask(t, c, question("example.org.", dns.TypeA))
		if s.count() != 2 {
			t.Errorf("%s was cached", name)
		}
	}
}

// RFC 2308, section 7.
func TestServFailIsKeptForItsTimeAndNeverStale(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		kept time.Duration
	}{
		{Config{}, 5 * time.Second},
		{Config{ServFail: 2 * time.Minute}, 2 * time.Minute},
		{Config{ServFail: -1}, 0},
		{Config{ServFail: MaxServFail, Stale: Stale{UpTo: 24 * time.Hour}}, MaxServFail},
	} {
		for _, die := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := says(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
				if die {
					s.dies()
				}
				c := cacheOf(t, tt.cfg, s)
				want := 1
				ask(t, c, question("example.org.", dns.TypeA))
				if tt.kept > 0 {
					time.Sleep(tt.kept - time.Millisecond)
					if m := ask(t, c, question("example.org.", dns.TypeA)); m == nil || m.Rcode != dns.RcodeServerFailure {
						t.Errorf("%v", m)
					}
					time.Sleep(time.Millisecond)
				}
				if s.count() != want {
					t.Errorf("%v: asked %d times within %v", tt.cfg.ServFail, s.count(), tt.kept)
				}
				ask(t, c, question("example.org.", dns.TypeA))
				if s.count() != want+1 {
					t.Errorf("%v: SERVFAIL served after its time", tt.cfg.ServFail)
				}
			})
		}
	}
}

func TestServFailDoesNotHideASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 100 IN A 192.0.2.1")
		c := cacheOf(t, Config{ServFail: time.Minute, Prefetch: Prefetch{Amount: 1, Percentage: 90}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		s.say(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
		time.Sleep(50 * time.Second)
		for range 3 { // the first one starts a refresh, which brings SERVFAIL
			if m := ask(t, c, question("example.org.", dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
			synctest.Wait()
		}
		if c.sides.Denial.Store.Len() != 1 {
			t.Error("the test does not test what it says")
		}
	})
}

// RFC 6891, sections 6.1.1 and 7: OPT is between two hosts.
func TestOPTIsNeverCachedAndFollowsTheQuery(t *testing.T) {
	s := says(func(m *dns.Msg) {
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "00112233445566778899aabbccddeeff"})
	}, "example.org. 60 IN A 192.0.2.1")
	c := cacheOf(t, Config{}, s)
	for i := range 4 {
		r := question("example.org.", dns.TypeA)
		if i >= 2 {
			r.SetEdns0(1400, true)
			r.IsEdns0().Option = append(r.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
		}
		// As in a server, where this writer makes the OPT of the reply.
		w := &clientWriter{}
		if _, err := c.ServeDNS(t.Context(), request.NewScrubWriter(r.Copy(), w), r); err != nil {
			t.Fatal(err)
		}
		opts := 0
		for _, rr := range w.last().Extra {
			if o, ok := rr.(*dns.OPT); ok {
				opts++
				if !o.Do() || o.UDPSize() != 1400 || len(o.Option) != 0 || o.ExtendedRcode() != 0 || o.Version() != 0 {
					t.Errorf("query %d: %v", i, o)
				}
			}
		}
		if want := i / 2; opts != want {
			t.Errorf("query %d: %d OPT, want %d", i, opts, want)
		}
	}
	// Two entries: without and with DO.
	if s.count() != 2 {
		t.Errorf("asked %d times", s.count())
	}
}

func ecs(bits, scope uint8) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: bits, SourceScope: scope, Address: []byte{192, 0, 2, 0}}}
	}
}

// RFC 7871, section 7.3: an answer for one subnet is not for the others.
func TestECSNeverPollutesTheCache(t *testing.T) {
	s := says(nil, "example.org. 60 IN A 198.51.100.66")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA, ecs(24, 0)))
	s.say(nil, "example.org. 60 IN A 192.0.2.1")
	if m := ask(t, c, question("example.org.", dns.TypeA)); m.Answer[0].(*dns.A).A.String() != "192.0.2.1" {
		t.Error("a subnet's answer went to everyone")
	}
	s.say(nil, "example.org. 60 IN A 198.51.100.66")
	if m := ask(t, c, question("example.org.", dns.TypeA, ecs(24, 0))); m.Answer[0].(*dns.A).A.String() != "198.51.100.66" {
		t.Error("a subnet got everyone's answer")
	}
	if s.count() != 3 {
		t.Errorf("asked %d times", s.count())
	}
	if m := ask(t, c, question("example.org.", dns.TypeA, ecs(0, 0))); m.Answer[0].(*dns.A).A.String() != "192.0.2.1" || s.count() != 3 {
		t.Error("a prefix of 0 is an ordinary question")
	}
}

func TestAnswerWithAScopeIsNotCached(t *testing.T) {
	s := says(ecs(24, 24), "example.org. 60 IN A 192.0.2.1")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	ask(t, c, question("example.org.", dns.TypeA))
	if s.count() != 2 {
		t.Error("cached")
	}
	s.say(ecs(24, 0), "example.org. 60 IN A 192.0.2.1")
	ask(t, c, question("example.org.", dns.TypeA))
	ask(t, c, question("example.org.", dns.TypeA))
	if s.count() != 3 {
		t.Error("scope 0 is for everyone, but was not cached")
	}
}

// RFC 8020 is off unless asked for (nxcut_test.go): cluster.local. exists although local. does not.
func TestNXDOMAINDoesNotHideNamesBelow(t *testing.T) {
	s := says(nx, "local. 300 IN SOA ns. host. 1 2 3 4 300")
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("local.", dns.TypeA))
	s.say(nil, "a.cluster.local. 60 IN A 192.0.2.1")
	if m := ask(t, c, question("a.cluster.local.", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("%v", m)
	}
}

// RFC 8482 for ANY. Transfers and other query-only types have no single answer.
func TestQueryOnlyTypesAreNotCached(t *testing.T) {
	for _, qtype := range []uint16{dns.TypeANY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTSIG, dns.TypeOPT} {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{}, s)
		ask(t, c, question("example.org.", qtype))
		ask(t, c, question("example.org.", qtype))
		if s.count() != 2 {
			t.Errorf("type %s was cached", dns.TypeToString[qtype])
		}
	}
}

func TestOtherOpcodesAndQuestionCountsPassUnchanged(t *testing.T) {
	for name, edit := range map[string]func(*dns.Msg){
		"update":        func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
		"notify":        func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"two questions": func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"no question":   func(m *dns.Msg) { m.Question = nil },
	} {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		s.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			return dns.RcodeSuccess, w.WriteMsg(new(dns.Msg))
		}
		c := cacheOf(t, Config{}, s)
		for range 2 {
			r := question("example.org.", dns.TypeA, edit)
			w := &clientWriter{}
			if _, err := c.ServeDNS(t.Context(), w, r); err != nil || w.last() == nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s.count() != 2 || s.asked[0].AuthenticatedData {
			t.Errorf("%s: asked %d times, with %v", name, s.count(), s.asked)
		}
	}
}

// RFC 4035: DO and CD select other answers; RRSIGs stay with their records.
func TestDOAndCDHaveEntriesOfTheirOwn(t *testing.T) {
	s := &source{}
	s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		rrs := []string{fmt.Sprintf("example.org. 60 IN TXT \"do=%v cd=%v\"", wantsDNSSEC(r), r.CheckingDisabled)}
		if wantsDNSSEC(r) {
			rrs = append(rrs, "example.org. 60 IN RRSIG TXT 8 2 60 20990101000000 20200101000000 1 example.org. AAAA")
		}
		return says(nil, rrs...).answer(ctx, w, r)
	}
	c := cacheOf(t, Config{}, s)
	for range 2 {
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				r := question("example.org.", dns.TypeTXT, func(m *dns.Msg) { m.CheckingDisabled = cd; m.SetEdns0(1232, do) })
				m := ask(t, c, r)
				want := fmt.Sprintf("do=%v cd=%v", do, cd)
				if m.Answer[0].(*dns.TXT).Txt[0] != want || m.CheckingDisabled != cd || (len(m.Answer) == 2) != do {
					t.Errorf("%s: %v", want, m)
				}
			}
		}
	}
	if s.count() != 4 {
		t.Errorf("asked %d times", s.count())
	}
}

// RFC 6840, sections 5.7 and 5.8.
func TestADIsSentOnRequestOnly(t *testing.T) {
	s := says(func(m *dns.Msg) { m.AuthenticatedData = true }, "example.org. 60 IN A 192.0.2.1")
	c := cacheOf(t, Config{}, s)
	for range 2 {
		for _, tt := range []struct{ ad, do, want bool }{{false, false, false}, {true, false, true}, {false, true, true}, {true, true, true}} {
			m := ask(t, c, question("example.org.", dns.TypeA, func(m *dns.Msg) {
				m.AuthenticatedData = tt.ad
				if tt.do {
					m.SetEdns0(1232, true)
				}
			}))
			if m.AuthenticatedData != tt.want {
				t.Errorf("ad=%v do=%v: AD %v", tt.ad, tt.do, m.AuthenticatedData)
			}
		}
	}
	for _, r := range s.asked {
		if !r.AuthenticatedData {
			t.Error("the source was not asked for AD, which other clients of the entry may want")
		}
	}
}

// RFC 4035, section 5.3.3.
func TestAnswerIsNotKeptBeyondItsSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fake time starts in 2000
		until := time.Now().Add(20 * time.Second).UTC().Format("20060102150405")
		s := says(nil, "example.org. 600 IN A 192.0.2.1", "example.org. 600 IN RRSIG A 8 2 600 "+until+" 19990101000000 1 example.org. AAAA")
		c := cacheOf(t, Config{}, s)
		if got := ttls(ask(t, c, question("example.org.", dns.TypeA))); got[0] != 20 {
			t.Errorf("TTL %d", got[0])
		}
	})
}

// RFC 5452, section 9.1.
func TestResponseToAnotherQuestionIsNotCached(t *testing.T) {
	for name, edit := range map[string]func(*dns.Msg){
		"name":        func(m *dns.Msg) { m.Question[0].Name = "other.org." },
		"type":        func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":       func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"no question": func(m *dns.Msg) { m.Question = nil },
		"no response": func(m *dns.Msg) { m.Response = false },
	} {
		s := says(edit, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		ask(t, c, question("example.org.", dns.TypeA))
		if s.count() != 2 || c.sides.Success.Store.Len()+c.sides.Denial.Store.Len() != 0 {
			t.Errorf("%s: cached", name)
		}
	}
}

func TestTruncatedAndRefusedResponsesAreNotCached(t *testing.T) {
	for name, edit := range map[string]func(*dns.Msg){
		"truncated":               func(m *dns.Msg) { m.Truncated = true },
		"refused":                 func(m *dns.Msg) { m.Rcode = dns.RcodeRefused },
		"formerr":                 func(m *dns.Msg) { m.Rcode = dns.RcodeFormatError },
		"notauth":                 func(m *dns.Msg) { m.Rcode = dns.RcodeNotAuth },
		"NXDOMAIN with an answer": func(m *dns.Msg) { m.Rcode = dns.RcodeNameError },
	} {
		s := says(edit, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		ask(t, c, question("example.org.", dns.TypeA))
		if s.count() != 2 {
			t.Errorf("%s: cached", name)
		}
	}
}

// An answer without any record, which some servers give for unknown types, is kept
// for MINTTL, as in CoreDNS.
func TestAnswerWithoutAnyRecordIsKeptForTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil)
		c := cacheOf(t, Config{}, s)
		for _, step := range []struct {
			wait  time.Duration
			query int
		}{{0, 1}, {DefaultMinTTL - time.Second, 1}, {time.Second, 2}} {
			time.Sleep(step.wait)
			ask(t, c, question("example.org.", dns.TypeA))
			if s.count() != step.query {
				t.Errorf("%d questions, want %d", s.count(), step.query)
			}
		}
	})
}

// A headless service of many pods: too large for the client's UDP, whole over TCP.
func TestAnswerLargerThanTheClientsSizeIsTruncatedForItAlone(t *testing.T) {
	var rrs []string
	for i := range 300 {
		rrs = append(rrs, fmt.Sprintf("example.org. 60 IN A 10.0.%d.%d", i/200, i%200))
	}
	s := says(nil, rrs...)
	c := cacheOf(t, Config{}, s)
	ask(t, c, question("example.org.", dns.TypeA))
	for _, tt := range []struct {
		tcp  bool
		edns uint16
		tc   bool
	}{{false, 0, true}, {false, 1232, true}, {false, 8192, false}, {true, 0, false}} {
		r := question("example.org.", dns.TypeA)
		limit := 512
		if tt.edns > 0 {
			r.SetEdns0(tt.edns, false)
			limit = int(tt.edns)
		}
		w := &clientWriter{tcp: tt.tcp}
		if _, err := c.ServeDNS(t.Context(), request.NewScrubWriter(r.Copy(), w), r); err != nil {
			t.Fatal(err)
		}
		m := w.last()
		b, err := m.Pack()
		if err != nil || m.Truncated != tt.tc || (!tt.tcp && len(b) > limit) || (!tt.tc && len(m.Answer) != 300) {
			t.Errorf("%+v: %d bytes, %d records, TC %v, %v", tt, len(b), len(m.Answer), m.Truncated, err)
		}
	}
	if s.count() != 1 {
		t.Errorf("asked %d times", s.count())
	}
}

// An answer with more records than fit into 64 KiB is never sent from the cache.
func TestAnswerTooLargeForAMessageIsNotCached(t *testing.T) {
	s := says(func(m *dns.Msg) {
		for i := range 5000 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{10, 1, byte(i >> 8), byte(i)}})
		}
	})
	c := cacheOf(t, Config{}, s)
	for range 2 {
		if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 5000 {
			t.Errorf("%d records", len(m.Answer))
		}
	}
	if s.count() != 2 || c.sides.Success.Store.Len() != 0 {
		t.Error("cached")
	}
}

// The stored bytes are a message as a server sends it.
func TestStoredBytesAreAValidMessage(t *testing.T) {
	c := cacheOf(t, Config{}, says(nil, "example.org. 60 IN MX 10 mail.example.org."))
	ask(t, c, question("example.org.", dns.TypeMX))
	id, ok := c.identify(question("example.ORG.", dns.TypeMX), nil)
	if !ok {
		t.Fatal("no key")
	}
	e := c.sides.Success.Store.Get(id.Hash, id.Key, c.sides.Instant(time.Now()))
	if e == nil {
		t.Fatal("no entry")
	}
	a := e.Answer()
	m := new(dns.Msg)
	if err := m.Unpack(a.Msg()); err != nil || m.Id != 0 || m.Answer[0].(*dns.MX).Mx != "mail.example.org." {
		t.Errorf("%v %v", m, err)
	}
	if !bytes.Contains(a.Msg(), []byte{0xc0, 12}) {
		t.Error("not compressed")
	}
}

// RFC 6891, section 6.1.3: BADVERS, BADCOOKIE and the like are about the sender of a
// query, and half of their code is in the OPT, which is not kept.
func TestExtendedResponseCodesAreNotCached(t *testing.T) {
	for _, rcode := range []int{dns.RcodeBadVers, dns.RcodeBadCookie, dns.RcodeBadTime} {
		s := says(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.Rcode = rcode
		}, soa300)
		c := cacheOf(t, Config{}, s)
		for range 2 {
			if m := ask(t, c, question("example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })); m.Rcode != rcode {
				t.Errorf("code %d became %d", rcode, m.Rcode)
			}
		}
		if s.count() != 2 {
			t.Errorf("code %d was cached", rcode)
		}
	}
}

// RFC 8198 is not applied: the proof of a gap between names does not answer a
// question about another name in the gap.
func TestProofOfAGapIsForItsQuestionAlone(t *testing.T) {
	s := says(func(m *dns.Msg) {
		m.Rcode = dns.RcodeNameError
		m.AuthenticatedData = true
		for _, text := range []string{
			"a.example.org. 300 IN NSEC z.example.org. A RRSIG NSEC",
			"a.example.org. 300 IN RRSIG NSEC 8 3 300 20990101000000 20200101000000 1 example.org. AAAA",
		} {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			m.Ns = append(m.Ns, rr)
		}
	}, soa300)
	c := cacheOf(t, Config{}, s)
	do := func(m *dns.Msg) { m.SetEdns0(1232, true) }
	for range 2 {
		for _, name := range []string{"b.example.org.", "c.example.org."} {
			if m := ask(t, c, question(name, dns.TypeA, do)); m.Rcode != dns.RcodeNameError || len(m.Ns) != 3 {
				t.Errorf("%v", m)
			}
		}
	}
	if s.count() != 2 {
		t.Errorf("asked %d times about two names", s.count())
	}
}

// What a pod with ndots:5 asks for one name from outside: each name of the search path is
// a denial of its own, for A and for AAAA, and none of them is asked for twice.
func TestSearchPathIsQueriedOnce(t *testing.T) {
	const outside = "www.example.com."
	denied, found, noData := says(nx, soa300), says(nil, outside+" 30 IN A 192.0.2.1"), says(nil, soa300)
	s := &source{}
	s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		switch q := r.Question[0]; {
		case q.Name != outside:
			return denied.answer(ctx, w, r)
		case q.Qtype == dns.TypeA:
			return found.answer(ctx, w, r)
		}
		return noData.answer(ctx, w, r)
	}
	c := cacheOf(t, Config{}, s)
	path := []string{"default.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "eu-west-1.compute.internal.", ""}
	for range 3 {
		for _, suffix := range path {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				m := ask(t, c, question(outside+suffix, qtype))
				want := dns.RcodeNameError
				if suffix == "" {
					want = dns.RcodeSuccess
				}
				if m.Rcode != want || (len(m.Answer) == 1) != (suffix == "" && qtype == dns.TypeA) {
					t.Errorf("%s%s: %v", outside, suffix, m)
				}
			}
		}
	}
	if want := 2 * len(path); s.count() != want {
		t.Errorf("asked %d times, want %d", s.count(), want)
	}
}
