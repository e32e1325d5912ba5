package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// packQuery packs a query that the parser must accept unless edit spoils it.
func packQuery(t testing.TB, name string, qtype uint16, edit func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.Id = 0x1234
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func packAnswer(t testing.TB, name string, qtype uint16, edit func(*dns.Msg), records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.Response, m.Compress = true, true
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseQuery(t *testing.T) {
	pkt := packQuery(t, "wWw.Example.ORG.", dns.TypeAAAA, func(m *dns.Msg) {
		m.CheckingDisabled, m.AuthenticatedData = true, true
		m.SetEdns0(1232, true)
	})
	var q wire.Query
	if why := wire.ParseQuery(pkt, &q); why != wire.OK {
		t.Fatal(why)
	}
	want := wire.Query{
		ID: 0x1234, Type: dns.TypeAAAA, Class: dns.ClassINET, UDPSize: 1232, NameLen: 17,
		RD: true, AD: true, CD: true, OPT: true, DO: true,
	}
	if q != want {
		t.Errorf("got  %+v\nwant %+v", q, want)
	}
	if got := string(q.Name(pkt)); got != "\x03wWw\x07Example\x03ORG\x00" {
		t.Errorf("name %q", got)
	}
}

func TestParseQueryDeclinesEverythingOdd(t *testing.T) {
	opt := func(o ...dns.EDNS0) func(*dns.Msg) {
		return func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = o
		}
	}
	raw := func(f func(b []byte) []byte) []byte { return f(packQuery(t, "example.org.", dns.TypeA, opt())) }
	tests := []struct {
		name string
		pkt  []byte
		want wire.Reason
	}{
		{"empty", nil, wire.Short},
		{"header only", make([]byte, 12), wire.Counts},
		{"response", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Response = true }), wire.NotAQuery},
		{"notify", packQuery(t, "example.org.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), wire.NotAQuery},
		{"update", packQuery(t, "example.org.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), wire.NotAQuery},
		{"truncated bit", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Truncated = true }), wire.NotAQuery},
		{"rcode", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Rcode = 3 }), wire.NotAQuery},
		{"two questions", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), wire.Counts},
		{"an answer", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Answer = []dns.RR{rr(t, "a. 1 IN A 10.0.0.1")} }), wire.Counts},
		{"two additional", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) {
			m.Extra = []dns.RR{rr(t, "a. 1 IN A 10.0.0.1"), rr(t, "a. 1 IN A 10.0.0.2")}
		}), wire.Counts},
		{"additional is no OPT", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Extra = []dns.RR{rr(t, ". 1 IN A 10.0.0.1")} }), wire.NotOPT},
		{"TSIG", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetTsig("key.", dns.HmacSHA256, 300, 0) }), wire.NotOPT},
		{"CHAOS", packQuery(t, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), wire.OtherClass},
		{"ANY", packQuery(t, "example.org.", dns.TypeANY, nil), wire.MetaType},
		{"AXFR", packQuery(t, "example.org.", dns.TypeAXFR, nil), wire.MetaType},
		{"type OPT", packQuery(t, "example.org.", dns.TypeOPT, nil), wire.MetaType},
		{"EDNS version 1", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), wire.EDNSVersion},
		{"EDNS Z bit", packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetZ(1) }), wire.EDNSVersion},
		{"ECS", packQuery(t, "example.org.", dns.TypeA, opt(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IP{192, 0, 2, 0}})), wire.EDNSOption},
		{"NSID", packQuery(t, "example.org.", dns.TypeA, opt(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})), wire.EDNSOption},
		{"cookie", packQuery(t, "example.org.", dns.TypeA, opt(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})), wire.OK},
		{"padding", packQuery(t, "example.org.", dns.TypeA, opt(&dns.EDNS0_PADDING{Padding: make([]byte, 9)})), wire.OK},
		{"cut in the name", packQuery(t, "example.org.", dns.TypeA, nil)[:16], wire.Short},
		{"cut in the question", packQuery(t, "example.org.", dns.TypeA, nil)[:27], wire.Short},
		{"cut in the OPT", raw(func(b []byte) []byte { return b[:len(b)-1] }), wire.Short},
		{"byte behind the OPT", raw(func(b []byte) []byte { return append(b, 0) }), wire.Trailing},
		{"byte behind the question", append(packQuery(t, "example.org.", dns.TypeA, nil), 0), wire.Trailing},
		{"compressed name", raw(func(b []byte) []byte { b[12] = 0xc0; return b }), wire.BadName},
		{"extended label", raw(func(b []byte) []byte { b[12] = 0x41; return b }), wire.BadName},
		{"option runs over the end", packQueryHex(t, "0006000c0009"), wire.Short},
		{"option header cut", packQueryHex(t, "0002000c"), wire.Short},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var q wire.Query
			if got := wire.ParseQuery(tt.pkt, &q); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// packQueryHex makes a query whose OPT ends with the given rdlength and data.
