//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/testorigin"
)

// discard are streams that no test reads.
var discard = cli.Streams{Out: io.Discard, Err: io.Discard}

// asProgram makes the test binary run as the program itself.
const asProgram = "PENSTOCK_CSI_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                              "no command",
		"fly":                           `command "fly" is unknown`,
		"mount":                         "mount BUCKET[/PREFIX] DIR",
		"mount a b c":                   "not 3 arguments",
		"mount b /tmp --bogus":          "--bogus",
		"mount b /tmp --interfaces no0": `"no0"`,
		"mount b /tmp --memory x":       "64MiB",
		"mount b /tmp --memory 1KiB":    "use at least",
		"mount b /tmp --read-only=no":   "read-only",
		"mount b /tmp --read-only=f":    "writing is not supported",
		"mount b /tmp --file-mode 4755": "octal number",
		"probe":                         "no endpoint",
		"probe --endpoint unix:///x --timeout 0s": "use a positive duration",
		"mount b /tmp --metadata-ttl x":           "or a duration",
		"mount b /tmp --uid -3":                   "use ids from 0",
		"mount --endpoint x b /tmp":               "is not a URL",
		"mount /x /tmp":                           "no bucket",
		"node":                                    "no endpoint",
		"node x":                                  "only flags",
		"node --endpoint tcp://x":                 "use unix://",
	} {
		var stdout, stderr bytes.Buffer
		t.Setenv("NODE_NAME", "")
		code := run(t.Context(), strings.Fields(args), &stdout, &stderr)
		if code != cli.ExitUsage || !strings.Contains(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: status %d, %q; want %d and one line with %q", args, code, stderr.String(), cli.ExitUsage, want)
		}
	}
}

