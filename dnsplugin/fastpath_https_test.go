//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// overHTTPS is the server block of the tests, served over HTTPS.
func overHTTPS(directive string) string {
	return "https" + strings.TrimPrefix(secured(simple, directive), "tls")
}

// httpClient returns a client of HTTP/2, or of HTTP/1.1.
func httpClient(t *testing.T, http2 bool, edit ...func(*tls.Config)) *http.Client {
	t.Helper()
	config := clientTLS()
	for _, e := range edit {
		e(config)
	}
	transport := &http.Transport{ForceAttemptHTTP2: http2, TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: inTime}
}

// fetch sends a request and returns the reply with its body.
func (s *testServer) fetch(c *http.Client, method, path, mediaType string, body []byte) (*http.Response, []byte, error) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	resp, err := c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

const dnsMessage = "application/dns-message"

// askHTTP sends r by POST or GET.
func (s *testServer) askHTTP(c *http.Client, method string, r *dns.Msg) (*http.Response, []byte, error) {
	s.t.Helper()
	p := wireOf(s.t, r)
	if method == http.MethodPost {
		return s.fetch(c, method, "/dns-query", dnsMessage, p)
	}
	return s.fetch(c, method, "/dns-query?dns="+base64.RawURLEncoding.EncodeToString(p), "", nil)
}

