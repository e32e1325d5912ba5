package nic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/netlab"
)

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		runClient()
		return
	}
	goleak.VerifyTestMain(m)
}

// clientEnv makes the test binary act as the client of a measurement. The client is
// a process of its own, so that all of its sockets are in its network namespace.
const clientEnv = "NIC_CLIENT"

type clientJob struct {
	Locals  []string
	URL     string
	Streams int
	Seconds float64
	Bad     bool // report the error of New instead of measuring
	Hold    bool // hold two idle connections, and report the first that fails
}

// runClient prints how many bytes per second parallel ranged GETs receive, measured
// over a fixed time after the streams have settled.
func runClient() {
	var job clientJob
	if err := json.Unmarshal([]byte(os.Getenv(clientEnv)), &job); err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	d, err := New(Options{Locals: job.Locals})
	if job.Bad {
		fmt.Println(err)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if job.Hold {
		holdConnections(d, job.URL)
		return
	}
	tr := &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: job.Streams}
	ctx, cancel := context.WithCancel(context.Background())
	var total atomic.Int64
	var wg sync.WaitGroup
	for i := range job.Streams {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for n := 0; ctx.Err() == nil; n++ {
				if err := getRange(ctx, tr, job.URL, (i+n)%64, buf, &total); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
		})
	}
	<-time.After(500 * time.Millisecond) // slow start and the bucket's burst are over
	before, start := total.Load(), time.Now()
	<-time.After(time.Duration(job.Seconds * float64(time.Second)))
	rate := float64(total.Load()-before) / time.Since(start).Seconds()
	cancel()
	wg.Wait()
	fmt.Println(int64(rate))
}

// holdConnections opens two connections, prints a line, and then the local address
// and the error of the connection that fails first.
func holdConnections(d *Dialer, address string) {
	failed := make(chan string, 2)
	for range 2 {
		c, err := d.DialContext(context.Background(), "tcp", address)
		if err != nil {
			fmt.Println(err)
			return
		}
		go func() {
			_, err := c.Read(make([]byte, 1))
			failed <- fmt.Sprintf("%v: %v", c.LocalAddr(), err)
		}()
	}
	fmt.Println("connected")
	fmt.Println(<-failed)
}