func TestMountOptions(t *testing.T) {
	c, err := parseMount(strings.Fields(
		"s3://models/a/b /mnt --endpoint http://127.0.0.1:9 --memory 64MiB --metadata-ttl 0s --file-mode 440 --uid 7 --allow-other"), discard)
	if err != nil {
		t.Fatal(err)
	}
	got := c.options
	want := csi.MountOptions{
		BucketOptions: csi.BucketOptions{
			Bucket: "models", Prefix: "a/b", S3: csi.S3Options{Endpoint: "http://127.0.0.1:9", Outage: time.Minute}, Memory: 64 << 20,
			MetadataTTL: -1, FileMode: 0o440, UID: 7,
		},
		Dir: "/mnt", AllowOther: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSplitBucket(t *testing.T) {
	for in, want := range map[string][2]string{
		"b": {"b", ""}, "b/": {"b", ""}, "b/p/q": {"b", "p/q"}, "s3://b/p": {"b", "p"},
		"arn:aws:s3:us-west-2:1:accesspoint/ap/p/q": {"arn:aws:s3:us-west-2:1:accesspoint/ap", "p/q"},
		"arn:aws:s3:::x": {"arn:aws:s3:::x", ""},
	} {
		if b, p := splitBucket(in); b != want[0] || p != want[1] {
			t.Errorf("splitBucket(%q) = %q, %q; want %q", in, b, p, want)
		}
	}
}

// program starts the program with credentials in its environment.
func program(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1",
		"AWS_ACCESS_KEY_ID="+testorigin.AccessKey, "AWS_SECRET_ACCESS_KEY="+testorigin.SecretKey, "AWS_REGION="+testorigin.Region)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// origin returns a loopback S3 with one file. It skips the test where mounts are
// not possible.
func origin(t *testing.T) *testorigin.Origin {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: modprobe fuse")
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	if err := o.Put("models", "dir/file", []byte("right bytes")); err != nil {
		t.Fatal(err)
	}
	return o
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(table, []byte(" "+dir+" "))
}

// TestPrivMountCommand wants the program to report that it is ready, to serve,
// and to unmount after a signal, also while a file is open.
func TestPrivMountCommand(t *testing.T) {
	o := origin(t)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		dir := t.TempDir()
		cmd, lines := program(t, "mount", "models/dir", dir, "--read-only", "--endpoint", o.URL(), "--log-format=json")
		var ready struct{ Msg, Bucket, Dir string }
		if !lines.Scan() {
			t.Fatal("no line on standard error")
		}
		if err := json.Unmarshal(lines.Bytes(), &ready); err != nil || ready.Msg != "mounted" || ready.Bucket != "models" || ready.Dir != dir {
			t.Errorf("ready line %q, %v", lines.Text(), err)
		}
		f, err := os.Open(dir + "/file")
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 20)
		if n, _ := f.Read(p); string(p[:n]) != "right bytes" {
			t.Errorf("read %q", p[:n])
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if mounted(t, dir) {
			t.Errorf("%v left the mount", sig)
		}
		_ = f.Close() // the mount no longer exists
	}
}

// TestPrivExecute runs a program from the mount, which needs mappings of a file
// in addition to reads. The program is this test itself.
//
// A shell starts it, because the process that starts it must contain neither the
// mount nor the origin: the Go runtime can stop until the kernel has read a
// program that it starts, and then no goroutine would serve the program's bytes.
func TestPrivExecute(t *testing.T) {
	o := origin(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.PutFile("models", "bin/program", exe); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd, lines := program(t, "mount", "models", dir, "--endpoint", o.URL(), "--file-mode", "555")
	if !lines.Scan() {
		t.Fatal("no line on standard error")
	}
	run := exec.CommandContext(t.Context(), "sh", "-c", `exec "$0" "$@"`, dir+"/bin/program", "-test.run=^$")
	out, err := run.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%s, %v", out, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestPrivMountFails wants a mount that cannot succeed to fail with one line and
// exit code 1, and to leave no mount behind.
func TestPrivMountFails(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"no such bucket":            {"mount", "missing", dir, "--endpoint", o.URL()},
		"no such file or directory": {"mount", "models", dir + "/missing", "--endpoint", o.URL()},
		"already a mount point":     {"mount", "models", "/proc", "--endpoint", o.URL()},
		"access denied":             {"mount", "models", dir, "--endpoint", o.URL(), "--anonymous"},
	} {
		cmd, lines := program(t, args...)
		var text []string
		for lines.Scan() {
			text = append(text, lines.Text())
		}
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != cli.ExitFailed || len(text) != 1 || !strings.Contains(text[0], want) {
			t.Errorf("%v: %v, %q; want one line with %q", args, err, text, want)
		}
		if mounted(t, dir) {
			t.Errorf("%v left a mount", args)
		}
	}
}

// TestPrivNodeCommand runs the driver as a program and ends it by SIGTERM, as
// kubelet does.
func TestPrivNodeCommand(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	sock := filepath.Join(dir, "csi.sock")
	cmd, lines := program(t, "node", "--endpoint", "unix://"+sock, "--node-id", "n", "--kubelet-dir", dir, "--s3-endpoint", o.URL())
	if !lines.Scan() || !strings.Contains(lines.Text(), "serving") {
		t.Fatalf("first line %q", lines.Text())
	}
	var said bytes.Buffer
	if code := run(t.Context(), []string{"probe", "--endpoint", "unix://" + sock}, io.Discard, &said); code != cli.ExitOK {
		t.Errorf("probe: status %d, %q", code, said.String())
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	said.Reset()
	code := run(t.Context(), []string{"probe", "--endpoint", "unix://" + sock, "--timeout", "1s"}, io.Discard, &said)
	if code != cli.ExitFailed || strings.Count(said.String(), "\n") != 1 {
		t.Errorf("probe after the end: status %d, %q", code, said.String())
	}
	if _, err := os.Lstat(sock); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestInterruptedWhileOpening wants an interrupt to end the program while the
// store does not answer.
func TestInterruptedWhileOpening(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o, err := testorigin.Start(testorigin.Options{
		Faults: []testorigin.Fault{{Action: testorigin.ActStall}},
		Tap:    func(testorigin.Event) { cancel() }, // the request has arrived, and gets no answer
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"mount", "models", t.TempDir(), "--endpoint", o.URL(), "--anonymous"}, &stdout, &stderr)
	if code != cli.ExitFailed || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("status %d, %q", code, stderr.String())
	}
}

// container returns the text of one container in the manifest, and its arguments.
func container(t *testing.T, manifest, name string) (text string, args []string) {
	t.Helper()
	_, after, found := strings.Cut(manifest, "- name: "+name+"\n")
	if !found {
		t.Fatalf("no container %s", name)
	}
	text, _, _ = strings.Cut(after, "\n        - name: ")
	text, _, _ = strings.Cut(text, "\n      volumes:")
	_, after, _ = strings.Cut(text, "args:\n")
	for line := range strings.Lines(after) {
		arg, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if !ok {
			break
		}
		args = append(args, strings.ReplaceAll(arg, "$(NODE_NAME)", "node"))
	}
	return text, args
}

// TestDeployMatchesFlags wants the manifests to start the driver with flags that
// it has, under the name that it registers, and with a memory limit above its
// bound (docs/semantics.md). The liveness probe must be a command that it has.
func TestDeployMatchesFlags(t *testing.T) {
	manifest, err := os.ReadFile("../../deploy/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, args := container(t, string(manifest), "penstock-csi")
	if len(args) == 0 {
		t.Fatal("no args")
	}
	c, err := parseNode(args[1:], discard)
	if err != nil || args[0] != "node" || !c.LogsJSON() {
		t.Fatalf("%q: %v", args, err)
	}
	opts := c.options
	if err := opts.Validate(); err != nil {
		t.Error(err)
	}
	driver, err := os.ReadFile("../../deploy/csidriver.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(driver), "name: "+opts.Name+"\n") || !strings.Contains(string(manifest), "/plugins/"+opts.Name+"/csi.sock") {
		t.Errorf("the manifests do not name the driver %q", opts.Name)
	}
	m := regexp.MustCompile(`(?m)limits:\n(?:\s*#.*\n)*\s*memory: (\d+)Mi`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no memory limit in Mi")
	}
	limit, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if need := (3*opts.Memory + heapBase) >> 20; opts.Memory == 0 || limit < need {
		t.Errorf("a memory limit of %d Mi: with --memory %d MiB the bound is %d Mi", limit, opts.Memory>>20, need)
	}
	_, probe, found := strings.Cut(text, `command: ["/penstock-csi", `)
	probe, _, _ = strings.Cut(probe, "]")
	words := strings.Split(strings.ReplaceAll(probe, `"`, ""), ", ")
	if o, err := parseProbe(words[1:], discard); !found || words[0] != "probe" || err != nil || o.endpoint != opts.Endpoint {
		t.Errorf("liveness probe %q: %v", words, err)
	}
}

// TestDeployIsPinned wants every image to have a version or a digest, and every
// unprivileged container to have no more rights than it needs.
func TestDeployIsPinned(t *testing.T) {
	pinned := regexp.MustCompile(`(:v\d+(\.\d+)*|@sha256:[0-9a-f]{64})$`)
	manifest, err := os.ReadFile("../../deploy/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\s*image: (\S+)`).FindAllStringSubmatch(string(manifest), -1) {
		if m[1] != "penstock-csi" && !pinned.MatchString(m[1]) { // kustomization.yaml pins our image
			t.Errorf("image %s is not pinned", m[1])
		}
	}
	kustomization, err := os.ReadFile("../../deploy/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^\s*(newTag: v\d+(\.\d+)*|digest: sha256:[0-9a-f]{64})$`).Match(kustomization) {
		t.Error("kustomization.yaml pins no version of penstock-csi")
	}
	registrar, _ := container(t, string(manifest), "node-driver-registrar")
	for _, want := range []string{"allowPrivilegeEscalation: false", "readOnlyRootFilesystem: true", `drop: ["ALL"]`} {
		if !strings.Contains(registrar, want) {
			t.Errorf("the registrar's container lacks %s", want)
		}
	}
	if !strings.Contains(string(manifest), "type: RuntimeDefault") {
		t.Error("no seccomp profile")
	}
}
