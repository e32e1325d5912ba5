package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
)

// asMain makes the test binary be the program.
const asMain = "PENSTOCK_PULL_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// served serves an image of one layer with real files at the returned reference.
func served(t *testing.T) (*testorigin.Origin, string) {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(filepath.Join(goroot(t), "src", "net"))); err != nil {
		t.Skip("needs the Go source tree: ", err)
	}
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(o.Host() + "/net:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return o, ref.Name()
}

func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"--hosts-dir", "none"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestRun(t *testing.T) {
	_, ref := served(t)
	dir := filepath.Join(t.TempDir(), "root")
	code, stdout, stderr := call(t, "--root", dir, "--memory", "32MiB", "--json", ref)
	if code != 0 {
		t.Fatal(code, stderr)
	}
	var res struct {
		Reference string
		Files     int
		Layers    []struct{ Digest string }
		Timing    map[string]float64
	}
	if err := json.Unmarshal([]byte(stdout), &res); err != nil || res.Reference != ref || res.Files < 100 || len(res.Layers) != 1 || res.Timing["wall_s"] <= 0 {
		t.Errorf("%v: %s", err, stdout)
	}
	if !strings.HasPrefix(stderr, "penstock-pull: "+ref+": 1 layers, ") {
		t.Errorf("progress: %q", stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "http", "server.go")); err != nil {
		t.Error(err)
	}
	layers := filepath.Join(t.TempDir(), "layers")
	code, stdout, stderr = call(t, "--layers", layers, "--progress=false", ref)
	if code != 0 || !strings.Contains(stdout, "1 layers, ") || !strings.Contains(stdout, "\nlimit: ") || stderr != "" {
		t.Error(code, stdout, stderr)
	}
	if found, _ := filepath.Glob(filepath.Join(layers, "000-*", "http", "server.go")); len(found) != 1 {
		t.Error(found)
	}
}

func TestBadInput(t *testing.T) {
	_, ref := served(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "root")
	closed := testport.Addr(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		say  string
	}{
		{nil, 2, "--root DIR"},
		{[]string{"--root", dir}, 2, "name the image"},
		{[]string{"--root", dir, "--layers", dir, ref}, 2, "exclude each other"},
		{[]string{"--root", dir, ref, "more"}, 2, `"more"`},
		{[]string{"--no-such", ref}, 2, "-no-such"},
		{[]string{"--root", dir, "--memory", "lots", ref}, 2, `"lots"`},
		{[]string{"--root", dir, "--memory", "-5", ref}, 2, `"-5"`},
		{[]string{"--root", dir, "--checkpoint", "1K", ref}, 2, "1024 bytes between two checkpoints are too few"},
		{[]string{"--root", dir, "--memory", "1K", ref}, 2, "memory of 1024 bytes is too little"},
		{[]string{"--root", dir, "--platform", "a/b/c/d", ref}, 2, `platform "a/b/c/d"`},
		{[]string{"--root", dir, "--hosts-dir", "/no/such", ref}, 2, `"/no/such"`},
		{[]string{"--root", dir, "Bad Reference"}, 2, `"Bad Reference"`},
		{[]string{"--root", dir, ref + "-missing"}, 1, "404"},
		{[]string{"--root", dir, "--platform", "linux/s390x", ref}, 1, "linux/s390x"},
		{[]string{"--root", dir, closed + "/x"}, 1, "connection refused"},
		{[]string{"--root", full, ref}, 1, "is not empty"},
		{[]string{"--root", filepath.Join(parent, "no", "root"), ref}, 1, "create it first"},
	}
	for _, tt := range tests {
		code, stdout, stderr := call(t, tt.args...)
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.say) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q; want %d and %q on one line", tt.args, code, stdout, stderr, tt.code, tt.say)
		}
		if names, _ := os.ReadDir(parent); len(names) > 0 {
			t.Errorf("%q left %v", tt.args, names)
		}
	}
	if code, stdout, _ := call(t, "--help"); code != 0 || stdout != usage {
		t.Error(code, stdout)
	}
}

// TestInterrupt sends the real signal to a real process in the middle of a layer.
func TestInterrupt(t *testing.T) {
	o, ref := served(t)
	// Only the first part of the layer comes, so that the pull is still at work however late this test looks.
	o.SetFaults(testorigin.Fault{Op: "GetBlob", After: 1, Action: testorigin.ActStall})
	parent := t.TempDir()
	cmd := exec.Command(os.Args[0], "--root", filepath.Join(parent, "root"), "--hosts-dir", "none", ref)
	cmd.Env = append(os.Environ(), asMain+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for tick := time.Tick(10 * time.Millisecond); ; { // an external process: there is nothing to wait on
		if found, _ := filepath.Glob(filepath.Join(parent, ".root.penstock", "layers", "*", "*")); len(found) > 0 {
			break
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("no file ever appeared: ", stderr.String())
		}
	}
	begin := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	t.Logf("ended after %v", time.Since(begin))
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "interrupted") {
		t.Error(err, stderr.String())
	}
	if names, _ := os.ReadDir(parent); len(names) > 0 {
		t.Errorf("left %v", names)
	}
}

// TestVersion: each way to ask prints one line and nothing else.
func TestVersion(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"version", "--version", "-version"} {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{arg}, &out, &errs)
		if code != 0 || !strings.HasPrefix(out.String(), "penstock-pull ") || strings.Count(out.String(), "\n") != 1 || errs.Len() > 0 {
			t.Errorf("%s: exit %d, %q, %q", arg, code, &out, &errs)
		}
	}
}

// goroot asks the go command where its tree is.
func goroot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	return strings.TrimSpace(string(out))
}
