package httprange_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/httprange"
)

// script is a server that answers the requests of each connection with the given
// bytes, one answer each, and then closes it. It counts connections.
type script struct {
	ln    net.Listener
	conns atomic.Int64
	wg    sync.WaitGroup
}

func newScript(t *testing.T, answers func(conn int64) []string) *script {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{ln: ln}
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := s.conns.Add(1)
			s.wg.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for _, a := range answers(n) {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if _, err := io.WriteString(c, a); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); s.wg.Wait() })
	return s
}

func (s *script) url() string { return "http://" + s.ln.Addr().String() + "/x" }

func direct(t *testing.T) *http.Client {
	t.Helper()
	c, _ := httprange.NewClients(nil, nil)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func read(t *testing.T, c *http.Client, url string) (string, error) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestDirectKeepsConnections(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	for name, c := range map[string]struct {
		answers []string
		conns   int64
	}{
		"lengths":            {[]string{ok, ok, ok}, 1},
		"chunks":             {[]string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", ok}, 1},
		"interim answers":    {[]string{"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok, ok}, 1},
		"connection: close":  {[]string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", ok}, 2},
		"HTTP/1.0":           {[]string{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", ok}, 2},
		"more than promised": {[]string{ok + "surplus", ok}, 2},
		"until the end":      {[]string{"HTTP/1.1 200 OK\r\n\r\nhi"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, func(int64) []string { return c.answers })
			cl := direct(t)
			for range 2 {
				if b, err := read(t, cl, s.url()); b != "hi" || err != nil {
					t.Fatalf("got %q, %v", b, err)
				}
			}
			if n := s.conns.Load(); n != c.conns {
				t.Errorf("%d connections, want %d", n, c.conns)
			}
		})
	}
}

// A server may close an idle connection at any time; then the request uses a new
// one. A new connection that is closed without an answer is an error.
func TestDirectIdleConnectionClosed(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	s := newScript(t, func(conn int64) []string {
		if conn == 3 {
			return nil
		}
		return []string{ok}
	})
	c := direct(t)
	for range 2 {
		if b, err := read(t, c, s.url()); b != "hi" || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	if n := s.conns.Load(); n != 2 {
		t.Fatalf("%d connections, want 2", n)
	}
	if _, err := read(t, c, s.url()); err == nil {
		t.Fatal("no error from a connection that was closed without an answer")
	}
}

func TestDirectBadAnswers(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"no HTTP":          {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed"},
		"cut head":         {"HTTP/1.1 200 OK\r\nContent-Le", "before it answered"},
		"endless head":     {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Pad: "+strings.Repeat("x", 1000)+"\r\n", 1100) + "\r\n", "header is longer"},
		"cut body":         {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "unexpected EOF"},
		"cut chunks":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi", "unexpected EOF"},
		"interim for ever": {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9), "interim"},
		"another protocol": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "switched protocols"},
		"two lengths":      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", "Content-Length"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, func(int64) []string { return []string{c.answer} })
			if _, err := read(t, direct(t), s.url()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

// held starts a server that sends a header and some bytes, signals on the channel,
// and waits for the end of the request.
func held(t *testing.T, n int) (*httptest.Server, chan struct{}) {
	t.Helper()
	sent := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n >= 0 {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, n))
			_ = http.NewResponseController(w).Flush()
		}
		sent <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	return srv, sent
}

func TestDirectCancel(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cause := errors.New("enough")
	for name, n := range map[string]int{"before the head": -1, "in the body": 100} {
		t.Run(name, func(t *testing.T) {
			srv, sent := held(t, n)
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() { <-sent; cancel(cause) }()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			resp, err := direct(t).Do(req)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want the cause", err)
			}
		})
	}
}

// Close ends a Read of another goroutine, and a later Read fails, because missing
// bytes must not look like the end of the body.
func TestDirectCloseEndsRead(t *testing.T) {
	srv, _ := held(t, 100)
	resp, err := direct(t).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := resp.Body.Read(make([]byte, 1)); done <- err }()
	resp.Body.Close()
	if err := <-done; err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("a Read that Close ended says %v", err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("a Read after Close says %v", err)
	}
}

func TestDirectFreshClient(t *testing.T) {
	var closes atomic.Int64
	remotes := sync.Map{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Close {
			closes.Add(1)
		}
		remotes.Store(r.RemoteAddr, true)
		_, _ = io.WriteString(w, "hi")
	}))
	defer srv.Close()
	_, fresh := httprange.NewClients(nil, nil)
	for range 3 {
		if b, err := read(t, fresh, srv.URL); b != "hi" || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	n := 0
	remotes.Range(func(any, any) bool { n++; return true })
	if n != 3 || closes.Load() != 3 {
		t.Errorf("%d connections, %d requests said that they close; want 3 and 3", n, closes.Load())
	}
}

func TestDirectTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") }))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	trusting, _ := httprange.NewClients(nil, &tls.Config{RootCAs: pool})
	defer trusting.CloseIdleConnections()
	for range 2 {
		if b, err := read(t, trusting, srv.URL); b != "hi" || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	if _, err := read(t, direct(t), srv.URL); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	if _, err := read(t, trusting, strings.Replace(plain.URL, "http:", "https:", 1)); !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("http on an https port: %v", err)
	}
}

// Requests that Transport doesn't serve go to net/http.
func TestDirectFallsBack(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, b)
	}))
	defer srv.Close()
	c := direct(t)
	resp, err := c.Post(srv.URL, "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); !bytes.HasSuffix(b, []byte(" body")) || !bytes.HasPrefix(b, []byte("POST")) {
		t.Errorf("POST gave %q", b)
	}
	std := httprange.NewTransport(nil)
	std.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(srv.URL) }
	proxied := &http.Client{Transport: httprange.NewDirect(std)}
	defer proxied.CloseIdleConnections()
	if b, err := read(t, proxied, "http://elsewhere.invalid/x"); b != "GET elsewhere.invalid " || err != nil {
		t.Errorf("through a proxy: %q, %v", b, err)
	}
	for _, bad := range []string{"ftp://127.0.0.1/x", "http://"} {
		if _, err := read(t, c, bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestDirectHead(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "12345") }))
	defer srv.Close()
	for range 2 {
		resp, err := direct(t).Head(srv.URL)
		if err != nil || resp.ContentLength != 12345 {
			t.Fatalf("%v, %v", resp, err)
		}
		resp.Body.Close()
	}
}

