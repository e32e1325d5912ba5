package dnsplugin

import (
	"reflect"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// seedAnswers are packed answers, one for each case that reply distinguishes.
func seedAnswers(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, rrs := range [][]string{
		{"example.org. 5 IN A 192.0.2.1", "example.org. 5 IN A 192.0.2.2", "example.org. 5 IN AAAA 2001:db8::1"},
		{"www.example.org. 5 IN CNAME a.example.org.", "a.example.org. 5 IN CNAME b.example.net.", "b.example.net. 5 IN A 192.0.2.1"},
		{"example.org. 5 IN SRV 1 2 3 a.example.org.", "a.example.org. 5 IN AAAA 2001:db8::1"},
		{"example.org. 5 IN SOA ns.example.org. host\\.master.example.org. 1 2 3 4 5"},
		{"example.org. 5 IN NS .", ". 5 IN CNAME .", "example.org. 5 IN TXT \"x\" \"\"", "example.org. 5 IN MX 1 m.example.org."},
		{"example.org. 5 IN RRSIG A 8 2 5 20300101000000 20200101000000 1 example.org. AAAA", "example.org. 5 IN HTTPS 1 . alpn=h2"},
		{`\000\255\.x.example.org. 5 IN A 192.0.2.1`, "example.org. 5 IN TYPE65280 \\# 3 010203"},
		{
			"a.a.a. 5 IN A 192.0.2.1", "b.a.a. 5 IN A 192.0.2.1", "c.a.a. 5 IN A 192.0.2.1", "d.a.a. 5 IN A 192.0.2.1",
			"e.a.a. 5 IN A 192.0.2.1", "f.a.a. 5 IN A 192.0.2.1", "g.a.a. 5 IN A 192.0.2.1", "g.a.a. 5 IN A 192.0.2.1",
		},
		{},
	} {
		m := new(dns.Msg)
		m.SetQuestion("example.org.", dns.TypeA)
		m.Response, m.Compress, m.Authoritative, m.RecursionAvailable = true, true, true, len(rrs) == 1
		for i, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Fatal(err)
			}
			section := []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra}[i*3/len(rrs)]
			*section = append(*section, rr)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// FuzzReply checks that reply unpacks bytes in the same way as miekg/dns.
func FuzzReply(f *testing.F) {
	for _, b := range seedAnswers(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, _, err := wire.NewAnswer(b)
		if err != nil {
			return
		}
		want := new(dns.Msg)
		if want.Unpack(a.Msg()) != nil || len(want.Question) != 1 {
			return // pack refuses those
		}
		got, err := reply(a, want, 99, true)
		if err != nil {
			t.Fatalf("%v for %x", err, b)
		}
		want.Zero = false // never sent
		want.Opcode = got.Opcode
		for _, section := range [][]dns.RR{want.Answer, want.Ns, want.Extra} {
			for _, rr := range section {
				rr.Header().Ttl = 99
			}
		}
		if !reflect.DeepEqual(normal(got), normal(want)) {
			t.Fatalf("got  %v\nwant %v\nfrom %x", got, want, b)
		}
	})
}

// normal makes empty and absent sections equal.
func normal(m *dns.Msg) dns.Msg {
	n := *m
	for _, s := range []*[]dns.RR{&n.Answer, &n.Ns, &n.Extra} {
		if len(*s) == 0 {
			*s = nil
		}
	}
	return n
}

// A plugin may append to a section (ScrubWriter does, for the OPT) and change
// records: no other section and no other reply may see it.
func TestRepliesAreIndependent(t *testing.T) {
	for _, b := range seedAnswers(t) {
		a, _, err := wire.NewAnswer(b)
		if err != nil {
			t.Fatal(err)
		}
		r := new(dns.Msg)
		r.SetQuestion("example.org.", dns.TypeA)
		first, _ := reply(a, r, 7, true)
		second, _ := reply(a, r, 7, true)
		before := second.String()
		for _, s := range []*[]dns.RR{&first.Answer, &first.Ns, &first.Extra} {
			for i := range *s {
				(*s)[i].Header().Ttl = 12345
				if rr, ok := (*s)[i].(*dns.A); ok {
					rr.A[0] = 1
				}
			}
			sections := first.String()
			kept := append(*s, &dns.NULL{})
			if _ = kept; first.String() != sections {
				t.Error("appending to a section changes another one")
			}
		}
		first.Question[0].Name = "changed."
		if second.String() != before || r.Question[0].Name != "example.org." {
			t.Error("changing a reply changes another one, or the request")
		}
	}
}
