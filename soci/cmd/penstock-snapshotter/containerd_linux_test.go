package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// tool returns the path of a program that scripts/setup.sh installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	if p, err := filepath.Abs(filepath.Join("../../../.tools/bin", name)); err == nil {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: scripts/setup.sh test installs it", name)
	}
	return p
}

// node is a containerd with its ctr.
type node struct {
	t         *testing.T
	dir       string
	ctr       string
	namespace string
}

// config writes soci/deploy/containerd.toml to a directory of its own.
func config(t *testing.T, dir string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../deploy/containerd.toml")
	if err != nil {
		t.Fatal(err)
	}
	socket := []byte("/run/penstock/snapshotter.sock")
	if !bytes.Contains(text, socket) {
		t.Fatalf("containerd.toml does not name %s", socket)
	}
	text = bytes.ReplaceAll(text, socket, []byte(filepath.Join(dir, "s.sock")))
	text = bytes.ReplaceAll(text, []byte(`"/var/lib/penstock"`), fmt.Appendf(nil, "%q", filepath.Join(dir, "sn")))
	return fmt.Appendf(text, "[grpc]\n  address = %q\n", filepath.Join(dir, "c.sock"))
}

// containerd starts a containerd that uses the socket in dir. The format more,
// filled with args, is added to its configuration.
func containerd(t *testing.T, dir, more string, args ...any) *node {
	t.Helper()
	n := &node{t: t, dir: dir, ctr: tool(t, "ctr"), namespace: "penstock"}
	program, shim := tool(t, "containerd"), tool(t, "containerd-shim-runc-v2")
	tool(t, "runc")
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, fmt.Appendf(config(t, dir), more, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", file, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(shim)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("containerd: %s", text)
		}
	})
	until(t, "containerd answers", func() bool { _, err := n.try("version"); return err == nil })
	return n
}

