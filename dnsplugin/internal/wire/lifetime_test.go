package wire

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The lifetime is the value that CoreDNS's server gives a reply. The table
// follows dnsutil.MinimalTTL and response.Typify. TestHTTPSRepliesAreCoreDNSs
// of package dnsplugin compares two servers.
func TestLifetime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	const (
		valid   = " 60 IN RRSIG A 8 2 60 20270301000000 20261201000000 1 example.org. c2ln"
		expired = " 60 IN RRSIG A 8 2 60 20200301000000 20200101000000 1 example.org. c2ln"
		future  = " 60 IN RRSIG A 8 2 60 20300301000000 20300101000000 1 example.org. c2ln"
	)
	for _, tt := range []struct {
		name             string
		rcode            int
		do               bool
		answer, ns, more []string
		want             uint32
	}{
		{"lowest", 0, false, []string{"example.org. 300 IN A 192.0.2.1", "example.org. 20 IN A 192.0.2.2"}, nil, nil, 20},
		{"at most an hour", 0, false, []string{"example.org. 86400 IN A 192.0.2.1"}, nil, nil, 3600},
		{"zero", 0, false, []string{"example.org. 0 IN A 192.0.2.1"}, nil, nil, 0},
		{"all sections", 0, false, []string{"example.org. 300 IN NS ns.example.org."}, []string{"example.org. 200 IN NS ns.example.org."}, []string{"ns.example.org. 100 IN A 192.0.2.1"}, 100},
		{"alias", 0, false, []string{"a.example.org. 30 IN CNAME b.example.org.", "b.example.org. 300 IN A 192.0.2.1"}, nil, nil, 30},
		{"no data", 0, false, nil, []string{"example.org. 90 IN SOA a. b. 1 2 3 4 5"}, nil, 90},
		{"no name", dns.RcodeNameError, false, nil, []string{"example.org. 90 IN SOA a. b. 1 2 3 4 5"}, nil, 90},
		{"no name behind an alias", dns.RcodeNameError, false, []string{"a.example.org. 30 IN CNAME b.example.org."}, []string{"example.org. 90 IN SOA a. b. 1 2 3 4 5"}, nil, 5},
		{"referral", 0, false, nil, []string{"example.org. 90 IN NS ns.example.org."}, nil, 5},
		{"failure", dns.RcodeServerFailure, false, nil, []string{"example.org. 90 IN SOA a. b. 1 2 3 4 5"}, nil, 5},
		{"empty", 0, false, nil, nil, nil, 5},
		{"valid signature", 0, true, []string{"example.org. 300 IN A 192.0.2.1", "example.org." + valid}, nil, nil, 60},
		{"expired signature", 0, true, []string{"example.org. 300 IN A 192.0.2.1", "example.org." + expired}, nil, nil, 5},
		{"future signature", 0, true, []string{"example.org. 300 IN A 192.0.2.1", "example.org." + future}, nil, nil, 5},
		{"expired signature without DO", 0, false, []string{"example.org. 300 IN A 192.0.2.1", "example.org." + expired}, nil, nil, 60},
	} {
		m := new(dns.Msg)
		m.SetQuestion("a.example.org.", dns.TypeA)
		m.Response, m.Rcode, m.Compress = true, tt.rcode, true
		for _, s := range []struct {
			to   *[]dns.RR
			text []string
		}{{&m.Answer, tt.answer}, {&m.Ns, tt.ns}, {&m.Extra, tt.more}} {
			for _, text := range s.text {
				rr, err := dns.NewRR(text)
				if err != nil {
					t.Fatal(err)
				}
				*s.to = append(*s.to, rr)
			}
		}
		m.SetEdns0(1232, tt.do)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if got := Lifetime(b, now.Unix()); got != tt.want {
			t.Errorf("%s: %d s, want %d", tt.name, got, tt.want)
		}
		for n := range b {
			Lifetime(b[:n], now.Unix()) // must not panic
		}
	}
}
