//go:build linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/testorigin"
)

// process is a driver in a process of its own.
type process struct {
	cmd  *exec.Cmd
	said string // log lines up to "serving", or all lines
	node spec.NodeClient
}

// nodeArgs returns the arguments of a driver in dir.
func nodeArgs(dir, sock string, o *testorigin.Origin, more ...string) []string {
	return append([]string{"node", "--endpoint", "unix://" + sock, "--node-id", "n", "--kubelet-dir", dir, "--s3-endpoint", o.URL()}, more...)
}

// drive starts a driver and waits until it serves or ends.
func drive(t *testing.T, sock string, args []string) *process {
	t.Helper()
	p := &process{}
	cmd, lines := program(t, args...)
	p.cmd = cmd
	for serving := false; !serving; {
		if !lines.Scan() {
			t.Fatalf("the driver ended: %s", p.said)
		}
		p.said += lines.Text() + "\n"
		serving = strings.Contains(lines.Text(), "msg=serving")
	}
	go func() {
		for lines.Scan() { // the pipe must not fill
		}
	}()
	conn, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.node = spec.NewNodeClient(conn)
	return p
}

func (p *process) publish(t *testing.T, target string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := p.node.NodePublishVolume(t.Context(), &spec.NodePublishVolumeRequest{
		VolumeId: "v", TargetPath: target, Readonly: true,
		VolumeContext: map[string]string{"bucketName": "models"},
		VolumeCapability: &spec.VolumeCapability{
			AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
			AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// end stops a process by a signal that it handles.
func (p *process) end(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// ours returns the lines of the mount table below dir.
func ours(t *testing.T, dir string) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+dir) {
			found = append(found, line)
		}
	}
	return found
}

// TestPrivSecondDriver starts the driver a second time, on the socket of a running
// driver or under another name. The running driver is not affected: its mounts
// stay, new files can be opened, and open files can be read further.
func TestPrivSecondDriver(t *testing.T) {
	o := origin(t)
	if err := o.Put("models", "big", make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sock := filepath.Join(dir, "a.sock")
	target := filepath.Join(dir, "pods", "pod", "mount")
	first := drive(t, sock, nodeArgs(dir, sock, o))
	first.publish(t, target)
	open, err := os.Open(target + "/big")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	before := strings.Join(ours(t, dir), "")
	untouched := func(when string) {
		t.Helper()
		if now := strings.Join(ours(t, dir), ""); now != before {
			t.Errorf("%s: the mount table is\n%s\nand was\n%s", when, now, before)
		}
		if b, err := os.ReadFile(target + "/dir/file"); err != nil || string(b) != "right bytes" {
			t.Errorf("%s: %q, %v", when, b, err)
		}
		if _, err := open.ReadAt(make([]byte, 100), 3<<20); err != nil {
			t.Errorf("%s: a file that was open: %v", when, err)
		}
		if _, err := first.node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: target}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"same socket and name":       {nodeArgs(dir, sock, o), "another driver runs with it"},
		"other socket, same name":    {nodeArgs(dir, filepath.Join(dir, "b.sock"), o), "another driver runs with it"},
		"same socket, other name":    {nodeArgs(dir, sock, o, "--driver-name", "other.csi.example"), "another driver answers there"},
		"same socket, other dir":     {nodeArgs(t.TempDir(), sock, o), "another driver answers there"},
		"same socket, other state":   {nodeArgs(dir, sock, o, "--state-dir", t.TempDir()), "another driver answers there"},
		"same state, all else other": {nodeArgs(t.TempDir(), filepath.Join(dir, "c.sock"), o, "--state-dir", filepath.Join(dir, "plugins/s3.csi.penstock.dev/mounts")), "another driver runs with it"},
	} {
		cmd, lines := program(t, c.args...)
		var said []string
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != cli.ExitFailed || len(said) != 1 || !strings.Contains(said[0], c.want) {
			t.Errorf("%s: %v, %q; want one line with %q", what, err, said, c.want)
		}
		untouched(what)
	}
	sockB := filepath.Join(dir, "b.sock")
	targetB := filepath.Join(dir, "pods", "pod-b", "mount")
	for what, more := range map[string][]string{
		"another name":                    {"--driver-name", "other.csi.example"},
		"another state, socket, same dir": {"--state-dir", t.TempDir()},
	} {
		second := drive(t, sockB, nodeArgs(dir, sockB, o, more...))
		untouched(what + " started")
		second.publish(t, targetB)
		_, err := second.node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: targetB})
		if err != nil {
			t.Error(err)
		}
		second.end(t)
		untouched(what + " ended")
	}
	first.end(t)
	if left := ours(t, dir); len(left) != 0 {
		t.Errorf("left mounted: %q", left)
	}
}