// pipes dials in-memory connections, each request of which gets one answer, for
// tests in fake time.
type pipes struct {
	open  atomic.Int64
	dials atomic.Int64
	wg    sync.WaitGroup
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	p.dials.Add(1)
	p.open.Add(1)
	a, b := net.Pipe()
	p.wg.Go(func() {
		defer p.open.Add(-1)
		in := bufio.NewReader(b)
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(b, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		}
	})
	return a, nil
}

func TestDirectIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pipes
		c, _ := httprange.NewClients(p.dial, nil)
		get := func() {
			t.Helper()
			if b, err := read(t, c, "http://origin/x"); b != "hi" || err != nil {
				t.Fatalf("got %q, %v", b, err)
			}
		}
		get()
		time.Sleep(30 * time.Second)
		get()
		time.Sleep(30 * time.Second) // the timer has run once in between
		synctest.Wait()
		if p.dials.Load() != 1 || p.open.Load() != 1 {
			t.Errorf("%d dials, %d open; want one connection that lives", p.dials.Load(), p.open.Load())
		}
		time.Sleep(46 * time.Second)
		synctest.Wait()
		if p.open.Load() != 0 {
			t.Errorf("%d connections are open after they were idle for 76 s", p.open.Load())
		}
		get()
		c.CloseIdleConnections()
		p.wg.Wait()
	})
}

// Many goroutines share a client, and each gets its own bytes.
func TestDirectConcurrent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(r.URL.Path[1:], 20_000))
	}))
	defer srv.Close()
	c := direct(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 25 {
				name := fmt.Sprintf("%d-%d.", g, i)
				b, err := read(t, c, srv.URL+"/"+name)
				if err != nil || b != strings.Repeat(name, 20_000) {
					t.Errorf("%s: %d bytes, %v", name, len(b), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// FuzzDirectAnswer checks that Transport reads an answer as net/http does.
func FuzzDirectAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
		"\x16\x03\x01\x00\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				if _, err := http.ReadRequest(bufio.NewReader(b)); err == nil {
					_, _ = b.Write(answer)
				}
			}()
			return a, nil
		}
		std := httprange.NewTransport(dial)
		defer std.CloseIdleConnections()
		want, wantErr := answerOf(std)
		got, gotErr := answerOf(httprange.NewDirect(httprange.NewTransport(dial)))
		if (wantErr == nil) != (gotErr == nil) || got != want {
			t.Fatalf("got %q, %v; net/http gets %q, %v", got, gotErr, want, wantErr)
		}
	})
}

func answerOf(rt http.RoundTripper) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://origin/x", nil)
	if err != nil {
		return "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return "", errors.New("another protocol")
	}
	b, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%s %v %d %q", resp.Status, resp.Header, resp.ContentLength, b), err
}
