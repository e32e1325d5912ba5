package dnsplugin

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// filtering makes a source whose answers have extended errors.
func filtering(errs ...dns.EDNS0) *source {
	return says(func(m *dns.Msg) {
		m.Rcode = dns.RcodeNameError
		o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		o.SetUDPSize(4096)
		o.Option = append(errs, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "beef"})
		m.Extra = append(m.Extra, o)
	}, "example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 300")
}

// errorsOf returns the options of m's OPT as text, nil if it has no OPT.
func errorsOf(m *dns.Msg) (all []string) {
	if opt := m.IsEdns0(); opt != nil {
		all = []string{}
		for _, o := range opt.Option {
			all = append(all, fmt.Sprintf("%d %v", o.Option(), o))
		}
	}
	return all
}

func withOPT(m *dns.Msg) { m.SetEdns0(1232, false) }

// A client with an OPT receives the extended errors of an answer, from the source
// and from the cache, but never the source's other options.
func TestExtendedErrorsAreKept(t *testing.T) {
	src := filtering(&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeFiltered, ExtraText: "by policy"}, &dns.EDNS0_EDE{InfoCode: 3})
	want := "[15 17 (Filtered): (by policy) 15 3 (Stale Answer): ()]"
	c := cacheOf(t, Config{}, src)
	for _, when := range []string{"miss", "hit", "hit"} {
		m := ask(t, c, question("a.example.org.", dns.TypeA, withOPT))
		if got := fmt.Sprint(errorsOf(m)); got != want {
			t.Errorf("%s: %s", when, got)
		}
	}
	if m := ask(t, c, question("a.example.org.", dns.TypeA)); m.IsEdns0() != nil {
		t.Errorf("an OPT to a client without: %v", m)
	}
	if m := ask(t, c, question("b.example.org.", dns.TypeA)); m.IsEdns0() != nil {
		t.Errorf("an OPT to a client without, in a miss: %v", m)
	}
	// Asked for by a client without OPT, hit by one with.
	if m := ask(t, c, question("b.example.org.", dns.TypeA, withOPT)); fmt.Sprint(errorsOf(m)) != want {
		t.Error(m)
	}
	if src.count() != 2 {
		t.Errorf("%d questions", src.count())
	}
	// No OPT of the cache's own for an answer without.
	c.Next = says(nil, "c.example.org. 300 IN A 192.0.2.1")
	for range 2 {
		if m := ask(t, c, question("c.example.org.", dns.TypeA, withOPT)); m.IsEdns0() != nil {
			t.Error(m)
		}
	}
}

// A text that is too long is left out; the errors are kept while they fit.
func TestExtendedErrorsHaveABound(t *testing.T) {
	long := &dns.EDNS0_EDE{InfoCode: 22, ExtraText: strings.Repeat("x", 250)}
	fits := &dns.EDNS0_EDE{InfoCode: 22, ExtraText: strings.Repeat("x", 249)}
	var many []dns.EDNS0
	for range 50 {
		many = append(many, &dns.EDNS0_EDE{InfoCode: 23})
	}
	for _, tt := range []struct {
		in    []dns.EDNS0
		n, at int // options, and bytes of the first one's text
	}{
		{[]dns.EDNS0{long}, 1, 0},
		{[]dns.EDNS0{fits}, 1, 249},
		{[]dns.EDNS0{fits, long}, 1, 249},
		{[]dns.EDNS0{long, many[0]}, 2, 0},
		{many, 42, 0},
	} {
		c := cacheOf(t, Config{}, filtering(tt.in...))
		ask(t, c, question("a.example.org.", dns.TypeA, withOPT))
		opt := ask(t, c, question("a.example.org.", dns.TypeA, withOPT)).IsEdns0()
		if opt == nil || len(opt.Option) != tt.n || len(opt.Option[0].(*dns.EDNS0_EDE).ExtraText) != tt.at {
			t.Errorf("%d options: %v", len(tt.in), opt)
		}
	}
}

