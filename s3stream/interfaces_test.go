package s3stream_test

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// TestInterfaces reads objects over two local addresses, which both carry
// requests.
func TestInterfaces(t *testing.T) {
	var mu sync.Mutex
	from := map[string]int{}
	o, err := testorigin.Start(testorigin.Options{Tap: func(e testorigin.Event) {
		host, _, _ := net.SplitHostPort(e.Remote)
		mu.Lock()
		defer mu.Unlock()
		from[host]++
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	put(t, o, "b", "k", goTree(t, 24<<20))
	opts := s3stream.GetOptions{
		URIs:   []string{"s3://b/k"},
		Output: s3stream.Output{Dir: t.TempDir()},
		S3: s3stream.S3{
			Endpoint: o.URL(), AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey,
			Interfaces: []string{"127.0.0.2", "127.0.0.3"},
		},
	}
	if err := opts.Validate(); err != nil {
		t.Skipf("needs 127.0.0.2 and 127.0.0.3: %v", err)
	}
	if _, err := s3stream.Get(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 2 || from["127.0.0.2"] == 0 || from["127.0.0.3"] == 0 {
		t.Errorf("requests by local address: %v, want both of %v and no other", from, opts.S3.Interfaces)
	}
}

func TestInterfacesValidate(t *testing.T) {
	s3 := s3stream.S3{Interfaces: []string{"nosuchif0"}}
	get := s3stream.GetOptions{URIs: []string{"s3://b/k"}, S3: s3, Output: s3stream.Output{Dir: t.TempDir()}}
	lead := s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Insecure: true}
	for _, err := range []error{get.Validate(), lead.Validate()} {
		if err == nil || !strings.Contains(err.Error(), `interfaces: no interface or address "nosuchif0" on this host: use one of`) {
			t.Errorf("an unknown interface: error %v", err)
		}
	}
}
