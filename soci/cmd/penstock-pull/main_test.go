package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
)

// asMain makes the test binary run as the program.
const asMain = "PENSTOCK_PULL_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// served starts a registry with an image of one layer of real files, and returns
// its reference.
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
	code, stdout, stderr = call(t, "--layers", layers, "--progress=none", ref)
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
		{[]string{"--root", dir, "--interfaces", "no-such0", ref}, 2, `"no-such0"`},
		{[]string{"--root", dir, "--config", full, ref}, 2, "is a directory"},
		{[]string{"--root", dir, "--config", "/no/such/file", ref}, 2, "create it first"},
		{[]string{"--root", dir, "--config", "-", "--json", ref}, 2, "both print"},
		{[]string{"--root", dir, "--progress=none", "--limits", "size=1K", ref}, 1, "limit exceeded"},
		{[]string{"--root", dir, "--limits", "size", ref}, 2, "name=value"},
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
}

// TestConfig checks that the image's configuration arrives exactly as the registry
// has it when it is printed, saved in addition to a tree, or written to a device.
func TestConfig(t *testing.T) {
	_, ref := served(t)
	code, printed, stderr := call(t, "--config", "-", ref)
	var config ocispec.Image
	if err := json.Unmarshal([]byte(printed), &config); code != 0 || err != nil || config.OS != "linux" || len(config.RootFS.DiffIDs) != 1 {
		t.Fatal(code, printed, stderr, err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, []byte("an old one"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "--root", filepath.Join(dir, "root"), "--config", file, "--progress=none", ref)
	if got, err := os.ReadFile(file); code != 0 || err != nil || string(got) != printed || !strings.Contains(stdout, "1 layers") {
		t.Errorf("exit %d, %v, %q, %q, %q", code, err, got, stdout, stderr)
	}
	code, _, stderr = call(t, "--config", "/dev/null", ref)
	if fi, err := os.Stat("/dev/null"); code != 0 || err != nil || fi.Mode().IsRegular() {
		t.Errorf("exit %d, %v, %q", code, err, stderr)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("%v", names)
	}
}

// TestFailedKeeps fails a pull after one of its two layers is finished. The
// finished layer waits for the next pull, which fetches only the other one.
// With --keep-failed=false no file is left.
func TestFailedKeeps(t *testing.T) {
	archive := func(name string, size int) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		w.Write(make([]byte, size))
		w.Close()
		return buf.Bytes()
	}
	small, large := archive("small", 10), archive("large", 1<<20)
	key := func(layer []byte) string { return "two@" + digest.FromBytes(layer).String() }
	parent := t.TempDir()
	stage := filepath.Join(parent, ".root.penstock")
	// The answer that fails the pull waits until the journal has the other layer.
	o, err := testorigin.Start(testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op != "GetBlob" || e.Key != key(small) || e.Done {
			return
		}
		for t.Context().Err() == nil {
			if text, _ := os.ReadFile(filepath.Join(stage, "journal")); bytes.Contains(text, []byte(digest.FromBytes(large))) {
				return
			}
			runtime.Gosched()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	if _, err := o.PutImage("two", "1", digest.SHA256, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, small, large); err != nil {
		t.Fatal(err)
	}
	ref := o.Host() + "/two:1"
	for _, keep := range []bool{false, true} {
		o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: key(small), Every: 1, Action: testorigin.ActStatus, Status: 404})
		code, _, stderr := call(t, "--root", filepath.Join(parent, "root"), "--progress=none", fmt.Sprintf("--keep-failed=%v", keep), ref)
		if code != 1 || !strings.Contains(stderr, "404") || strings.Contains(stderr, "wait in "+stage) != keep {
			t.Fatalf("keep %v: exit %d, %s", keep, code, stderr)
		}
		if _, err := os.Stat(stage); keep != (err == nil) {
			t.Fatalf("keep %v: %v", keep, err)
		}
	}
	o.SetFaults()
	o.Reset()
	if code, _, stderr := call(t, "--root", filepath.Join(parent, "root"), "--progress=none", ref); code != 0 {
		t.Fatal(stderr)
	}
	if n := o.Count("GetBlob", key(large)).Bytes; n > 0 {
		t.Errorf("%d bytes of the finished layer were fetched again", n)
	}
	if names, _ := os.ReadDir(parent); len(names) != 1 {
		t.Errorf("left %v", names)
	}
}

// TestFewDescriptors pulls layers of many parts and many files with at most 64
// open files.
func TestFewDescriptors(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: pulls large layers")
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	var layers [][]byte
	for i := range 4 {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for k := range 100 {
			size := 1 << 10
			if k%20 == 0 {
				size = 6 << 20
			}
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d/%d", i, k), Mode: 0o644, Size: int64(size)}); err != nil {
				t.Fatal(err)
			}
			w.Write(make([]byte, size))
		}
		w.Close()
		layers = append(layers, buf.Bytes())
	}
	if _, err := o.PutImage("many", "1", digest.SHA256, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, layers...); err != nil {
		t.Fatal(err)
	}
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Every: 1, Action: testorigin.ActSlow, Rate: 8 << 20}) // so that many requests run at once
	cmd := exec.Command("sh", "-c", `ulimit -n 64 && exec "$@"`, "sh", os.Args[0], "--root", filepath.Join(t.TempDir(), "root"), "--hosts-dir", "none", "--progress=none", o.Host()+"/many:1")
	cmd.Env = append(os.Environ(), asMain+"=1", "GOMAXPROCS=16")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestInterruptWithSilentRegistry interrupts pulls whose registry has stopped answering, at
// each kind of request. The test hangs if the pull keeps waiting for an answer.
func TestInterruptWithSilentRegistry(t *testing.T) {
	o, ref := served(t)
	for _, op := range []string{"GetManifest", "GetBlob"} {
		o.Reset()
		o.SetFaults(testorigin.Fault{Op: op, Every: 1, Action: testorigin.ActStall})
		ctx, cancel := context.WithCancel(t.Context())
		parent := t.TempDir()
		var out, errs bytes.Buffer
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, []string{"--root", filepath.Join(parent, "root"), "--hosts-dir", "none", ref}, &out, &errs)
		}()
		for !slices.ContainsFunc(o.Counters(), func(c testorigin.Counter) bool { return c.Op == op && c.Requests > 0 }) {
			runtime.Gosched()
		}
		cancel()
		if code := <-ended; code != 1 || !strings.Contains(errs.String(), "interrupted; no files were left behind") {
			t.Errorf("%s: exit %d, %s", op, code, &errs)
		}
		if names, _ := os.ReadDir(parent); len(names) > 0 {
			t.Errorf("left %v", names)
		}
	}
}

// TestInterrupt sends the real signal to a real process in the middle of a layer.
func TestInterrupt(t *testing.T) {
	o, ref := served(t)
	// Only the first part of the layer arrives, so the pull is unfinished however late this test looks.
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
	for tick := time.Tick(10 * time.Millisecond); ; { // an external process, which sends no signal to wait for
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

// TestVersion checks that each form of the version flag prints one line on standard
// output.
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

// goroot returns the directory of the Go tree, which the go command names.
func goroot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	return strings.TrimSpace(string(out))
}
