//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/proxyproto"
	_ "github.com/coredns/coredns/plugin/tls"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// certificate writes a self-signed certificate and its key to files, and returns
// the directive for a server block that uses them.
func certificate(t *testing.T) (directive string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"dns.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	directive = "tls"
	for i, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: private}} {
		file := filepath.Join(dir, []string{"cert.pem", "key.pem"}[i])
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		directive += " " + file
	}
	return directive
}

// Plugins can see the state of the TLS connection.
var _ dns.ConnectionStater = (*front.StreamWriter)(nil)

// clientTLS is the configuration of clients in these tests.
func clientTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // a server of this test
}

// secured turns a server block into one that is served over TLS.
func secured(block, directive string) string {
	return strings.Replace("tls://"+block, "errors\n", "errors\n    "+directive+"\n", 1)
}

// overTCPAndTLS runs a test with a server block for plain TCP and UDP, and
// with the same one for TLS.
func overTCPAndTLS(t *testing.T, test func(t *testing.T, block string)) {
	t.Helper()
	t.Run("TCP", func(t *testing.T) { test(t, simple) })
	t.Run("TLS", func(t *testing.T) { test(t, secured(simple, certificate(t))) })
}

func TestTLSAnswersFromTheCacheAndMissesGoThroughTheChain(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	logged := captureLog(t)
	s := start(t, fmt.Sprintf(secured(simple, certificate(t)), "prometheus 127.0.0.1:0", ""), map[string]*source{"A": src})
	c := s.dial()
	for i := range 3 {
		r := question("wWw.example.org.", dns.TypeA)
		r.SetEdns0(1232, true)
		m := c.ask(r)
		if m.Id != r.Id || !m.Response || len(m.Answer) != 1 || m.Question[0].Name != "wWw.example.org." || m.IsEdns0() == nil || !m.IsEdns0().Do() {
			t.Fatalf("%d: %v", i, m)
		}
	}
	f := s.fast()
	if src.count() != 1 || hitsOf(f) != 2 || declinesOf(f)["miss"] != 1 {
		t.Errorf("%d asked, %d hits, %v", src.count(), hitsOf(f), declinesOf(f))
	}
	if why := s.tcpReason(); why != "" {
		t.Errorf("metric: %q", why)
	}
	proc.listeners.Flush()
	series := gathered(t, "tls://"+s.addr)
	for name, want := range map[string]float64{
		"coredns_dns_requests_total{family=1,proto=tcp,type=A,view=,zone=.}": 3,
		"coredns_penstock_fastpath_declined_total{reason=miss}":              1,
		"coredns_cache_hits_total{type=success,view=,zones=.}":               2,
		"coredns_penstock_fastpath_steered{proto=tcp,why=}":                  1,
		"coredns_penstock_fastpath_connections{}":                            1,
		"coredns_penstock_fastpath_zone{why=,zone=.}":                        1,
	} {
		m := series[name]
		if got := m.GetCounter().GetValue() + m.GetGauge().GetValue(); m == nil || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if n := responses(series); n != 3 {
		t.Errorf("%v responses", n)
	}
	if strings.Contains(logged(), "WARN") {
		t.Error(logged())
	}
}

// Listeners that must not be answered past the chain, or past CoreDNS's own
// TLS, are served by CoreDNS alone.
func TestTLSEligibility(t *testing.T) {
	for _, tt := range []struct{ lines, why string }{
		{"", ""},
		{"loadbalance", ""},
		{"bufsize 1232", ""},
		{"multisocket 2", ""},
		{"acl {\nallow\n}", front.ErrAllDecline.Error()},
		{"metadata", front.ErrAllDecline.Error()},
		{"view v {\nexpr true\n}", front.ErrAllDecline.Error()},
		{"proxyproto", "plugin proxyproto"},
		{"tsig {\nsecret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n}", "plugin tsig"},
		{"fastpath off", front.ErrAllDecline.Error()},
		{"client_auth", "certificates"},
	} {
		t.Run(strings.Fields(tt.lines + " none")[0], func(t *testing.T) {
			src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
			directive, lines := certificate(t), tt.lines
			var clientCert bool
			switch tt.lines {
			case "client_auth":
				directive, lines, clientCert = directive+" {\n client_auth require\n}", "", true
			case "fastpath off":
				lines = ""
			}
			text := fmt.Sprintf(secured(simple, directive), lines, "")
			if tt.lines == "fastpath off" {
				text = strings.Replace(text, "fastpath on", "fastpath off", 1)
			}
			s := start(t, text, map[string]*source{"A": src})
			f := s.fast()
			if (f != nil) != (tt.why == "") {
				t.Fatalf("fast path: %v", f != nil)
			}
			if why := s.tcpReason(); !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
				t.Errorf("metric: %q, want %q", why, tt.why)
			}
			if strings.HasPrefix(tt.lines, "proxyproto") {
				return // clients need the protocol
			}
			for range 2 {
				c := s.dial()
				if clientCert {
					pair, err := tls.LoadX509KeyPair(strings.Fields(directive)[1], strings.Fields(directive)[2])
					if err != nil {
						t.Fatal(err)
					}
					config := clientTLS()
					config.Certificates = []tls.Certificate{pair}
					over := tls.Client(c.TCPConn, config)
					c.over = over
					c.in.Reset(over)
				}
				if m := c.ask(question("www.example.org.", dns.TypeA)); len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
				c.Close()
			}
			if f != nil && hitsOf(f) != 1 {
				t.Errorf("%d hits, %v", hitsOf(f), declinesOf(f))
			}
		})
	}
}

