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
	"syscall"
	"testing"
	"time"

	"github.com/coredns/coredns/pb"
	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
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
// question over TCP, TLS, HTTPS, QUIC and gRPC gets it.
func TestTransportsShareTheCache(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	zoneFile := write(t, dir, "zone", zone)
	var plain, dot, doh, doq, grpcPort, metrics string
	serve(t, func() (string, string, string) {
		plain, dot, doh, doq, grpcPort, metrics = freePort(t), freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
		return fmt.Sprintf(`example.org:%s tls://example.org:%s https://example.org:%s quic://example.org:%s grpc://example.org:%s {
    bind 127.0.0.1
    tls %s %s
    prometheus 127.0.0.1:%s
    cache
    file %s
}
`, plain, dot, doh, doq, grpcPort, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), metrics, zoneFile), "127.0.0.1:" + plain, "www.example.org."
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
	for proto, m := range map[string]*dns.Msg{
		"quic": overQUIC(t, "127.0.0.1:"+doq, pool, r),
		"grpc": overGRPC(t, "127.0.0.1:"+grpcPort, pool, r),
	} {
		if len(m.Answer) != 2 {
			t.Errorf("%s: %v", proto, m)
		}
	}
	hits := 0
	for line := range strings.Lines(get(t, "http://127.0.0.1:"+metrics+"/metrics")) {
		if strings.HasPrefix(line, "coredns_cache_hits_total{") && strings.Contains(line, `type="success"`) && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			hits++
		}
	}
	if hits != 5 {
		t.Errorf("hits in %d servers, want one in each of 5", hits)
	}
}

// Reloads by SIGUSR1 keep connections over TLS, and hand them to the new
// configuration. Caddy removes its event hooks for this signal.
func TestSignalReloadKeepsTLSConnections(t *testing.T) {
	needsFastPath(t)
	n := startNode(t, self(t), "", "127.0.0.1", "")
	dir := filepath.Dir(n.conf)
	pool, dot := certificate(t, dir), freePort(t)
	reload := func(times int) {
		// Another option of the cache, so that it does not keep its entries.
		write(t, dir, "Corefile", fmt.Sprintf(cachedBlock, n.port, "127.0.0.1", "", n.metrics)+fmt.Sprintf(`tls://.:%s {
    bind 127.0.0.1
    tls %s %s
    cache %d
    template IN A {
        answer "{{ .Name }} 3600 IN A 192.0.2.%d"
    }
}
`, dot, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), 1000+times, times))
		if err := n.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		n.reloaded(t, times, 1+n.workers(t))
	}
	reload(1)
	client := dns.Client{Net: "tcp-tls", TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	conn, err := client.DialContext(t.Context(), "127.0.0.1:"+dot)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := new(dns.Msg)
	r.SetQuestion("www.test.", dns.TypeA)
	for times := 1; times <= 3; times++ {
		if times > 1 {
			reload(times)
		}
		m, _, err := client.ExchangeWithConnContext(t.Context(), r, conn)
		if err != nil {
			t.Fatalf("after reload %d: %v", times, err)
		}
		want := fmt.Sprintf("192.0.2.%d", times)
		if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), want) {
			t.Errorf("after reload %d: %v, want %s", times, m.Answer, want)
		}
	}
}

// overQUIC asks as RFC 9250 has it: with 0 as identifier, in a stream that the
// client ends.
func overQUIC(t *testing.T, addr string, pool *x509.CertPool, r *dns.Msg) *dns.Msg {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), addr, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"doq"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	s, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := wireOf(t, r)
	if _, err := s.Write(append([]byte{byte(len(b) >> 8), byte(len(b)), 0, 0}, b[2:]...)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(io.LimitReader(s, 1<<16))
	if err != nil || len(reply) < 2 {
		t.Fatalf("quic: %d bytes, %v", len(reply), err)
	}
	return messageOf(t, reply[2:])
}

func overGRPC(t *testing.T, addr string, pool *x509.CertPool, r *dns.Msg) *dns.Msg {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := pb.NewDnsServiceClient(conn).Query(t.Context(), &pb.DnsPacket{Msg: wireOf(t, r)})
	if err != nil {
		t.Fatal(err)
	}
	return messageOf(t, reply.GetMsg())
}

func wireOf(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageOf(t *testing.T, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
	return m
}

func overHTTPS(t *testing.T, url string, pool *x509.CertPool, r *dns.Msg) (*dns.Msg, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(wireOf(t, r)))
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
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	return messageOf(t, body), resp.Header
}
