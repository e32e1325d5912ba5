package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETLAB_CRASH") != "" {
		crash()
	}
	goleak.VerifyTestMain(m)
}

// newLab builds a lab or skips the test.
func newLab(t *testing.T, o Options) *Lab {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	lab, err := New(o)
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

// send moves n bytes from host "a" to host "b" and returns the receiver's time
// between the first and the last byte.
func send(t *testing.T, lab *Lab, addr string, n int64) time.Duration {
	t.Helper()
	ln, err := lab.Listen("a", "tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			sent <- err
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for left := n; left > 0 && err == nil; left -= int64(len(buf)) {
			_, err = c.Write(buf[:min(int64(len(buf)), left)])
		}
		sent <- err
	}()
	c, err := lab.DialContext("b")(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	got, err := io.Copy(io.Discard, c)
	took := time.Since(start)
	if err := errors.Join(err, <-sent); err != nil || got != n-1 {
		t.Fatalf("received %d of %d bytes, %v", got+1, n, err)
	}
	return took
}

// A limited link is never faster than its rate, and carries IPv4 and IPv6.
func TestPrivRate(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a", "b"}, Links: []Link{{A: "a", B: "b", RateAB: 80 * Mbit}}})
	const n = 4 << 20 // 0.42 s at 10 MB/s
	floor := time.Duration(float64(n-256<<10) / 10e6 * float64(time.Second))
	for _, addr := range []string{lab.Addr("a", 0).String(), lab.Addr6("a", 0).String()} {
		if took := send(t, lab, addr, n); took < floor {
			t.Errorf("%s: %d bytes took %v, faster than the link allows (%v)", addr, n, took, floor)
		}
	}
	if err := lab.SetRate(0, 0, 0); err != nil {
		t.Fatal(err)
	}
	send(t, lab, lab.Addr("a", 0).String(), n)
	if err := lab.SetRate(0, 400, 0); err == nil {
		t.Error("SetRate accepted 400 bit/s")
	}
}

func TestPrivSwitch(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a", "b", "c"}, Switches: []string{"sw"}, Links: []Link{
		{A: "a", B: "sw"}, {A: "b", B: "sw", RateBA: Gbit}, {A: "c", B: "sw"},
	}})
	send(t, lab, lab.Addr("a", 0).String(), 1<<20)
	if lab.Addr("c", 1).IsValid() || lab.Addr("x", 0).IsValid() {
		t.Error("addresses of interfaces that do not exist")
	}
}

func TestPrivLinkDown(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a", "b"}, Links: []Link{{A: "a", B: "b"}}})
	if err := lab.SetLink(0, false); err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(lab.Addr("a", 0).String(), "1")
	if c, err := lab.DialContext("b")(t.Context(), "tcp", addr); err == nil {
		c.Close()
		t.Fatal("dialled over a link that is down")
	}
	if err := lab.SetLink(0, true); err != nil {
		t.Fatal(err)
	}
	send(t, lab, lab.Addr("a", 0).String(), 1<<10)
	send(t, lab, lab.Addr6("a", 0).String(), 1<<10)
	if err := lab.SetLink(1, true); err == nil {
		t.Error("no error for a link that does not exist")
	}
}

func TestPrivProcess(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a", "b"}, Links: []Link{{A: "a", B: "b"}}})
	var out bytes.Buffer
	cmd := exec.Command("cat", "/proc/self/net/dev")
	cmd.Stdout = &out
	if err := lab.Run(t.Context(), "a", cmd); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "eth0") || strings.Count(s, ":") != 2 {
		t.Errorf("interfaces inside the host: %s", s)
	}
	if err := lab.Run(t.Context(), "a", exec.Command("/does/not/exist")); err == nil {
		t.Error("no error for a missing program")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lab.Run(ctx, "a", exec.Command("cat", "/dev/zero")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
	// Close kills the running process, and Wait does not hang.
	p, err := lab.Start("a", exec.Command("tail", "-f", "/dev/null"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); err == nil {
		t.Error("a killed process has no error")
	}
	if _, err := lab.Start("a", exec.Command("true")); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after Close: %v", err)
	}
	if err := lab.Do("a", func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
}

func TestPrivErrors(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a"}})
	if err := lab.Do("nobody", func() error { return nil }); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("unknown host: %v", err)
	}
	if _, err := lab.DialContext("a")(t.Context(), "tcp", "localhost:1"); err == nil || !strings.Contains(err.Error(), "literal") {
		t.Errorf("dial by name: %v", err)
	}
	if _, err := New(Options{Hosts: []string{""}}); err == nil {
		t.Error("New accepted an empty name")
	}
}

// A thread must not stay in a namespace.
func TestPrivThreadsReturn(t *testing.T) {
	lab := newLab(t, Options{Hosts: []string{"a"}})
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var inside string
		if err := lab.Do("a", func() (err error) {
			inside, err = os.Readlink("/proc/thread-self/ns/net")
			return err
		}); err != nil || inside == home {
			t.Fatalf("inside: %s, %v", inside, err)
		}
		if now, _ := os.Readlink("/proc/thread-self/ns/net"); now != home {
			t.Fatalf("a thread stayed in %s", now)
		}
	}
}

// crash builds a named lab and ends like a killed test.
func crash() {
	lab, err := New(Options{Hosts: []string{"a"}, Named: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(filepath.Base(lab.nodes["a"].file))
	os.Exit(0)
}

func TestPrivSweep(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NETLAB_CRASH=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	stale := filepath.Join(netnsDir, strings.TrimSpace(string(out)))
	if _, err := os.Stat(stale); err != nil {
		t.Fatalf("the crashed process left nothing: %v", err)
	}
	lab := newLab(t, Options{Hosts: []string{"a"}, Named: true})
	if _, err := os.Stat(stale); err == nil {
		t.Errorf("%s is still there", stale)
	}
	file := lab.nodes["a"].file
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s is still there after Close", file)
	}
}

func TestOwnerOf(t *testing.T) {
	for name, want := range map[string]int{"penstock-12-1-a": 12, "penstock-x-1": 0, "penstock-12": 0, "other-12-1": 0, "penstock--1-1": 0} {
		if got, ok := ownerOf(name); got != want && ok || ok != (want > 0) {
			t.Errorf("ownerOf(%q) = %d, %v", name, got, ok)
		}
	}
}