// try runs ctr and returns its standard output.
func (n *node) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.ctr, append([]string{"--address", filepath.Join(n.dir, "c.sock"), "--namespace", n.namespace}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (n *node) do(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// run runs the command of an image and returns its output.
func (n *node) run(ref, id string) string {
	n.t.Helper()
	return n.do("run", "--rm", "--snapshotter", "penstock", ref, id)
}

// program builds a static program that prints a file of another layer.
func program(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	err := os.WriteFile(source, []byte(`package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "owner" {
		var s syscall.Stat_t
		if err := syscall.Stat("/etc/motd", &s); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("uid " + strconv.Itoa(int(s.Uid)) + ", gid " + strconv.Itoa(int(s.Gid)))
		return
	}
	if len(os.Args) > 1 { // in the container of a sandbox it only waits
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		<-end
		return
	}
	b, err := os.ReadFile("/etc/motd")
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("hello from a container, " + string(b))
}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "hello"), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("needs the go command: %v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// file returns a layer with one file.
func file(t *testing.T, path string, data []byte) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	z.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// push stores an image that runs /bin/hello, and returns its reference.
func push(t *testing.T, o *testorigin.Origin, ref string, layers ...v1.Layer) string {
	t.Helper()
	return pushCommand(t, o, ref, []string{"/bin/hello"}, layers...)
}

// imageOf returns an image that runs a command.
func imageOf(t *testing.T, command []string, layers []v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: types.OCILayer}); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Cmd = "linux", runtime.GOARCH, command
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// pushCommand stores an image that runs a command.
func pushCommand(t *testing.T, o *testorigin.Origin, ref string, command []string, layers ...v1.Layer) string {
	t.Helper()
	r, err := name.ParseReference(o.Host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, command, layers)
	if err := remote.Write(r, img, remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword})); err != nil {
		t.Fatal(err)
	}
	o.Reset() // so that the counters show only the pull
	return r.Name()
}

func key(l v1.Layer) string {
	d, _ := l.Digest()
	return "app@" + d.String()
}

// fetched returns the number of bytes of layers that were served.
func fetched(o *testorigin.Origin, layers ...v1.Layer) (n int64) {
	for _, l := range layers {
		n += o.Count("GetBlob", key(l)).Bytes
	}
	return n
}

func size(layers ...v1.Layer) (n int64) {
	for _, l := range layers {
		s, _ := l.Size()
		n += s
	}
	return n
}

// entries counts the entries of a directory below the daemon's root.
func (d *daemon) entries(dir string) int {
	e, _ := os.ReadDir(filepath.Join(d.root, dir))
	return len(e)
}

// TestPrivContainerd pulls, runs, kills and removes with the real containerd.
func TestPrivContainerd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd, runc")
	}
	dir := shortDir(t)
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	n := containerd(t, dir, "")
	d := start(t, dir)
	hello := file(t, "bin/hello", program(t))
	motd := func(text string) v1.Layer { return file(t, "etc/motd", []byte(text)) }
	pull := func(ref string, flags ...string) {
		t.Helper()
		n.do(append(append([]string{"images", "pull", "--snapshotter", "penstock", "--plain-http"}, flags...), ref)...)
	}

	one := []v1.Layer{hello, motd("one\n")}
	first := push(t, o, "app:1", one...)
	pull(first)
	if got := fetched(o, one...); got != size(one...) {
		t.Errorf("%d bytes fetched of %d", got, size(one...))
	}
	if blobs := strings.Fields(n.do("content", "ls", "--quiet")); len(blobs) != 2 {
		t.Errorf("containerd's content store has %d blobs, want manifest and config: %v", len(blobs), blobs)
	}
	if got := n.run(first, "one"); got != "hello from a container, one\n" {
		t.Errorf("%q", got)
	}

	two := []v1.Layer{hello, motd("two\n")}
	second := push(t, o, "app:2", two...)
	pull(second)
	if got, want := fetched(o, two...), size(two[1]); got != want {
		t.Errorf("%d bytes fetched for an image that shares a layer, want %d", got, want)
	}
	if got := n.run(second, "two"); got != "hello from a container, two\n" {
		t.Errorf("%q", got)
	}

	// The client pulls. Its labels do not name the image, so containerd fetches the layers.
	three := []v1.Layer{motd("three\n"), hello}
	third := push(t, o, "app:3", three...)
	pull(third, "--local")
	if blobs := strings.Fields(n.do("content", "ls", "--quiet")); len(blobs) != 2+2+4 {
		t.Errorf("containerd's content store has %d blobs: %v", len(blobs), blobs)
	}
	if got := n.run(third, "three"); got != "hello from a container, three\n" {
		t.Errorf("%q", got)
	}

	n.userns(d, first)
	n.do("images", "rm", "--sync", first, second, third)
	if left := d.entries("snapshots") + d.entries("ready") + d.entries("work"); left != 0 {
		t.Errorf("%d directories are left when all images are removed", left)
	}
	n.prefetch(o, d, hello, motd("five\n"))
	n.killed(o, d, hello, motd("four\n"))
	if code := d.end(syscall.SIGTERM); code != -1 {
		t.Errorf("exit code %d, want death by the signal sent before", code)
	}
}

// userns runs an image in two user namespaces with different ranges of IDs. The
// image's files belong to the root of each namespace without a copy.
func (n *node) userns(d *daemon, ref string) {
	t := n.t
	t.Helper()
	if !slices.Contains(snapshotter.Capabilities(), snapshotter.RemapIDs) {
		t.Log("the kernel has no ID-mapped overlayfs: containerd copies the image, as it does with its own snapshotter")
		return
	}
	if err := os.Chmod(n.dir, 0o711); err != nil { // the container's root, an unprivileged user of the node, must reach its rootfs
		t.Fatal(err)
	}
	before := d.entries("snapshots")
	for i, first := range []int{100000, 300000} {
		ids := fmt.Sprintf("0:%d:65536", first)
		got := n.do("run", "--rm", "--uidmap", ids, "--gidmap", ids, "--remap-labels", "--snapshotter", "penstock", ref, fmt.Sprintf("userns%d", i), "/bin/hello", "owner")
		if got != "uid 0, gid 0" {
			t.Errorf("IDs %s: the file belongs to %q in the container", ids, got)
		}
	}
	until(t, "the containers' snapshots are gone", func() bool { return d.entries("snapshots") <= before })
}

// killed kills the daemon while it extracts the upper layer, and pulls again.
func (n *node) killed(o *testorigin.Origin, d *daemon, hello, motd v1.Layer) {
	t := n.t
	t.Helper()
	filler := make([]byte, 0, 64*300)
	for i := range 300 {
		filler = fmt.Appendf(filler, "%063d\n", i*i) // the content is irrelevant, it only has to take a while
	}
	slow := file(t, "usr/share/table", filler)
	ref := push(t, o, "app:4", hello, motd, slow)
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: key(slow), Every: 1, Action: testorigin.ActStall, For: time.Hour})
	pulled := make(chan error)
	go func() {
		_, err := n.try("images", "pull", "--snapshotter", "penstock", "--plain-http", ref)
		pulled <- err
	}()
	until(t, "two layers are ready", func() bool { return d.entries("ready") == 2 })
	d.end(syscall.SIGKILL)
	if err := <-pulled; err == nil {
		t.Error("a pull succeeded without a snapshotter")
	}
	o.SetFaults()
	o.Reset()
	again := start(t, n.dir)
	until(t, "containerd has connected again", func() bool {
		_, err := n.try("snapshots", "--snapshotter", "penstock", "ls") // containerd backs off for a second
		return err == nil
	})
	n.do("images", "pull", "--snapshotter", "penstock", "--plain-http", ref)
	if got := fetched(o, hello, motd); got != 0 {
		t.Errorf("%d bytes of finished layers were fetched again", got)
	}
	if got := n.run(ref, "four"); got != "hello from a container, four\n" {
		t.Errorf("%q", got)
	}
	n.do("images", "rm", "--sync", ref)
	if left := again.entries("snapshots") + again.entries("ready") + again.entries("work"); left != 0 {
		t.Errorf("%d directories are left", left)
	}
	if code := again.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// prefetch pulls by penstock-pull.
func (n *node) prefetch(o *testorigin.Origin, d *daemon, layers ...v1.Layer) {
	t := n.t
	t.Helper()
	puller := filepath.Join(n.dir, "penstock-pull")
	if out, err := exec.Command("go", "build", "-o", puller, "../penstock-pull").CombinedOutput(); err != nil {
		t.Skipf("needs the go command: %v: %s", err, out)
	}
	ref := push(t, o, "app:5", layers...)
	cmd := exec.Command(puller, "prefetch", "--containerd", filepath.Join(n.dir, "c.sock"), "--namespace", "penstock",
		"--hosts-dir", "none", "--rate", "1GiB", "--status", "none", "--json", ref, o.Host()+"/app:missing")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var results []struct {
		Reference, Manifest, Error string
		Layers                     int
		CompressedBytes            int64 `json:"compressed_bytes"`
	}
	if jerr := json.Unmarshal(out.Bytes(), &results); jerr != nil || len(results) != 2 || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("%v, %v: %s %s", err, jerr, out.String(), errs.String())
	}
	if r := results[0]; r.Reference != ref || r.Error != "" || r.Layers != len(layers) || r.CompressedBytes != size(layers...) || r.Manifest == "" {
		t.Errorf("%+v; %s", r, errs.String())
	}
	if r := results[1]; r.Error == "" || strings.Contains(r.Error, "\n") {
		t.Errorf("an image that is not there: %+v", r)
	}
	if got := fetched(o, layers...); got != size(layers...) {
		t.Errorf("%d bytes fetched of %d", got, size(layers...))
	}
	if d.entries("snapshots") != len(layers) {
		t.Errorf("%d snapshots", d.entries("snapshots"))
	}
	if got := n.run(ref, "five"); got != "hello from a container, five\n" {
		t.Errorf("%q", got)
	}
	n.do("images", "rm", "--sync", ref)
}