func TestHTTPSAnswersFromTheCacheAndMissesGoThroughTheChain(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	logged := captureLog(t)
	s := start(t, fmt.Sprintf(overHTTPS(certificate(t)), "prometheus 127.0.0.1:0", ""), map[string]*source{"A": src})
	c := httpClient(t, true)
	for i, method := range []string{http.MethodPost, http.MethodPost, http.MethodGet} {
		r := question("wWw.example.org.", dns.TypeA)
		r.SetEdns0(1232, true)
		resp, body, err := s.askHTTP(c, method, r)
		if err != nil {
			t.Fatal(err)
		}
		m := messageOf(t, body)
		if m.Id != r.Id || !m.Response || len(m.Answer) != 1 || m.Question[0].Name != "wWw.example.org." || !m.IsEdns0().Do() {
			t.Fatalf("%d: %v", i, m)
		}
		if resp.ProtoMajor != 2 || resp.Header.Get("Content-Type") != dnsMessage || resp.Header.Get("Cache-Control") != fmt.Sprintf("max-age=%d", m.Answer[0].Header().Ttl) {
			t.Errorf("%s %v", resp.Proto, resp.Header)
		}
	}
	f := s.fast()
	if src.count() != 1 || hitsOf(f) != 2 || declinesOf(f)["miss"] != 1 {
		t.Errorf("%d asked, %d hits, %v", src.count(), hitsOf(f), declinesOf(f))
	}
	// Clients without HTTP/2 are served by CoreDNS's handler.
	resp, body, err := s.askHTTP(httpClient(t, false), http.MethodPost, question("www.example.org.", dns.TypeA))
	if err != nil || resp.ProtoMajor != 1 || len(messageOf(t, body).Answer) != 1 || hitsOf(f) != 2 {
		t.Errorf("HTTP/1.1: %v %v", resp, err)
	}
	proc.listeners.Flush()
	series := gathered(t, "https://"+s.addr)
	for name, want := range map[string]float64{
		"coredns_dns_requests_total{family=1,proto=tcp,type=A,view=,zone=.}": 4,
		"coredns_dns_https_responses_total{status=200}":                      4,
		"coredns_penstock_fastpath_declined_total{reason=miss}":              1,
		"coredns_cache_hits_total{type=success,view=,zones=.}":               2, // the last query has no DO bit
		"coredns_penstock_fastpath_steered{proto=tcp,why=}":                  1,
		"coredns_penstock_fastpath_zone{why=,zone=.}":                        1,
	} {
		m := series[name]
		if got := m.GetCounter().GetValue() + m.GetGauge().GetValue(); m == nil || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if n := responses(series); n != 4 || strings.Contains(logged(), "WARN") {
		t.Errorf("%v responses; %s", n, logged())
	}
}

// Requests of every form get the status, the headers and the body that they
// get from CoreDNS alone.
func TestHTTPSRepliesAreCoreDNSs(t *testing.T) {
	directive := certificate(t)
	on := start(t, fmt.Sprintf(overHTTPS(directive), "", ""), map[string]*source{"A": variety()})
	off := start(t, strings.Replace(fmt.Sprintf(overHTTPS(directive), "", ""), "fastpath on", "fastpath off", 1), map[string]*source{"A": variety()})
	if on.fast() == nil || off.fast() != nil {
		t.Fatal("fast path")
	}
	get := func(p []byte) string { return "/dns-query?dns=" + base64.RawURLEncoding.EncodeToString(p) }
	query := func(name string, edit ...func(*dns.Msg)) []byte {
		r := question(name+".example.org.", dns.TypeA, edit...)
		r.Id = 7
		return wireOf(t, r)
	}
	type request struct {
		method, path, mediaType string
		body                    []byte
	}
	all := map[string]request{
		"put":           {http.MethodPut, "/dns-query", dnsMessage, query("one")},
		"head":          {http.MethodHead, get(query("one")), "", nil},
		"path":          {http.MethodPost, "/other", dnsMessage, query("one")},
		"media type":    {http.MethodPost, "/dns-query", "text/plain", query("one")},
		"no media type": {http.MethodPost, "/dns-query", "", query("one")},
		"no body":       {http.MethodPost, "/dns-query", dnsMessage, nil},
		"bad body":      {http.MethodPost, "/dns-query", dnsMessage, []byte("nonsense, but longer than a header")},
		"long body":     {http.MethodPost, "/dns-query", dnsMessage, make([]byte, 65_536)},
		"no query":      {http.MethodGet, "/dns-query", "", nil},
		"bad base64":    {http.MethodGet, "/dns-query?dns=!", "", nil},
		"padded base64": {http.MethodGet, get(query("one")) + "=", "", nil},
		"two queries":   {http.MethodGet, get(query("one")) + "&dns=x", "", nil},
		"other param":   {http.MethodGet, get(query("one")) + "&x=y", "", nil},
		"long query": {http.MethodPost, "/dns-query", dnsMessage, query("one", func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 2000)}}
		})},
		"padding": {http.MethodPost, "/dns-query", dnsMessage, query("one", func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 80)}}
		})},
		"keepalive": {http.MethodPost, "/dns-query", dnsMessage, query("one", func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
		})},
	}
	for _, name := range []string{"one", "many", "alias", "nx", "nodata", "srv", "huge"} {
		all["POST "+name] = request{http.MethodPost, "/dns-query", dnsMessage, query(name)}
		all["GET "+name] = request{http.MethodGet, get(query(name)), "", nil}
	}
	for name, p := range oddPackets(t) {
		all["odd "+name] = request{http.MethodPost, "/dns-query", dnsMessage, p}
	}
	clients := map[string][2]*http.Client{"HTTP/2": {httpClient(t, true), httpClient(t, true)}, "HTTP/1.1": {httpClient(t, false), httpClient(t, false)}}
	for version, pair := range clients {
		for name, r := range all {
			if name == "POST many" || name == "GET many" {
				continue // in any order
			}
			var differ string
			for range 5 { // the TTLs may be of two seconds
				var said [2]string
				for i, s := range []*testServer{on, off} {
					for range 2 { // the second one from the cache
						resp, body, err := s.fetch(pair[i], r.method, r.path, r.mediaType, r.body)
						if err != nil {
							t.Fatalf("%s %s: %v", version, name, err)
						}
						if m := new(dns.Msg); m.Unpack(body) == nil {
							body = []byte(m.String())
							resp.Header.Del("Content-Length") // names may be compressed
						}
						said[i] = fmt.Sprintf("%s %s %q %q %s", resp.Proto, resp.Status, resp.Header["Content-Type"], resp.Header["Cache-Control"], body)
					}
				}
				if differ = ""; said[0] != said[1] {
					differ = said[0] + "\n" + said[1]
					continue
				}
				break
			}
			if differ != "" {
				t.Errorf("%s %s: %s", version, name, differ)
			}
		}
	}
	if f := on.fast(); hitsOf(f) < 12 {
		t.Errorf("%d hits", hitsOf(f))
	}
}

