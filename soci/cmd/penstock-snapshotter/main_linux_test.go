package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/cli"
)

// asMain makes the test binary run as the program.
const asMain = "PENSTOCK_SNAPSHOTTER_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		say  string
	}{
		{[]string{"--no-such"}, 2, "-no-such"},
		{[]string{"more"}, 2, `"more"`},
		{[]string{"--memory", "lots"}, 2, `"lots"`},
		{[]string{"--memory", "1K"}, 2, "memory of 1024 bytes is too little"},
		{[]string{"--checkpoint", "0"}, 2, `"0"`},
		{[]string{"--parallelism", "-1"}, 2, "-1"},
		{[]string{"--hosts-dir", "/no/such"}, 2, `"/no/such"`},
		{[]string{"--linger", "soon"}, 2, `"soon"`},
		{[]string{"--address", "/run/a", "--image-service", "/run/a"}, 2, "a socket each"},
		{[]string{"--root", "relative"}, 2, `"relative" is relative`},
		{[]string{"--address", "/" + strings.Repeat("x", 120)}, 2, "at most 107"},
		{[]string{"--image-service", "/" + strings.Repeat("x", 120)}, 2, "at most 107"},
		{[]string{"--http", "foo"}, 2, `"foo": want HOST:PORT`},
		{[]string{"--http", "localhost:metrics"}, 2, "want HOST:PORT"},
		{[]string{"--interfaces", "no-such0"}, 2, `"no-such0"`},
		{[]string{"--limits", "size=much"}, 2, "limit size=much"},
		{[]string{"--root", filepath.Join(file, "x")}, 1, "not a directory"},
		{[]string{"--root", filepath.Join(dir, "a"), "--address", file}, 1, "is not a socket"},
	}
	for _, tt := range tests {
		var out, errs bytes.Buffer
		args := append([]string{"--hosts-dir", "none", "--http", "none"}, tt.args...)
		code := run(t.Context(), args, &out, &errs)
		if code == 1 && strings.Contains(errs.String(), "operation not permitted") {
			continue // without root, overlayfs cannot be probed
		}
		said := errs.String()
		if i := strings.Index(said, "penstock-snapshotter: "); i > 0 { // after the log
			said = said[i:]
		}
		if code != tt.code || out.Len() > 0 || !strings.Contains(said, tt.say) || strings.Count(said, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q; want %d and %q on one line", tt.args, code, out.String(), errs.String(), tt.code, tt.say)
		}
	}
}

// daemon is the program in a process of its own.
type daemon struct {
	cmd    *exec.Cmd
	log    *os.File
	begin  int64 // bytes that earlier daemons have written to log
	socket string
	root   string
}

// start starts the program and waits until it accepts connections.
func start(t *testing.T, dir string, flags ...string) *daemon {
	t.Helper()
	d := &daemon{socket: filepath.Join(dir, "s.sock"), root: filepath.Join(dir, "sn")}
	var err error
	if d.log, err = os.OpenFile(filepath.Join(dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		t.Fatal(err)
	}
	if d.begin, err = d.log.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(os.Args[0], append([]string{"--root", d.root, "--address", d.socket, "--hosts-dir", "none", "--http", "none", "--verbose"}, flags...)...)
	d.cmd.Env = append(os.Environ(), asMain+"=1")
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.end(syscall.SIGKILL)
		if text, _ := os.ReadFile(d.log.Name()); t.Failed() && len(text) > 0 {
			t.Logf("daemon: %s", text[max(0, len(text)-32<<10):])
			_ = os.Truncate(d.log.Name(), 0) // daemons of one test share the log, which is printed once
		}
	})
	until(t, "the daemon listens", func() bool {
		c, err := net.Dial("unix", d.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return d
}

// said returns the lines that the daemon has logged.
func (d *daemon) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text[d.begin:])
}

// end signals the process, waits for its end and returns its exit code.
func (d *daemon) end(sig syscall.Signal) int {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Signal(sig)
		_ = d.cmd.Wait()
	}
	return d.cmd.ProcessState.ExitCode()
}

// until waits for an effect of another process. It bounds the number of looks and
// not the time, because a suspended machine stops the other process as well.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const looks = 12_000 // a minute of ticks
	for n, tick := 0, time.Tick(5*time.Millisecond); !ok(); n++ {
		if n == looks || t.Context().Err() != nil {
			t.Fatal("waited in vain: ", what)
		}
		<-tick
	}
}

// TestPrivSecondDaemonRefused checks that a second daemon refuses the root or the
// socket of the first, and that SIGTERM ends the first with exit code 0.
func TestPrivSecondDaemonRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs")
	}
	dir := shortDir(t)
	d := start(t, dir)
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--root", d.root, "--address", filepath.Join(dir, "other"), "--http", "none"}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "in use by another penstock-snapshotter") {
		t.Error(code, errs.String())
	}
	errs.Reset()
	if code := run(t.Context(), []string{"--root", filepath.Join(dir, "b"), "--address", d.socket, "--http", "none"}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "another process serves") {
		t.Error(code, errs.String())
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Error("exit code after SIGTERM: ", code)
	}
	if _, err := os.Lstat(d.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestPrivMetricsPortTaken checks that the daemon serves containerd while another
// program has the metrics port, and serves the metrics once the port is free.
func TestPrivMetricsPortTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := taken.Addr().String()
	c, err := parse([]string{"--root", filepath.Join(t.TempDir(), "sn"), "--address", filepath.Join(shortDir(t), "s.sock"), "--hosts-dir", "none", "--http", at}, cli.Streams{Out: io.Discard, Err: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	c.listen.HTTPRetry = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- c.serve(ctx) }()
	until(t, "containerd is served", func() bool {
		conn, err := net.Dial("unix", c.listen.Socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	taken.Close()
	until(t, "metrics are served", func() bool {
		r, err := http.Get("http://" + at + "/metrics")
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	})
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// shortDir returns a temporary directory with a short name, for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pn-") //nolint:usetesting // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
