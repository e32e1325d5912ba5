package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An upgrade (SIGUSR2) with a control socket and a snapshot: the next process
// takes both over when the first has ended, and ends by SIGTERM.
func TestUpgradeHandsControlAndWarmOver(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	control, file := filepath.Join(dir, "control"), filepath.Join(dir, "warm")
	port := freePort(t)
	addr := "127.0.0.1:" + port
	conf := write(t, dir, "Corefile", fmt.Sprintf(".:%s {\n    bind 127.0.0.1\n    cache 3600 {\n        control %s\n        warm %s\n    }\n    template IN A {\n        answer \"{{ .Name }} 3600 IN A 192.0.2.1\"\n    }\n}\n", port, control, file))
	// A file: the second process keeps a pipe open, and Wait would wait for it.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(self(t), "-conf", conf)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	s := &server{cmd: cmd, ended: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	if !s.answers(t, addr, "www.test.") {
		t.Fatal("the program does not answer")
	}
	// CoreDNS starts its server for UDP and for TCP after our fast path of each, and
	// a server that is stopped before it has started runs on: an upgrade then would
	// never end the process.
	for said := ""; !strings.Contains(said, "over TCP"); {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		said = string(b)
		select {
		case <-s.ended:
			t.Fatalf("the program ended:\n%s", said)
		case <-t.Context().Done():
			t.Fatalf("the fast path does not open:\n%s", said)
		case <-time.After(20 * time.Millisecond): // real time: another process
		}
	}
	t.Cleanup(func() { // both processes, if the test fails
		for pid := processOf(t, conf); pid != 0; pid = processOf(t, conf) {
			if syscall.Kill(pid, syscall.SIGKILL) != nil {
				break
			}
			time.Sleep(10 * time.Millisecond) // real time: a process that is not our child
		}
	})
	if err := cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The upgrade hands CoreDNS's sockets on in blocking mode (os/exec takes
	// that from a file), so a read that begins then ends with the next packet
	// or connection, as on any server with clients.
	for ended := false; !ended; {
		var d net.Dialer
		// A fifth of the packets, by their ports, gets to the sockets that both
		// processes have.
		for _, network := range []string{"udp", "udp", "udp", "udp", "udp", "tcp", "tcp", "tcp", "tcp", "tcp"} {
			if c, err := d.DialContext(ctx, network, addr); err == nil {
				_, _ = c.Write([]byte("x"))
				c.Close()
			}
		}
		select {
		case <-s.ended:
			ended = true
		case <-time.After(50 * time.Millisecond): // real time: two processes
		case <-ctx.Done():
			// The dump of its goroutines shows which read or lock holds it.
			_ = cmd.Process.Signal(syscall.SIGABRT) // CoreDNS handles SIGQUIT itself
			<-s.ended
			said, _ := os.ReadFile(out.Name())
			t.Fatalf("the first process does not end; both said:\n%s", said)
		}
	}
	next := processOf(t, conf)
	if next == 0 {
		t.Fatal("there is no second process")
	}
	if a := ask(t, addr, "www.test."); len(a.Sections[0]) != 1 {
		t.Errorf("%v", a)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", control)
	}}}
	defer client.CloseIdleConnections()
	// A flush writes a snapshot too.
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/flush?name=other.test", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if _, err := os.Stat(file); err == nil {
				break
			}
		}
		select {
		case <-time.After(50 * time.Millisecond): // real time: two processes
		case <-ctx.Done():
			t.Fatalf("no control or no snapshot of the second process: %v", err)
		}
	}
	if err := syscall.Kill(next, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for !errors.Is(syscall.Kill(next, 0), syscall.ESRCH) && processOf(t, conf) != 0 {
		select {
		case <-time.After(50 * time.Millisecond): // real time: a process that is not our child
		case <-ctx.Done():
			t.Fatal("the second process does not end")
		}
	}
}

// processOf returns a running process of this program that was started with
// conf, 0 if there is none.
func processOf(t *testing.T, conf string) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		line, err := os.ReadFile(filepath.Join(name, "cmdline"))
		if err != nil || !bytes.HasPrefix(line, []byte(self(t)+"\x00")) || !bytes.Contains(line, []byte(conf)) {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimPrefix(name, "/proc/")); err == nil {
			return pid
		}
	}
	return 0
}