// Listeners that must not be answered past the chain, or past what CoreDNS does
// with connections and requests, are served by CoreDNS alone.
func TestHTTPSEligibility(t *testing.T) {
	for _, tt := range []struct{ lines, why string }{
		{"", ""},
		{"loadbalance", ""},
		{"acl {\nallow\n}", front.ErrAllDecline.Error()},
		{"fastpath off", front.ErrAllDecline.Error()},
		{"validate", "HTTP request"},
		{"client_auth", "certificates"},
	} {
		t.Run(strings.Fields(tt.lines + " none")[0], func(t *testing.T) {
			directive, lines := certificate(t), tt.lines
			client := httpClient(t, true)
			path := "/dns-query"
			switch tt.lines {
			case "client_auth":
				pair, err := tls.LoadX509KeyPair(strings.Fields(directive)[1], strings.Fields(directive)[2])
				if err != nil {
					t.Fatal(err)
				}
				client = httpClient(t, true, func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} })
				directive, lines = directive+" {\n client_auth require\n}", ""
			case "fastpath off":
				lines = ""
			case "validate":
				path = "/other"
			}
			text := fmt.Sprintf(overHTTPS(directive), lines, "")
			if tt.lines == "fastpath off" {
				text = strings.Replace(text, "fastpath on", "fastpath off", 1)
			}
			s := start(t, text, map[string]*source{"A": variety()})
			if f := s.fast(); (f != nil) != (tt.why == "") {
				t.Fatalf("fast path: %v", f != nil)
			}
			if why := s.tcpReason(); !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
				t.Errorf("metric: %q, want %q", why, tt.why)
			}
			for range 2 {
				resp, body, err := s.fetch(client, http.MethodPost, path, dnsMessage, wireOf(t, question("one.example.org.", dns.TypeA)))
				if err != nil || resp.StatusCode != http.StatusOK || len(messageOf(t, body).Answer) != 1 {
					t.Errorf("%v %v", resp, err)
				}
			}
			if f := s.fast(); f != nil && hitsOf(f) != 1 {
				t.Errorf("%d hits, %v", hitsOf(f), declinesOf(f))
			}
		})
	}
}

// Reloads lose no request, and keep the connections of both versions of HTTP.
func TestReloadKeepsHTTPConnections(t *testing.T) {
	corefile := fmt.Sprintf(overHTTPS(certificate(t)), "", "")
	s := start(t, corefile, map[string]*source{"A": variety()})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answered, opened atomic.Int64
	p := wireOf(t, question("one.example.org.", dns.TypeA))
	for _, http2 := range []bool{true, true, false} {
		c := httpClient(t, http2)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) {
			if !g.Reused {
				opened.Add(1)
			}
		}})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := postOnce(ctx, c, "https://"+s.addr+"/dns-query", p); err != nil {
					t.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for _, text := range []string{corefile, corefile, strings.Replace(corefile, "errors", "errors\n    acl {\n allow\n }", 1), corefile} {
		if err := s.reload(text); err != nil {
			t.Fatal(err)
		}
		before := answered.Load()
		until(t, "answers", func() bool { return answered.Load() > before+10 })
	}
	close(stop)
	wg.Wait()
	if n := opened.Load(); n != 3 {
		t.Errorf("%d connections were opened", n)
	}
}

func postOnce(ctx context.Context, c *http.Client, url string, p []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(p))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", dnsMessage)
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}

// The end of the server answers the requests that are under way.
func TestShutdownAnswersHTTPRequests(t *testing.T) {
	src, open := gated()
	defer open()
	s := start(t, fmt.Sprintf(overHTTPS(certificate(t)), "", ""), map[string]*source{"A": src})
	streams := s.streamsOf()
	var wg sync.WaitGroup
	for name, http2 := range map[string]bool{"one.example.org.": true, "two.example.org.": false} {
		c := httpClient(t, http2)
		wg.Go(func() {
			resp, body, err := s.askHTTP(c, http.MethodPost, question(name, dns.TypeA))
			if err != nil || resp.StatusCode != http.StatusOK || len(messageOf(t, body).Answer) != 1 {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	until(t, "the requests", func() bool { return src.count() == 2 })
	home := s.fast().Home
	done := make(chan error)
	begun := time.Now()
	go func() { done <- proc.listeners.Release(home) }()
	until(t, "the end to begin", func() bool { return s.fast() == nil })
	open()
	wg.Wait()
	if err := <-done; err != nil || streams.Conns() != 0 {
		t.Errorf("%v, %d connections after %v", err, streams.Conns(), time.Since(begun))
	}
}
