package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// certificate writes a self-signed certificate for 127.0.0.1 and its key to
// dir, and returns a pool that trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, dir, "cert.pem", string(certPEM))
	write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

// One entry serves all transports: a question over UDP fills it, the same
// question over TCP, TLS and HTTPS gets it.
func TestTransportsShareTheCache(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	zoneFile := write(t, dir, "zone", zone)
	var plain, dot, doh, metrics string
	serve(t, func() (string, string, string) {
		plain, dot, doh, metrics = freePort(t), freePort(t), freePort(t), freePort(t)
		return fmt.Sprintf(`example.org:%s tls://example.org:%s https://example.org:%s {
    bind 127.0.0.1
    tls %s %s
    prometheus 127.0.0.1:%s
    cache
    file %s
}
`, plain, dot, doh, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), metrics, zoneFile), "127.0.0.1:" + plain, "www.example.org."
	})

	r := new(dns.Msg)
	r.SetQuestion("www.example.org.", dns.TypeA)
	for _, c := range []struct{ network, port string }{{"tcp", plain}, {"tcp-tls", dot}} {
		client := dns.Client{Net: c.network, TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		m, _, err := client.ExchangeContext(t.Context(), r, "127.0.0.1:"+c.port)
		if err != nil || len(m.Answer) != 2 {
			t.Errorf("%s: %v %v", c.network, m, err)
		}
	}
	m, header := overHTTPS(t, "https://127.0.0.1:"+doh+"/dns-query", pool, r)
	if len(m.Answer) != 2 {
		t.Fatalf("https: %v", m)
	}
	// RFC 8484, section 5.1: HTTP caches age the answer by its own TTL.
	if got, want := header.Get("Cache-Control"), fmt.Sprintf("max-age=%d", m.Answer[0].Header().Ttl); got != want {
		t.Errorf("Cache-Control %q, want %q", got, want)
	}
	hits := 0
	for line := range strings.Lines(get(t, "http://127.0.0.1:"+metrics+"/metrics")) {
		if strings.HasPrefix(line, "coredns_cache_hits_total{") && strings.Contains(line, `type="success"`) && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			hits++
		}
	}
	if hits != 3 {
		t.Errorf("hits in %d servers, want one in each of 3", hits)
	}
}

func overHTTPS(t *testing.T, url string, pool *x509.CertPool, r *dns.Msg) (*dns.Msg, http.Header) {
	t.Helper()
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/dns-message")
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(body); err != nil {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return m, resp.Header
}
