//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"fmt"
	"log"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// lockedBuffer is a log that servers write to while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// captureLog captures the log until the end of the test. CoreDNS logs through the
// standard logger.
func captureLog(t *testing.T) func() string {
	t.Helper()
	before, b := log.Writer(), &lockedBuffer{}
	log.SetOutput(b)
	t.Cleanup(func() { log.SetOutput(before) })
	return b.String
}

// checkReason compares metric and log of a server with the reason why there is
// no fast path; "" if there is one.
func checkReason(t *testing.T, addr, why, logged string) {
	t.Helper()
	found := false
	for series, m := range gathered(t, "dns://"+addr) {
		if !strings.HasPrefix(series, "coredns_penstock_fastpath_zone{") {
			continue
		}
		found = true
		if on := m.Gauge.GetValue(); (on == 1) != (why == "") || !strings.Contains(series, why) || !strings.Contains(series, "zone=.") {
			t.Errorf("metric %s is %v, want the reason %q", series, on, why)
		}
	}
	if !found {
		t.Error("no metric says whether there is a fast path")
	}
	want := "Fast path at dns://" + addr
	if why != "" {
		want = "No fast path at dns://" + addr
	}
	if !strings.Contains(logged, want) || !strings.Contains(logged, why) {
		t.Errorf("the log does not say %q, %q: %s", want, why, logged)
	}
}

// What plugins before the cache do to queries and answers they do to cached
// ones as well: the second and third time as the first.
func TestPluginEffectsArePreserved(t *testing.T) {
	tsig := func(m *dns.Msg) { m.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix()) }
	nsid := func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	}
	answers := func(want string) func(*dns.Msg) bool {
		return func(m *dns.Msg) bool { return len(m.Answer) == 1 && m.Answer[0].String() == want }
	}
	www := func(m *dns.Msg) bool {
		return len(m.Answer) == 1 && strings.HasPrefix(m.Answer[0].String(), "www.example.org.\t") && strings.HasSuffix(m.Answer[0].String(), "\tA\t192.0.2.1")
	}
	for _, tt := range []struct {
		lines, name string
		qtype       uint16
		edit        func(*dns.Msg)
		ok          func(*dns.Msg) bool
	}{
		{"acl {\nblock type A net 127.0.0.0/8\n}", "www.example.org.", dns.TypeA, nil, func(m *dns.Msg) bool { return m.Rcode == dns.RcodeRefused }},
		{"acl {\nfilter type A net 127.0.0.0/8\n}", "www.example.org.", dns.TypeA, nil, func(m *dns.Msg) bool { return m.Rcode == 0 && len(m.Answer) == 0 }},
		{"rewrite stop {\nname exact alias.example.org www.example.org\nanswer auto\n}", "alias.example.org.", dns.TypeA, nil, func(m *dns.Msg) bool {
			return len(m.Answer) == 1 && strings.HasPrefix(m.Answer[0].String(), "alias.example.org.")
		}},
		{"rewrite ttl exact www.example.org 5", "www.example.org.", dns.TypeA, nil, answers("www.example.org.\t5\tIN\tA\t192.0.2.1")},
		{"dns64 {\nallow_ipv4\ntranslate_all\n}", "www.example.org.", dns.TypeAAAA, nil, func(m *dns.Msg) bool {
			return len(m.Answer) == 1 && strings.HasSuffix(m.Answer[0].String(), "64:ff9b::c000:201")
		}},
		{"view v {\nexpr type() == 'A'\n}", "www.example.org.", dns.TypeAAAA, nil, func(m *dns.Msg) bool { return m.Rcode == dns.RcodeRefused }},
		{"view v {\nexpr type() == 'A'\n}", "www.example.org.", dns.TypeA, nil, www},
		{"tsig {\nsecret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\nrequire all\n}", "www.example.org.", dns.TypeA, nil, func(m *dns.Msg) bool { return m.Rcode == dns.RcodeRefused }},
		{"tsig {\nsecret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n}", "www.example.org.", dns.TypeA, tsig, func(m *dns.Msg) bool { return m.IsTsig() != nil && www(m) }},
		{"nsid me", "www.example.org.", dns.TypeA, nsid, func(m *dns.Msg) bool {
			return www(m) && m.IsEdns0() != nil && len(m.IsEdns0().Option) == 1 && m.IsEdns0().Option[0].String() == "6d65"
		}},
		{"any", "www.example.org.", dns.TypeANY, nil, func(m *dns.Msg) bool { return len(m.Answer) == 1 && m.Answer[0].Header().Rrtype == dns.TypeHINFO }},
		{"local", "localhost.", dns.TypeA, nil, func(m *dns.Msg) bool {
			return len(m.Answer) == 1 && strings.HasSuffix(m.Answer[0].String(), "127.0.0.1")
		}},
		{"bufsize 600", "www.example.org.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) }, func(m *dns.Msg) bool { return www(m) && m.IsEdns0().UDPSize() == 600 }},
		{"loadbalance", "www.example.org.", dns.TypeA, nil, www},
		{"metadata", "www.example.org.", dns.TypeA, nil, www},
	} {
		t.Run(strings.Fields(tt.lines)[0], func(t *testing.T) {
			src := says(func(m *dns.Msg) {
				if m.Question[0].Qtype != dns.TypeA {
					m.Answer = nil
				}
			}, "www.example.org. 60 IN A 192.0.2.1")
			s := start(t, fmt.Sprintf(simple, tt.lines, ""), map[string]*source{"A": src})
			// Fills the cache, unless the plugin answers or refuses.
			s.ask(question("www.example.org.", dns.TypeA))
			for i := range 6 {
				r := question(tt.name, tt.qtype)
				if tt.edit != nil {
					tt.edit(r)
				}
				var m *dns.Msg
				switch tcp := i >= 3; {
				case r.IsTsig() != nil:
					m = s.signed(r, tcp)
				case tcp:
					m = s.askTCP(r)
				default:
					m = s.ask(r)
				}
				if !tt.ok(m) {
					t.Errorf("time %d: %v", i+1, m)
				}
			}
		})
	}
}

// signed asks with a signature and checks the signature of the reply.
func (s *testServer) signed(r *dns.Msg, tcp bool) *dns.Msg {
	s.t.Helper()
	c := dns.Client{TsigSecret: map[string]string{"k.": "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="}, Timeout: inTime}
	if tcp {
		c.Net = "tcp"
	}
	m, _, err := c.Exchange(r, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// Every query is in the log, those from the cache too.
func TestLogHasCachedAnswers(t *testing.T) {
	logged := captureLog(t)
	s := start(t, fmt.Sprintf(simple, "log . \"{name} {rcode} {rsize}\"", ""), map[string]*source{"A": says(nil, "www.example.org. 60 IN A 192.0.2.1")})
	for range 3 {
		s.ask(question("www.example.org.", dns.TypeA))
	}
	// It is written behind the answer.
	until(t, "three lines in the log", func() bool { return strings.Count(logged(), "www.example.org. NOERROR 64") == 3 })
}
