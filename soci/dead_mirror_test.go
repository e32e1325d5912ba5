package soci_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestDeadMirror measures the time that a dead mirror costs a pull from a
// healthy registry, and the next pull. Time is fake, so nothing else takes any.
func TestDeadMirror(t *testing.T) {
	layer := tarOf(t, "f", "x")
	dropped := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	silent := func(context.Context) (net.Conn, error) { // takes the request, never answers
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			for b := make([]byte, 1024); ; {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		return near, nil
	}
	answers := func(status int, after time.Duration) []testorigin.Fault {
		return []testorigin.Fault{{Op: "*", Every: 1, Action: testorigin.ActStatus, Status: status, RetryAfter: after}}
	}
	const (
		stagger = 2 * time.Second        // until the next host is asked as well
		hedge   = 400 * time.Millisecond // until a late request for a layer is sent to another host
		attempt = 10 * time.Second       // until a silent host is given up
	)
	for _, tt := range []struct {
		name   string
		dial   func(context.Context) (net.Conn, error) // nil means an origin with the faults
		faults []testorigin.Fault
		most   []time.Duration // of consecutive pulls
	}{
		{"packets dropped", dropped, nil, []time.Duration{time.Second, 0}}, // its dial_timeout
		{"silent", silent, nil, []time.Duration{stagger, 0}},
		{"429 with an hour to wait", nil, answers(429, time.Hour), []time.Duration{0, 0}},
		{"503", nil, answers(503, 0), []time.Duration{0, 0}},
		{"500", nil, answers(500, 0), []time.Duration{0, 0}},
		{"404", nil, answers(404, 0), []time.Duration{0, 0}},
		{"silent for layers", nil, []testorigin.Fault{{Op: "GetBlob", Key: "x@" + digest.FromBytes(layer).String(), Every: 1, Action: testorigin.ActStall}}, []time.Duration{hedge, attempt, 0}}, // a hedge is for one request in twenty
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &memNet{listeners: make(map[string]*memListener)}
			o := origin(t, testorigin.Options{Listen: n.Listen})
			put := func(o *testorigin.Origin) {
				t.Helper()
				if _, err := o.PutImage("x", "1", digest.SHA256, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, layer); err != nil {
					t.Fatal(err)
				}
			}
			put(o)
			mirror := "dead.example:80"
			if tt.dial == nil {
				bad := origin(t, testorigin.Options{Listen: n.Listen})
				put(bad)
				bad.SetFaults(tt.faults...)
				mirror = bad.Host()
			}
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "r.example"), 0o755); err != nil {
				t.Fatal(err)
			}
			toml := fmt.Sprintf("server = %q\n[host.%q]\ndial_timeout = \"1s\"\n", o.URL(), "http://"+mirror)
			if err := os.WriteFile(filepath.Join(dir, "r.example", "hosts.toml"), []byte(toml), 0o600); err != nil {
				t.Fatal(err)
			}
			p := puller(t, func(opts *soci.Options) {
				opts.HostsDir = dir
				opts.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if strings.HasPrefix(address, "dead.example:") {
						return tt.dial(ctx)
					}
					return n.Dial(ctx, network, address)
				}
			})
			for i, most := range tt.most {
				start := time.Now()
				dir, _ := target(t)
				if _, err := p.Pull(t.Context(), "r.example/x:1", dir); err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				if d := time.Since(start); d > most+100*time.Millisecond {
					t.Errorf("%s: pull %d took %v, want at most %v", tt.name, i+1, d, most)
				}
			}
		})
	}
}
