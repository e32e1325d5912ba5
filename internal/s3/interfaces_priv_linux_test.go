package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/netlab"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// interfacesEnv makes the test binary act as the client of TestPrivInterfaces,
// because all sockets of a client must belong to its network namespace. Its
// value is an interfacesJob in JSON.
const interfacesEnv = "S3_INTERFACES_CLIENT"

type interfacesJob struct {
	Endpoint   string
	Interfaces []string
}

// runInterfacesClient streams data/k and prints the SHA-256 of its bytes.
func runInterfacesClient() error {
	var job interfacesJob
	if err := json.Unmarshal([]byte(os.Getenv(interfacesEnv)), &job); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := New(ctx, Options{
		Endpoint: job.Endpoint, Interfaces: job.Interfaces, Region: testorigin.Region,
		Credentials: StaticCredentials(testorigin.AccessKey, testorigin.SecretKey, ""),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	// A short Stall shortens the test: requests over the dead interface end by it
	// unless a hedge overtakes them.
	engine, err := ranges.New(ranges.Options{PartBytes: 1 << 20, Retry: ranges.RetryPolicy{Stall: 2 * time.Second}})
	if err != nil {
		return err
	}
	defer engine.Close()
	info, err := c.Head(ctx, "data", "k")
	if err != nil {
		return err
	}
	s := engine.Object(c.Source("data", "k", SourceOptions{}), c.Spec("data", "k", info)).Stream(ctx, 0, -1, ranges.StreamOptions{})
	defer s.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, s); err != nil {
		return err
	}
	fmt.Printf("%x", sum.Sum(nil))
	return nil
}

// TestPrivInterfaces transfers an object over two network interfaces of one
// subnet. Both carry bytes. Then one goes down in the middle of the transfer,
// and the rest arrives over the other one.
func TestPrivInterfaces(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: transfers for several seconds")
	}
	if err := netlab.Available(); err != nil {
		t.Skip(err)
	}
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("one dies %v", dies), func(t *testing.T) { testInterfaces(t, dies) })
	}
}

func testInterfaces(t *testing.T, dies bool) {
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
		closed  bool
	)
	eth0, eth1 := lab.Addr("client", 0).String(), lab.Addr("client", 1).String()
	origin, err := testorigin.Start(testorigin.Options{
		Listen: func(_ context.Context, network, _ string) (net.Listener, error) {
			return lab.Listen("server", network, lab.Addr("server", 0).String()+":0")
		},
		Tap: func(e testorigin.Event) {
			host, _, _ := net.SplitHostPort(e.Remote)
			mu.Lock()
			defer mu.Unlock()
			carried[host] += e.Bytes
			if !closed && carried[eth0] > 4<<20 && carried[eth1] > 4<<20 {
				closed = true
				close(both)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	object := bytes.Repeat(realBytes(t, 8<<20), 8)
	if err := origin.Put("data", "k", object); err != nil {
		t.Fatal(err)
	}
	job, err := json.Marshal(interfacesJob{Endpoint: origin.URL(), Interfaces: []string{"eth0", "eth1"}})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), interfacesEnv+"="+string(job), "AWS_EC2_METADATA_DISABLED=true")
	cmd.Stdout, cmd.Stderr = &out, &errs
	done := make(chan error, 1)
	go func() { done <- lab.Run(t.Context(), "client", cmd) }()
	select {
	case err := <-done:
		t.Fatalf("the client ended before both interfaces carried bytes: %v: %s", err, errs.String())
	case <-both:
	}
	if dies {
		if err := lab.SetLink(1, false); err != nil { // eth0 of the client
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatalf("client: %v: %s", err, errs.String())
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(object)); strings.TrimSpace(out.String()) != want {
		t.Errorf("SHA-256 of the transfer is %q, want %s", out.String(), want)
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("bytes by address of the client: %v", carried)
	share := float64(carried[eth0]) / float64(carried[eth0]+carried[eth1])
	if !dies && (share < 0.3 || share > 0.7) {
		t.Errorf("eth0 carried %.0f %% of the bytes, want about half: %v", 100*share, carried)
	}
}
