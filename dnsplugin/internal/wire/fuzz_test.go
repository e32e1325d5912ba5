package wire_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// FuzzParseQuery checks that miekg/dns reads an accepted query in the same way.
func FuzzParseQuery(f *testing.F) {
	f.Add(packQuery(f, "example.org.", dns.TypeA, nil))
	f.Add(packQuery(f, "_grpc._tcp.model-1.ns-2.svc.cluster.local.", dns.TypeSRV, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	f.Add(packQuery(f, ".", dns.TypeNS, func(m *dns.Msg) {
		m.SetEdns0(4096, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}}
	}))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var q wire.Query
		if wire.ParseQuery(pkt, &q) != wire.OK {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(pkt); err != nil {
			// miekg/dns also checks options that are ignored here (cookie
			// lengths).
			if q.OPT {
				return
			}
			t.Fatalf("accepted %x, but: %v", pkt, err)
		}
		if len(m.Question) != 1 || len(m.Answer)+len(m.Ns) != 0 || m.Opcode != dns.OpcodeQuery || m.Response {
			t.Fatalf("accepted %v", m)
		}
		if m.Id != q.ID || m.Question[0].Qtype != q.Type || m.Question[0].Qclass != q.Class ||
			m.RecursionDesired != q.RD || m.CheckingDisabled != q.CD || m.AuthenticatedData != q.AD {
			t.Fatalf("%+v for %v", q, m)
		}
		o := m.IsEdns0()
		if (o != nil) != q.OPT || (o != nil && (o.Do() != q.DO || o.UDPSize() != q.UDPSize)) {
			t.Fatalf("%+v for %v", q, o)
		}
		var name [wire.MaxNameLen + 1]byte
		n, err := dns.PackDomainName(m.Question[0].Name, name[:], 0, nil, false)
		if err != nil || !bytes.Equal(name[:n], q.Name(pkt)) {
			t.Fatalf("name %q, miekg %q (%v)", q.Name(pkt), name[:n], err)
		}
	})
}

// FuzzAnswer checks that a patched reply equals the stored message but for ID,
// RD, CD, AD, letter case and TTLs.
func FuzzAnswer(f *testing.F) {
	f.Add(packAnswer(f, "example.org.", dns.TypeA, nil, "example.org. 300 IN A 192.0.2.1", "example.org. 300 IN A 192.0.2.2"))
	f.Add(packAnswer(f, "a.example.org.", dns.TypeA, func(m *dns.Msg) { m.Rcode = dns.RcodeNameError },
		"example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 60"))
	f.Add(packAnswer(f, "example.org.", dns.TypeMX, nil, "example.org. 5 IN MX 10 mail.example.org.",
		"example.org. 5 IN RRSIG MX 8 2 5 20300101000000 20200101000000 1 signer.example.org. AAAA",
		"example.org. 5 IN HTTPS 1 svc.example.org. alpn=h2"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, info, err := wire.NewAnswer(msg)
		if err != nil {
			return
		}
		const ttl = 77
		// Upper case of ASCII only, as DNS has it; lengths of labels are below
		// 'a'.
		question := bytes.Clone(a.Question())
		for i, c := range question[:len(question)-4] {
			if 'a' <= c && c <= 'z' {
				question[i] = c - 'a' + 'A'
			}
		}
		q := wire.Query{ID: 0xbeef, RD: true, AD: true, OPT: true, UDPSize: 1232}
		reply, ok := a.AppendReply(nil, &q, question, ttl, 1<<16+64, nil)
		if !ok || len(reply) != a.Len()+11 {
			t.Fatalf("no reply: %d of %d bytes", len(reply), a.Len())
		}
		for i := range a.Records() {
			if at := a.TTLOffset(i); at+6 > a.Len() || at < wire.HeaderLen {
				t.Fatalf("offset %d in %d bytes", at, a.Len())
			}
		}
		stored, patched := new(dns.Msg), new(dns.Msg)
		if stored.Unpack(msg) != nil {
			return // opaque data that only miekg looks into
		}
		if err := patched.Unpack(reply); err != nil {
			t.Fatalf("patched reply: %v\n%x\n%x", err, msg, reply)
		}
		if opt := patched.IsEdns0(); opt == nil || patched.Id != 0xbeef {
			t.Fatalf("no OPT or wrong ID in %v", patched)
		}
		if got := len(stored.Answer) + len(stored.Ns) + len(stored.Extra); got != info.Records {
			t.Fatalf("%d records, index says %d", got, info.Records)
		}
		patched.Extra = patched.Extra[:len(patched.Extra)-1]
		for s, pair := range [][2][]dns.RR{{stored.Answer, patched.Answer}, {stored.Ns, patched.Ns}, {stored.Extra, patched.Extra}} {
			for i := range pair[0] {
				if pair[1][i].Header().Ttl != ttl {
					t.Fatalf("TTL of %v", pair[1][i])
				}
				pair[0][i].Header().Ttl = ttl
				if want, got := pair[0][i].String(), pair[1][i].String(); !strings.EqualFold(want, got) {
					t.Fatalf("section %d: %s became %s", s, want, got)
				}
			}
		}
	})
}