func packQueryHex(t *testing.T, tail string) []byte {
	t.Helper()
	pkt := packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	b, err := hex.DecodeString(tail)
	if err != nil {
		t.Fatal(err)
	}
	return append(pkt[:len(pkt)-2], b...)
}

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNameLengthLimits(t *testing.T) {
	label := strings.Repeat("a", 61)
	longest := label + "." + label + "." + label + "." + label + ".abcde." // 4*62 + 6 + 1 = 255
	var q wire.Query
	if why := wire.ParseQuery(packQuery(t, longest, dns.TypeA, nil), &q); why != wire.OK || q.NameLen != 255 {
		t.Fatalf("%v, %d bytes", why, q.NameLen)
	}
	pkt := packQuery(t, longest, dns.TypeA, nil)
	// One byte more in the last label: 256 in all.
	at := bytes.Index(pkt, []byte("\x05abcde"))
	pkt = append(pkt[:at:at], append([]byte("\x06abcdef"), pkt[at+6:]...)...)
	if why := wire.ParseQuery(pkt, &q); why != wire.BadName {
		t.Fatalf("256 bytes: %v", why)
	}
}

func TestUDPSizeBelow512Means512(t *testing.T) {
	for size, want := range map[uint16]int{0: 512, 100: 512, 512: 512, 1232: 1232} {
		var q wire.Query
		pkt := packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(size, false) })
		if why := wire.ParseQuery(pkt, &q); why != wire.OK || q.Limit() != want {
			t.Errorf("size %d: %v, limit %d, want %d", size, why, q.Limit(), want)
		}
	}
}

func TestKeyFoldsCaseAndSeparatesDOCDTypeClass(t *testing.T) {
	name := []byte("\x03wWw\x07ExAmple\x00")
	base := wire.AppendKey(nil, name, 1, 1, false, false)
	if !bytes.Equal(base, wire.AppendKey(nil, bytes.ToLower(name), 1, 1, false, false)) {
		t.Error("letter case makes another key")
	}
	seen := map[string]bool{string(base): true}
	for _, k := range [][]byte{
		wire.AppendKey(nil, name, 28, 1, false, false),
		wire.AppendKey(nil, name, 1, 3, false, false),
		wire.AppendKey(nil, name, 1, 1, true, false),
		wire.AppendKey(nil, name, 1, 1, false, true),
		wire.AppendKey(nil, name, 1, 1, true, true),
		wire.AppendKey(nil, []byte("\x03wwx\x07example\x00"), 1, 1, false, false),
	} {
		if seen[string(k)] {
			t.Errorf("key %x twice", k)
		}
		seen[string(k)] = true
	}
}

func TestReplyEchoesIDFlagsQuestionAndAges(t *testing.T) {
	a, info, err := wire.NewAnswer(packAnswer(t, "www.example.org.", dns.TypeA, func(m *dns.Msg) {
		m.Authoritative, m.RecursionAvailable, m.AuthenticatedData = true, true, true
	}, "www.example.org. 300 IN CNAME web.example.org.", "web.example.org. 60 IN A 192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	if info.MinTTL != 60 || info.Records != 2 || a.Records() != 2 || info.SOA {
		t.Errorf("info %+v", info)
	}
	for _, tt := range []struct {
		name             string
		edit             func(*dns.Msg)
		rd, cd, ad, opt  bool
		answerDO, noFlag bool
	}{
		{name: "plain", rd: true},
		{name: "no RD, CD", edit: func(m *dns.Msg) { m.RecursionDesired, m.CheckingDisabled = false, true }, cd: true},
		{name: "AD asked", edit: func(m *dns.Msg) { m.AuthenticatedData = true }, rd: true, ad: true},
		{name: "DO", edit: func(m *dns.Msg) { m.SetEdns0(1400, true) }, rd: true, ad: true, opt: true, answerDO: true},
		{name: "OPT", edit: func(m *dns.Msg) { m.SetEdns0(1400, false) }, rd: true, opt: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := packQuery(t, "wWW.eXAMPLE.org.", dns.TypeA, tt.edit)
			var q wire.Query
			if why := wire.ParseQuery(pkt, &q); why != wire.OK {
				t.Fatal(why)
			}
			b, ok := a.AppendReply([]byte("prefix"), &q, q.Question(pkt), 17, q.Limit(), nil)
			if !ok || string(b[:6]) != "prefix" {
				t.Fatal("declined")
			}
			m := new(dns.Msg)
			if err := m.Unpack(b[6:]); err != nil {
				t.Fatal(err)
			}
			if m.Id != 0x1234 || !m.Response || m.RecursionDesired != tt.rd || m.CheckingDisabled != tt.cd ||
				m.AuthenticatedData != tt.ad || !m.Authoritative || !m.RecursionAvailable || m.Truncated {
				t.Errorf("header %+v", m.MsgHdr)
			}
			if m.Question[0].Name != "wWW.eXAMPLE.org." {
				t.Errorf("question %v", m.Question)
			}
			for _, r := range m.Answer {
				if r.Header().Ttl != 17 {
					t.Errorf("TTL of %v", r)
				}
			}
			o := m.IsEdns0()
			if (o != nil) != tt.opt || (o != nil && (o.Do() != tt.answerDO || o.UDPSize() != 1400 || o.Version() != 0)) {
				t.Errorf("OPT %v", o)
			}
			if len(m.Extra) > 1 {
				t.Errorf("additional %v", m.Extra)
			}
		})
	}
}

