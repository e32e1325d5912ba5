package httprange

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/ranges"
)

// get makes a request and returns status and body.
func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// An unrequested answer on an idle connection is not taken for the answer to the
// next request, and a connection that the server has closed makes no request fail.
func TestUnrequestedAnswersAreDropped(t *testing.T) {
	plain := httptest.NewUnstartedServer(nil)
	secure := httptest.NewTLSServer(nil)
	defer plain.Close()
	defer secure.Close()
	trust := x509.NewCertPool()
	trust.AddCert(secure.Certificate())
	for name, unasked := range map[string]string{
		"408":     "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"403":     "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"206":     "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nno",
		"a byte":  "H",
		"the end": "",
	} {
		for _, encrypted := range []bool{false, true} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var conns atomic.Int64
			var wg sync.WaitGroup
			answered := make(chan struct{})
			wg.Go(func() {
				for {
					nc, err := ln.Accept()
					if err != nil {
						return
					}
					first := conns.Add(1) == 1
					wg.Go(func() {
						defer nc.Close()
						c := nc
						if encrypted {
							c = tls.Server(nc, &tls.Config{Certificates: secure.TLS.Certificates})
						}
						in := bufio.NewReader(c)
						for {
							if _, err := http.ReadRequest(in); err != nil {
								return
							}
							_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
							if first {
								<-answered
								if unasked == "" {
									return
								}
								_, _ = io.WriteString(c, unasked)
							}
						}
					})
				}
			})
			var dialed net.Conn
			client, _ := NewClients(func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
				if dialed == nil {
					dialed = nc
				}
				return nc, err
			}, &tls.Config{RootCAs: trust})
			url := "http://" + ln.Addr().String() + "/"
			if encrypted {
				url = "https" + url[len("http"):]
			}
			if code, b := get(t, client, url); code != 200 || b != "hi" {
				t.Fatalf("%d %q", code, b)
			}
			check := newIdleCheck(dialed)
			if !check.usable() && !encrypted { // with TLS, unread session tickets count as bytes
				t.Errorf("%s: a silent connection counts as unusable", name)
			}
			close(answered)
			for check.usable() { // until the answer has arrived
				runtime.Gosched()
			}
			if code, b := get(t, client, url); code != 200 || b != "hi" {
				t.Errorf("%s, TLS %v: the next request was answered with %d %q", name, encrypted, code, b)
			}
			if n := conns.Load(); n != 2 {
				t.Errorf("%s, TLS %v: %d connections", name, encrypted, n)
			}
			client.CloseIdleConnections()
			ln.Close()
			wg.Wait()
		}
	}
}

// The check of a connection before its reuse allocates nothing.
func TestIdleCheckAllocatesNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	check := newIdleCheck(nc)
	if n := testing.AllocsPerRun(100, func() {
		if !check.usable() {
			t.Error("unusable")
		}
	}); n != 0 && runtime.GOOS == "linux" {
		t.Errorf("%g allocations", n)
	}
}

// After a reused connection was silent, the other idle connections to its host are
// closed, because the same cause has probably cut them off.
func TestSilenceDropsIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open, dials atomic.Int64
		var wg sync.WaitGroup
		cutOff := make(chan struct{})
		client, _ := NewClients(func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			open.Add(1)
			a, b := net.Pipe()
			wg.Go(func() {
				defer open.Add(-1)
				in := bufio.NewReader(b)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					select {
					case <-cutOff: // the request is lost
						continue
					default:
					}
					time.Sleep(time.Second) // makes the three requests overlap
					_, _ = io.WriteString(b, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
				}
			})
			return a, nil
		}, nil)
		var three sync.WaitGroup
		for range 3 {
			three.Go(func() { get(t, client, "http://origin/x") })
		}
		three.Wait()
		if open.Load() != 3 || dials.Load() != 3 {
			t.Fatalf("%d of %d connections are open", open.Load(), dials.Load())
		}
		close(cutOff)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Second, func() { cancel(ranges.ErrStalled) })
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://origin/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(req); !errors.Is(err, ranges.ErrStalled) {
			t.Errorf("%v, %v", resp, err)
		}
		synctest.Wait()
		if open.Load() != 0 {
			t.Errorf("%d connections are still open", open.Load())
		}
		client.CloseIdleConnections()
		wg.Wait()
	})
}
