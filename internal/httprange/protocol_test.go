package httprange_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/httprange"
)

// Concurrent requests use one HTTP/1.1 connection each, even if the server offers
// HTTP/2, where they would share one connection's flow control and its GOAWAY.
func TestOneConnectionPerRequest(t *testing.T) {
	const together = 4
	var all sync.WaitGroup
	all.Add(together)
	var mu sync.Mutex
	remotes, protocols := map[string]bool{}, map[string]bool{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		remotes[r.RemoteAddr], protocols[r.Proto] = true, true
		mu.Unlock()
		all.Done()
		all.Wait() // all requests have started before one ends
		_, _ = io.WriteString(w, "hi")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	client, _ := httprange.NewClients(nil, &tls.Config{RootCAs: pool})
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range together {
		wg.Go(func() {
			if b, err := read(t, client, srv.URL); b != "hi" || err != nil {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if len(remotes) != together || len(protocols) != 1 || !protocols["HTTP/1.1"] {
		t.Errorf("%d connections of %v for %d requests", len(remotes), protocols, together)
	}
}