// Without the plugin tls a block tls:// speaks plain TCP, which is left to
// CoreDNS.
func TestTLSBlockWithoutACertificate(t *testing.T) {
	s := start(t, fmt.Sprintf("tls://"+simple, "", ""), map[string]*source{"A": variety()})
	if s.fast() != nil || !strings.Contains(s.tcpReason(), "no certificate") {
		t.Errorf("metric: %q", s.tcpReason())
	}
	c := s.dial()
	c.over = c.TCPConn
	c.in.Reset(c.TCPConn)
	if m := c.ask(question("one.example.org.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// A reload to another certificate keeps open connections; new ones get it.
func TestReloadSwapsTheCertificate(t *testing.T) {
	block := func() string { return fmt.Sprintf(secured(simple, certificate(t)), "", "") }
	s := start(t, block(), map[string]*source{"A": variety()})
	serial := func(c *streamClient) string {
		over, ok := c.over.(*tls.Conn)
		if !ok {
			t.Fatal("no TLS")
		}
		return over.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := s.dial()
	before.ask(question("one.example.org.", dns.TypeA))
	if err := s.reload(block()); err != nil {
		t.Fatal(err)
	}
	before.ask(question("one.example.org.", dns.TypeA))
	after := s.dial()
	after.ask(question("one.example.org.", dns.TypeA))
	if serial(before) == serial(after) {
		t.Error("the certificate is the old one")
	}
	if n := s.streamsOf().Conns(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// One server block may serve UDP, TCP and TLS. A reload keeps the connections
// of all, also of transports that are not its first key.
func TestReloadOfABlockWithSeveralTransports(t *testing.T) {
	port := fastPort(t)
	text := fmt.Sprintf(".:%s tls://%s", port, strings.TrimPrefix(fmt.Sprintf(secured(simple, certificate(t)), "", ""), "tls://"))
	src := variety()
	s := start(t, text, map[string]*source{"A": src})
	s.over = "tls"
	c := s.dial()
	c.ask(question("one.example.org.", dns.TypeA))
	plain := &testServer{t: t, addr: "127.0.0.1:" + port, over: "dns"}
	d := plain.dial()
	d.ask(question("one.example.org.", dns.TypeA))
	for range 3 {
		if err := s.reload(text); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*streamClient{c, d} {
			if m := c.ask(question("one.example.org.", dns.TypeA)); len(m.Answer) != 1 {
				t.Fatalf("%v", m)
			}
		}
	}
	if src.count() != 1 || s.fast() == nil || plain.fast() == nil || s.fast() == plain.fast() {
		t.Errorf("%d asked", src.count())
	}
}

// The addresses of a block equal the addresses of CoreDNS's servers.
func TestListenAddrs(t *testing.T) {
	cfg := &dnsserver.Config{Transport: "dns", Port: "53", ListenHosts: []string{"127.0.0.1", "::1"}}
	got := strings.Join(front.ListenAddrs(cfg, []string{"dns://.:53", "tls://example.org.:853", "odd"}), " ")
	const want = "dns://127.0.0.1:53 dns://[::1]:53 dns://127.0.0.1:53 dns://[::1]:53 tls://127.0.0.1:853 tls://[::1]:853"
	if got != want {
		t.Errorf("%s", got)
	}
}
