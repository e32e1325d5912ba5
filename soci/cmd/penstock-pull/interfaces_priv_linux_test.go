package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/netlab"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestPrivInterfaces pulls an image over two network interfaces of one subnet.
// Both carry bytes of the layer. Then one goes down, and the pull ends with the
// right file.
func TestPrivInterfaces(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: pulls for several seconds")
	}
	if err := netlab.Available(); err != nil {
		t.Skip(err)
	}
	const rate = 200 * netlab.Mbit // slow enough that requests are in flight when the link goes down
	lab, err := netlab.New(netlab.Options{Hosts: []string{"server", "client"}, Switches: []string{"switch"}, Links: []netlab.Link{
		{A: "server", B: "switch"},
		{A: "switch", B: "client", RateAB: rate, RateBA: rate},
		{A: "switch", B: "client", RateAB: rate, RateBA: rate},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	var (
		mu      sync.Mutex
		carried = map[string]int64{} // by the client's address
		both    = make(chan struct{})
		once    sync.Once
	)
	eth0, eth1 := lab.Addr("client", 0).String(), lab.Addr("client", 1).String()
	o, err := testorigin.Start(testorigin.Options{
		Listen: func(_ context.Context, network, _ string) (net.Listener, error) {
			return lab.Listen("server", network, lab.Addr("server", 0).String()+":0")
		},
		Tap: func(e testorigin.Event) {
			host, _, _ := net.SplitHostPort(e.Remote)
			mu.Lock()
			defer mu.Unlock()
			carried[host] += e.Bytes
			if carried[eth0] > 4<<20 && carried[eth1] > 4<<20 {
				once.Do(func() { close(both) })
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	content := sources(t, 64<<20)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "sources", Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := o.PutImage("two/cards", "1", digest.SHA256, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, layer.Bytes()); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], "--hosts-dir", "none", "--plain-http", "--interfaces", "eth0,eth1", "--root", root, o.Host()+"/two/cards:1")
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error, 1)
	go func() { done <- lab.Run(t.Context(), "client", cmd) }()
	select {
	case err := <-done:
		t.Fatalf("the pull ended before both interfaces carried bytes: %v: %s", err, out.String())
	case <-both:
	}
	if err := lab.SetLink(1, false); err != nil { // eth0 of the client
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	got, err := os.ReadFile(filepath.Join(root, "sources"))
	if err != nil || sha256.Sum256(got) != sha256.Sum256(content) {
		t.Errorf("the file of the layer has %d bytes, want %d: %v", len(got), len(content), err)
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("bytes by address of the client: %v", carried)
}

// sources returns n bytes of Go source files.
func sources(t *testing.T, n int) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goroot(t), "src", "net", "http", "*.go"))
	if err != nil || len(files) == 0 {
		t.Skip("needs the Go source tree: ", err)
	}
	var all []byte
	for i := 0; len(all) < n; i++ {
		data, err := os.ReadFile(files[i%len(files)])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all[:n]
}
