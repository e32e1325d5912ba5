package soci_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestInterfaces pulls an image over two local addresses. Both carry requests,
// and no request, not even one for a token, leaves from another address.
func TestInterfaces(t *testing.T) {
	var (
		mu      sync.Mutex
		pulling bool
		from    = map[string]int{}
	)
	o := origin(t, testorigin.Options{
		Registry: testorigin.RegistryOptions{Auth: "token", RedirectBlobs: true},
		Tap: func(e testorigin.Event) {
			host, _, _ := net.SplitHostPort(e.Remote)
			mu.Lock()
			defer mu.Unlock()
			if pulling {
				from[host]++
			}
		},
	})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	opts := soci.Options{Interfaces: []string{"127.0.0.2", "127.0.0.3"}}
	if err := opts.Validate(); err != nil {
		t.Skipf("needs 127.0.0.2 and 127.0.0.3: %v", err)
	}
	p := puller(t, func(o *soci.Options) { o.Interfaces = opts.Interfaces })
	mu.Lock()
	pulling = true
	mu.Unlock()
	dir, _ := target(t)
	if _, err := p.Pull(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 2 || from["127.0.0.2"] == 0 || from["127.0.0.3"] == 0 {
		t.Errorf("requests by local address: %v, want both of %v and no other", from, opts.Interfaces)
	}
}

func TestInterfacesValidate(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	for _, tt := range []struct {
		opts soci.Options
		want string
	}{
		{soci.Options{Interfaces: []string{"nosuchif0"}}, `interfaces: no interface or address "nosuchif0" on this host: use one of`},
		{soci.Options{Interfaces: []string{"127.0.0.1", "203.0.113.7"}}, "interfaces: local address 203.0.113.7 is not on this host: use one of"},
		{soci.Options{Interfaces: []string{"127.0.0.1", ""}}, "interfaces: entry 2 is empty"},
		{soci.Options{Interfaces: []string{"127.0.0.1"}, DialContext: dial}, "interfaces exclude"},
		{soci.Options{Interfaces: []string{"127.0.0.1"}, HTTPClient: http.DefaultClient}, "interfaces exclude"},
	} {
		if err := tt.opts.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("interfaces %q: error %v, want one with %q", tt.opts.Interfaces, err, tt.want)
		}
	}
}