func TestReplyThatDoesNotFitIsDeclined(t *testing.T) {
	a, _, err := wire.NewAnswer(packAnswer(t, "example.org.", dns.TypeA, nil, "example.org. 5 IN A 192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	pkt := packQuery(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(0, false) })
	var q wire.Query
	wire.ParseQuery(pkt, &q)
	if _, ok := a.AppendReply(nil, &q, q.Question(pkt), 5, a.Len()+10, nil); ok {
		t.Error("fits without its OPT only, but was not declined")
	}
	if _, ok := a.AppendReply(nil, &q, q.Question(pkt), 5, a.Len()+11, nil); !ok {
		t.Error("fits exactly, but was declined")
	}
	options := []byte("\x00\x0f\x00\x02\x00\x11")
	if _, ok := a.AppendReply(nil, &q, q.Question(pkt), 5, a.Len()+11+5, options); ok {
		t.Error("options beyond the limit")
	}
	b, ok := a.AppendReply(nil, &q, q.Question(pkt), 5, a.Len()+11+6, options)
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil || !ok || m.IsEdns0() == nil || len(m.IsEdns0().Option) != 1 {
		t.Error(m, err)
	}
	if _, ok := a.AppendReply(nil, &q, q.Question(pkt)[1:], 5, 512, nil); ok {
		t.Error("question of another length was taken")
	}
}

func TestNegativeTTLIsTheSmallerOfSOATTLAndMinimum(t *testing.T) {
	for _, tt := range []struct {
		rr   string
		want uint32
	}{
		{"example.org. 300 IN SOA ns. host. 1 2 3 4 60", 60},
		{"example.org. 30 IN SOA ns. host. 1 2 3 4 600", 30},
	} {
		a, info, err := wire.NewAnswer(packAnswer(t, "a.example.org.", dns.TypeA, func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }, tt.rr))
		if err != nil {
			t.Fatal(err)
		}
		if !info.SOA || info.SOANegTTL != tt.want || a.Rcode() != dns.RcodeNameError {
			t.Errorf("%q: %+v, want %d", tt.rr, info, tt.want)
		}
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	good := func() []byte {
		return packAnswer(t, "example.org.", dns.TypeA, nil, "example.org. 5 IN A 192.0.2.1")
	}
	edit := func(f func(b []byte) []byte) []byte { return f(good()) }
	const recordAt = 12 + 13 + 4 // the owner (a pointer) of the only record
	tests := map[string][]byte{
		"empty":                  nil,
		"query":                  edit(func(b []byte) []byte { b[2] &^= 0x80; return b }),
		"truncated":              edit(func(b []byte) []byte { b[2] |= 2; return b }),
		"count too high":         edit(func(b []byte) []byte { b[7] = 9; return b }),
		"count too low":          edit(func(b []byte) []byte { b[7] = 0; return b }),
		"cut":                    edit(func(b []byte) []byte { return b[:len(b)-1] }),
		"trailing byte":          edit(func(b []byte) []byte { return append(b, 0) }),
		"pointer to itself":      edit(func(b []byte) []byte { b[recordAt+1] = recordAt; return b }),
		"pointer forward":        edit(func(b []byte) []byte { b[recordAt+1] = recordAt + 2; return b }),
		"pointer into header":    edit(func(b []byte) []byte { b[recordAt+1] = 4; return b }),
		"pointer into a label":   edit(func(b []byte) []byte { b[recordAt+1] = 13; return b }),
		"reserved label type":    edit(func(b []byte) []byte { b[recordAt] = 0x80; return b }),
		"short address":          edit(func(b []byte) []byte { b[recordAt+11] = 3; return b[:len(b)-1] }),
		"OPT inside":             packAnswer(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) }),
		"two questions":          packAnswer(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"name over record's end": edit(func(b []byte) []byte { b[recordAt+3] = 5; b[len(b)-4] = 10; return b }),
	}
	for name, msg := range tests {
		if _, _, err := wire.NewAnswer(msg); !errors.Is(err, wire.ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := wire.NewAnswer(good()); err != nil {
		t.Errorf("the unspoilt answer: %v", err)
	}
}

// A pointer into a TTL would let a patched TTL change a name of the reply.
func TestPointerIntoATTLIsRefused(t *testing.T) {
	b := packAnswer(t, "example.org.", dns.TypeA, nil, "example.org. 0 IN A 192.0.2.1", "example.org. 0 IN A 192.0.2.2")
	const first = 12 + 13 + 4
	b[first+16+1] = first + 6 // owner of the second record: the first one's TTL, which reads as the root
	if _, _, err := wire.NewAnswer(b); !errors.Is(err, wire.ErrAnswer) {
		t.Fatal(err)
	}
}

// miekg/dns lets names point at names inside the data of these types.
func TestEveryTypeWithNamesIsIndexed(t *testing.T) {
	records := []string{
		"example.org. 5 IN MX 10 mail.example.org.",
		"example.org. 5 IN SRV 1 2 3 srv.example.org.",
		"srv.example.org. 5 IN A 192.0.2.1",
		`example.org. 5 IN NAPTR 1 2 "u" "E2U" "!x!y!" naptr.example.org.`,
		"naptr.example.org. 5 IN CNAME deep.naptr.example.org.",
		"example.org. 5 IN NSEC next.example.org. A AAAA RRSIG",
		"next.example.org. 5 IN AAAA 2001:db8::1",
		"example.org. 5 IN RRSIG A 8 2 5 20300101000000 20200101000000 1 signer.example.org. AAAA",
		"signer.example.org. 5 IN TXT \"a\" \"b\"",
		"example.org. 5 IN HTTPS 1 svc.example.org. alpn=h2",
		"svc.example.org. 5 IN PTR example.org.",
		"example.org. 5 IN RP a.example.org. b.example.org.",
		"example.org. 5 IN DNAME example.net.",
		"example.org. 5 IN CAA 0 issue \"ca.example\"",
		"example.org. 7 IN SOA ns.example.org. host.example.org. 1 2 3 4 60",
	}
	a, info, err := wire.NewAnswer(packAnswer(t, "example.org.", dns.TypeA, nil, records...))
	if err != nil {
		t.Fatal(err)
	}
	if info.Records != len(records) || info.MinTTL != 5 {
		t.Errorf("%+v", info)
	}
	for i := range a.Records() {
		if at := a.TTLOffset(i); at < 12 || at+6 > a.Len() {
			t.Errorf("record %d: offset %d", i, at)
		}
	}
}

func TestNothingAllocatesPerQuery(t *testing.T) {
	a, _, err := wire.NewAnswer(packAnswer(t, "example.org.", dns.TypeA, nil, "example.org. 5 IN A 192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	pkt := packQuery(t, "EXAMPLE.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	var q wire.Query
	var key [wire.MaxKeyLen]byte
	buf := make([]byte, 0, 1500)
	allocs := testing.AllocsPerRun(100, func() {
		if wire.ParseQuery(pkt, &q) != wire.OK {
			t.Fatal("declined")
		}
		if len(wire.AppendKey(key[:0], q.Name(pkt), q.Type, q.Class, q.DO, q.CD)) == 0 {
			t.Fatal("no key")
		}
		if _, ok := a.AppendReply(buf, &q, q.Question(pkt), 4, q.Limit(), nil); !ok {
			t.Fatal("no reply")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per query", allocs)
	}
}

func Example() {
	request := new(dns.Msg)
	request.SetQuestion("example.org.", dns.TypeA)
	pkt, _ := request.Pack()

	var q wire.Query
	if why := wire.ParseQuery(pkt, &q); why != wire.OK {
		fmt.Println("declined:", why)
		return
	}
	fmt.Printf("%q type %d, replies up to %d bytes\n", q.Name(pkt), q.Type, q.Limit())
	// Output: "\aexample\x03org\x00" type 1, replies up to 512 bytes
}

// Eight bytes at a time are lowered as one at a time, for every byte at every
// place.
func TestKeysAreInLowerCase(t *testing.T) {
	t.Parallel()
	for n := range 20 {
		for c := range 256 {
			for at := range n {
				b := bytes.Repeat([]byte{'@'}, n)
				b[at] = byte(c)
				want := byte(c)
				if 'A' <= want && want <= 'Z' {
					want += 'a' - 'A'
				}
				got := wire.AppendKey(nil, b, 1, 1, false, false)[wire.MaxKeyLen-wire.MaxNameLen:]
				for i, got := range got {
					if (i == at && got != want) || (i != at && got != '@') {
						t.Fatalf("%#x at %d of %d: byte %d is %#x", c, at, n, i, got)
					}
				}
			}
		}
	}
}