func TestExtendedErrorsAreInSnapshotsAndDumps(t *testing.T) {
	c := cacheOf(t, Config{}, filtering(&dns.EDNS0_EDE{InfoCode: 15, ExtraText: "a\nb"}))
	ask(t, c, question("a.example.org.", dns.TypeA, withOPT))
	if _, body := call(c, "GET", "/dump?all"); !strings.Contains(body, `, EDE "15 (Blocked): (a\nb)", `) {
		t.Error(body)
	}
	var b bytes.Buffer
	if err := c.writeSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	next, err := newCache("penstock", Config{}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if n, err := next.readSnapshot(bytes.NewReader(b.Bytes()), int64(b.Len())); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if m := ask(t, next, question("a.example.org.", dns.TypeA, withOPT)); fmt.Sprint(errorsOf(m)) != "[15 15 (Blocked): (a\nb)]" {
		t.Error(m)
	}
	for _, bad := range []string{"\x00", "\x00\x0f\x00\x01\x00\x01", "\x00\x0f\x00\x05\x00\x01", "\x00\x03\x00\x02\x00\x01", "\x00\x0f\x00\x02\x00\x01\x00"} {
		if _, ok := edeOptions([]byte(bad)); ok {
			t.Errorf("%x", bad)
		}
	}
}

// Extended errors never cost an answer a record. A text goes first, then the
// error (RFC 8914, section 3).
func TestExtendedErrorsMakeRoomForData(t *testing.T) {
	const records = 40 // more than 512 bytes, which is the least size
	src := says(func(m *dns.Msg) {
		for i := range records {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: []byte{192, 0, 2, byte(i)}})
		}
		o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		o.Option = append(o.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeFiltered, ExtraText: strings.Repeat("x", 200)})
		m.Extra = append(m.Extra, o)
	})
	c := cacheOf(t, Config{}, src)
	answer := func(size uint16) *dns.Msg {
		return ask(t, c, question("a.example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(size, false) }))
	}
	bare := answer(4096)
	bare.Extra = nil
	whole := sizeOf(bare) + wire.OPTLen
	for _, tt := range []struct {
		size int
		want string
	}{
		{4096, "one with its text"},
		{whole + sides.EDEHead + 200, "one with its text"},
		{whole + sides.EDEHead + 199, "one without"},
		{whole + sides.EDEHead, "one without"},
		{whole + sides.EDEHead - 1, "none"},
	} {
		for _, when := range []string{"hit", "hit"} {
			m := answer(uint16(tt.size))
			got := "none"
			if opt := m.IsEdns0(); opt != nil {
				got = "one without"
				if e, ok := opt.Option[0].(*dns.EDNS0_EDE); ok && e.ExtraText != "" {
					got = "one with its text"
				}
			}
			if got != tt.want || len(m.Answer) != records {
				t.Errorf("%d bytes, %s: %s, %d records", tt.size, when, got, len(m.Answer))
			}
		}
	}
}

// A stale answer says that it is one, to clients with an OPT, on both paths
// (RFC 8914, sections 4.4 and 4.20). One that was stale for the source says it once.
func TestStaleAnswersHaveAnExtendedError(t *testing.T) {
	filtered := []byte{0, 15, 0, 3, 0, 17, 'x'}
	for _, tt := range []struct {
		ede   []byte
		rcode int
		want  string
	}{
		{nil, dns.RcodeSuccess, "[15 3 (Stale Answer): ()]"},
		{nil, dns.RcodeNameError, "[15 19 (Stale NXDOMAIN Answer): ()]"},
		{filtered, dns.RcodeSuccess, "[15 3 (Stale Answer): () 15 17 (Filtered): (x)]"},
		{[]byte{0, 15, 0, 3, 0, 17, 'x', 0, 15, 0, 2, 0, 3}, dns.RcodeSuccess, "[15 17 (Filtered): (x) 15 3 (Stale Answer): ()]"},
	} {
		options, ok := edeOptions(sides.AppendStale(nil, tt.ede, tt.rcode))
		m := &dns.Msg{Extra: []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: options}}}
		if got := fmt.Sprint(errorsOf(m)); !ok || got != tt.want {
			t.Errorf("%v: %s, want %s", tt, got, tt.want)
		}
	}
}