// TestPrivKilledDriver kills a driver, which leaves dead mounts. The next start
// removes these mounts and their directories, leaves the mounts of another driver
// alone, and publishes again at the same target.
func TestPrivKilledDriver(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	state := filepath.Join(dir, "plugins", "s3.csi.penstock.dev", "mounts")
	sock, other := filepath.Join(dir, "csi.sock"), filepath.Join(dir, "other.sock")
	target, otherTarget := filepath.Join(dir, "pods", "pod", "mount"), filepath.Join(dir, "pods", "other", "mount")
	neighbour := drive(t, other, nodeArgs(dir, other, o, "--driver-name", "other.csi.example"))
	neighbour.publish(t, otherTarget)
	for range 3 {
		p := drive(t, sock, nodeArgs(dir, sock, o))
		p.publish(t, target)
		if b, err := os.ReadFile(target + "/dir/file"); err != nil || string(b) != "right bytes" {
			t.Errorf("%q, %v", b, err)
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait() // it reports the kill
		if _, err := os.ReadFile(target + "/dir/file"); !errors.Is(err, syscall.ENOTCONN) {
			t.Errorf("after the kill: got %v, want ENOTCONN", err)
		}
		if left, err := os.ReadDir(state); err != nil || len(left) != 1 {
			t.Errorf("%d directories of state after a kill, want that of the dead run alone: %v", len(left), err)
		}
	}
	last := drive(t, sock, nodeArgs(dir, sock, o))
	if n := strings.Count(last.said, "detaching a mount of an earlier run"); n != 2 {
		t.Errorf("%d mounts detached, want the shared one and its target:\n%s", n, last.said)
	}
	if left := ours(t, filepath.Dir(target)); len(left) != 0 {
		t.Errorf("the dead mount is still there: %q", left)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("directories of dead runs: %v, %v", left, err)
	}
	last.publish(t, target)
	last.end(t)
	if b, err := os.ReadFile(otherTarget + "/dir/file"); err != nil || string(b) != "right bytes" {
		t.Errorf("the other driver's volume: %q, %v", b, err)
	}
	neighbour.end(t)
	if left := ours(t, dir); len(left) != 0 {
		t.Errorf("left mounted: %q", left)
	}
}

// TestPrivMountReplacesDeadMount wants the same command, after a kill, to replace the dead
// mount. A mount whose server is only stopped stays, and the command ends in
// bounded time.
func TestPrivMountReplacesDeadMount(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	args := []string{"mount", "models", dir, "--endpoint", o.URL()}
	start := func() *process {
		t.Helper()
		cmd, lines := program(t, args...)
		p := &process{cmd: cmd}
		for !strings.Contains(p.said, "is mounted on") {
			if !lines.Scan() {
				t.Fatalf("the mount ended: %s", p.said)
			}
			p.said += lines.Text() + "\n"
		}
		return p
	}
	killed := start()
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.cmd.Wait() // it reports the kill
	again := start()
	if !strings.Contains(again.said, "replacing a dead mount") {
		t.Errorf("said %q", again.said)
	}
	if b, err := os.ReadFile(dir + "/dir/file"); err != nil || string(b) != "right bytes" {
		t.Errorf("%q, %v", b, err)
	}
	if err := again.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	refused, lines := program(t, args...)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	if err := refused.Wait(); err == nil || len(said) != 1 || !strings.Contains(said[0], "already a mount point") {
		t.Errorf("over a mount whose server is stopped: %v, %q", err, said)
	}
	if err := again.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dir + "/dir/file"); err != nil || string(b) != "right bytes" {
		t.Errorf("after the stop: %q, %v", b, err)
	}
	again.end(t)
	if left := ours(t, dir); len(left) != 0 {
		t.Errorf("left mounted: %q", left)
	}
}

// TestPrivSignalTwice sends a signal twice, as timeout(1) and container runtimes
// do. The program ends as after one signal, with its bucket unmounted and exit
// code 0.
func TestPrivSignalTwice(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	for _, gap := range []time.Duration{0, 100 * time.Microsecond, 200 * time.Microsecond, 400 * time.Microsecond, time.Millisecond} {
		for range 3 {
			cmd, lines := program(t, "mount", "models", dir, "--endpoint", o.URL())
			if !lines.Scan() {
				t.Fatal("no line on standard error")
			}
			for range 3 {
				if err := cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				time.Sleep(gap) // real time: gaps at which the second signal once arrived too early
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("gap %v: %v", gap, err)
			}
			if left := ours(t, dir); len(left) != 0 {
				t.Errorf("gap %v: left mounted: %q", gap, left)
				_ = unix.Unmount(dir, unix.MNT_DETACH) // for the next round
			}
		}
	}
}

// TestPrivMountLogsReadErrors wants the mount to log, without any flag, why a read
// failed, because the reading program sees only EIO.
func TestPrivMountLogsReadErrors(t *testing.T) {
	o := origin(t)
	dir := t.TempDir()
	cmd, lines := program(t, "mount", "models", dir, "--endpoint", o.URL(), "--outage", "10ms")
	if !lines.Scan() {
		t.Fatal("no line on standard error")
	}
	f, err := os.Open(dir + "/dir/file")
	if err != nil {
		t.Fatal(err)
	}
	o.SetFaults(testorigin.Fault{Op: "GetObject", Action: testorigin.ActStatus, Status: 500, Error: "InternalError"})
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
	_ = f.Close() // nothing was written
	for why := ""; !strings.Contains(why, "InternalError") || !strings.Contains(why, "dir/file"); {
		if !lines.Scan() {
			t.Fatalf("the log does not say why: %q", why)
		}
		why += lines.Text() + "\n"
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