// getRange requests one 4 MiB part of the object.
func getRange(ctx context.Context, tr http.RoundTripper, url string, part int, buf []byte, total *atomic.Int64) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", part<<22, (part+1)<<22-1))
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("status %s", resp.Status)
	}
	for {
		n, err := resp.Body.Read(buf)
		total.Add(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// measure runs the client inside the lab's host and returns bytes a second.
func measure(t *testing.T, lab *netlab.Lab, job clientJob) float64 {
	t.Helper()
	out := run(t, lab, job)
	var rate float64
	if _, err := fmt.Sscan(out, &rate); err != nil {
		t.Fatalf("client said %q", out)
	}
	return rate
}

func run(t *testing.T, lab *netlab.Lab, job clientJob) string {
	t.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := lab.Run(t.Context(), "client", cmd); err != nil {
		t.Fatalf("client: %v: %s", err, errs.String())
	}
	return out.String()
}

// serve starts an HTTP server for a 256 MiB object inside the lab. The object
// repeats the test binary, whose bytes are real.
func serve(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	object := bytes.NewReader(bytes.Repeat(self, 256<<20/len(self)+1))
	ln, err := lab.Listen("server", "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(object, 0, 256<<20))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

func newLab(t *testing.T, o netlab.Options) *netlab.Lab {
	t.Helper()
	if err := netlab.Available(); err != nil {
		t.Skip(err)
	}
	lab, err := netlab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// TestPrivTwoLinks checks the claim of the package, that a transfer over two links
// of 400 Mbit/s has at least 1.9 times the rate of one link. The links limit the
// rate, not the machine. The test repeats a measurement that a busy machine
// disturbed.
func TestPrivTwoLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("short: measures for several seconds")
	}
	const rate = 400 * netlab.Mbit
	for _, c := range []struct {
		name     string
		options  netlab.Options
		one, two []string
	}{
		{
			// Two cards in one subnet, as in cloud instances. Only binding to the
			// device uses the second one.
			name: "interfaces of one subnet",
			options: netlab.Options{Hosts: []string{"server", "client"}, Switches: []string{"switch"}, Links: []netlab.Link{
				{A: "server", B: "switch", MTU: 9000},
				{A: "switch", B: "client", RateAB: rate, RateBA: rate, MTU: 9000},
				{A: "switch", B: "client", RateAB: rate, RateBA: rate, MTU: 9000},
			}},
			one: []string{"eth0"}, two: []string{"eth0", "eth1"},
		},
		{
			name: "addresses of two cables",
			options: netlab.Options{Hosts: []string{"server", "client"}, Links: []netlab.Link{
				{A: "server", B: "client", RateAB: rate, RateBA: rate, MTU: 9000},
				{A: "server", B: "client", RateAB: rate, RateBA: rate, MTU: 9000},
			}},
			one: []string{"10.77.0.2"}, two: []string{"10.77.0.2", "10.77.1.2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := newLab(t, c.options)
			serve(t, lab)
			url := "http://" + lab.Addr("server", 0).String() + "/object"
			var log []string
			for range 3 {
				job := clientJob{Locals: c.one, URL: url, Streams: 8, Seconds: 2}
				one := measure(t, lab, job)
				job.Locals = c.two
				two := measure(t, lab, job)
				log = append(log, fmt.Sprintf("one link %.1f Mbit/s, two %.1f: %.3f times", one*8e-6, two*8e-6, two/one))
				if two >= 1.9*one && one > 0.8*float64(rate)/8 {
					t.Log(log)
					return
				}
			}
			t.Errorf("two links never had 1.9 times the rate of one:\n%s", strings.Join(log, "\n"))
		})
	}
}

// The messages name the interfaces and addresses of the host.
func TestPrivMessages(t *testing.T) {
	lab := newLab(t, netlab.Options{Hosts: []string{"server", "client"}, Links: []netlab.Link{{A: "server", B: "client"}}})
	for local, want := range map[string]string{
		"eth7":      `no interface or address "eth7" on this host: use one of eth0 10.77.0.2`,
		"10.9.9.9":  "local address 10.9.9.9 is not on this host: use one of eth0 10.77.0.2",
		"10.77.0.2": "<nil>",
		"eth0":      "<nil>",
	} {
		if got := run(t, lab, clientJob{Locals: []string{local}, Bad: true}); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", local, got, want)
		}
	}
	if err := lab.SetLink(0, false); err != nil {
		t.Fatal(err)
	}
	if got := run(t, lab, clientJob{Locals: []string{"eth0"}, Bad: true}); !strings.Contains(got, "is down") {
		t.Errorf("a link that is down: %q", got)
	}
}

// TestPrivDownInterface starts a client while one of its two interfaces is down.
// The other one carries the bytes.
func TestPrivDownInterface(t *testing.T) {
	lab := newLab(t, netlab.Options{Hosts: []string{"server", "client"}, Switches: []string{"switch"}, Links: []netlab.Link{
		{A: "server", B: "switch"}, {A: "switch", B: "client"}, {A: "switch", B: "client"},
	}})
	serve(t, lab)
	if err := lab.SetLink(1, false); err != nil {
		t.Fatal(err)
	}
	job := clientJob{Locals: []string{"eth0", "eth1"}, URL: "http://" + lab.Addr("server", 0).String() + "/object", Streams: 4, Seconds: 0.1}
	if rate := measure(t, lab, job); rate == 0 {
		t.Error("no bytes arrived over the interface that is up")
	}
	if err := lab.SetLink(2, false); err != nil {
		t.Fatal(err)
	}
	job.Bad = true
	if got := run(t, lab, job); !strings.Contains(got, "interface eth0 is down") {
		t.Errorf("both interfaces are down: %q", got)
	}
}

// TestPrivDeadInterface holds a connection over each of two interfaces, and sets
// one of them down. Only the connection over that interface fails.
func TestPrivDeadInterface(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: waits for TCP probes")
	}
	lab := newLab(t, netlab.Options{Hosts: []string{"server", "client"}, Switches: []string{"switch"}, Links: []netlab.Link{
		{A: "server", B: "switch"}, {A: "switch", B: "client"}, {A: "switch", B: "client"},
	}})
	serve(t, lab)
	text, err := json.Marshal(clientJob{Locals: []string{"eth0", "eth1"}, URL: lab.Addr("server", 0).String() + ":80", Hold: true})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"="+string(text))
	out, in := io.Pipe()
	cmd.Stdout = in
	go func() { in.CloseWithError(lab.Run(t.Context(), "client", cmd)) }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "connected" {
		t.Fatalf("client said %q, %v", lines.Text(), lines.Err())
	}
	if err := lab.SetLink(1, false); err != nil { // eth0 of the client
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), lab.Addr("client", 0).String()) || !strings.Contains(lines.Text(), "timed out") {
		t.Errorf("first failure: %q, %v; want the connection from %v to fail", lines.Text(), lines.Err(), lab.Addr("client", 0))
	}
	for lines.Scan() { // until the client has ended
		t.Errorf("client said %q", lines.Text())
	}
}
