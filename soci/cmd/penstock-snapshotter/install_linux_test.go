package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installation is a directory that install.sh uses as the root of a node, with a
// stub in place of each program that the script calls.
type installation struct {
	t   *testing.T
	dir string
	env []string
}

// containerdStub answers "config dump" from the files in its directory: with
// "after" if the drop-in is in an imported directory, else with "before". If
// there is a file "refuses", a containerd that sees the drop-in fails with the
// error in that file.
const containerdStub = `#!/bin/sh
[ "$3 $4" = "config dump" ] || exit 2
echo 'time="2026-12-01T11:50:48Z" level=warning msg="Configuration migrated"' >&2
if [ -e %[1]s/host/etc/containerd/conf.d/penstock.toml ]; then
	if [ -s %[1]s/refuses ]; then cat %[1]s/refuses >&2; exit 1; fi
	cat %[1]s/after
else
	if [ ! -s %[1]s/before ]; then echo 'containerd: toml: expected =' >&2; exit 1; fi
	cat %[1]s/before
fi
`

// Shortened output of "containerd config dump", without the drop-in and with it.
const (
	dumpBefore = `version = 3
imports = ['/etc/containerd/conf.d/*.toml']
disabled_plugins = []

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'
    disable_snapshot_annotations = true

    [plugins.'io.containerd.cri.v1.images'.pinned_images]
      sandbox = 'registry.example/pause:3.10'
`
	dumpOurs = `
  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
    platform = 'linux'
    snapshotter = 'overlayfs'

[proxy_plugins]
  [proxy_plugins.penstock]
    type = 'snapshot'
    address = '/run/penstock/snapshotter.sock'
`
)

var dumpAfter = strings.NewReplacer("'overlayfs'", "'penstock'", "annotations = true", "annotations = false").Replace(dumpBefore) + dumpOurs

// newInstallation creates a node whose containerd accepts everything.
func newInstallation(t *testing.T) *installation {
	t.Helper()
	i := &installation{t: t, dir: t.TempDir()}
	i.write("host/etc/containerd/config.toml", "version = 3\n")
	i.write("before", dumpBefore)
	i.write("after", dumpAfter)
	i.write("broken", "")
	i.write("refuses", "")
	i.write("bin/penstock-pull", "program")
	i.write("bin/penstock-snapshotter", "#!/bin/sh\ncat "+i.dir+"/kernel\n")
	i.write("kernel", "remap-ids\n")
	i.write("containerd", fmt.Sprintf(containerdStub, i.dir))
	// A call that the file "broken" lists fails once, and is removed from the file.
	i.write("systemctl", `#!/bin/sh
[ "$1" != show ] || exit 0
echo "$@" >>`+i.dir+`/calls
! grep -qx "$*" `+i.dir+`/broken || { grep -vx "$*" `+i.dir+`/broken >`+i.dir+`/left; cp `+i.dir+`/left `+i.dir+`/broken; exit 1; }
`)
	i.env = append(os.Environ(), "HOST="+i.path("host"), "BIN="+i.path("bin"), "FROM=../../deploy", "NODE=",
		"SYSTEMCTL="+i.path("systemctl"), "CONTAINERD="+i.path("containerd"), "CONFIG="+i.path("host/etc/containerd/config.toml"))
	return i
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

func (i *installation) write(name, text string) {
	i.t.Helper()
	if err := os.MkdirAll(filepath.Dir(i.path(name)), 0o755); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(i.path(name), []byte(text), 0o755); err != nil {
		i.t.Fatal(err)
	}
}

// read returns the text of a file, or "" if the file does not exist.
func (i *installation) read(name string) string {
	i.t.Helper()
	data, err := os.ReadFile(i.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		i.t.Fatal(err)
	}
	return string(data)
}

const dropIn = "host/etc/containerd/conf.d/penstock.toml"

// run runs install.sh and returns its exit code and its output.
func (i *installation) run() (code int, out string) {
	i.t.Helper()
	cmd := exec.Command("sh", "../../deploy/install.sh")
	cmd.Env = i.env
	data, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		i.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(data)
}

// restarts counts how often containerd was restarted.
func (i *installation) restarts() int {
	i.t.Helper()
	return strings.Count(i.read("calls"), "restart containerd.service\n")
}

// want runs install.sh and compares the exit code, the message, the drop-in and
// the number of restarts of containerd by all runs so far.
func (i *installation) want(code int, says string, there bool, restarts int) {
	i.t.Helper()
	got, out := i.run()
	if got != code || !strings.Contains(out, says) {
		i.t.Errorf("exit code %d, want %d with %q: %s", got, code, says, out)
	}
	if is := i.read(dropIn) != ""; is != there {
		i.t.Errorf("drop-in there: %v, want %v", is, there)
	}
	if n := i.restarts(); n != restarts {
		i.t.Errorf("containerd was restarted %d times, want %d: %s", n, restarts, out)
	}
	if i.t.Failed() {
		i.t.FailNow()
	}
}

// TestInstall runs the script of the DaemonSet against a directory. Each step
// that fails is repeated by the next run, and a run without changes restarts no
// service.
func TestInstall(t *testing.T) {
	i := newInstallation(t)
	i.write("broken", "restart penstock-snapshotter.service\n")
	i.want(1, "", false, 0)
	i.want(0, "installed /etc/containerd/conf.d/penstock.toml", true, 1)
	i.want(0, "", true, 1)
	const start = "daemon-reload\nenable penstock-snapshotter.service\nrestart penstock-snapshotter.service\n"
	if calls := i.read("calls"); calls != start+start+"restart containerd.service\n" {
		t.Errorf("%q", calls)
	}
	for _, f := range []string{"opt/penstock/bin/penstock-snapshotter", "opt/penstock/bin/penstock-pull", "opt/penstock/bin/uninstall.sh", "etc/systemd/system/penstock-snapshotter.service"} {
		if i.read("host/"+f) == "" {
			t.Errorf("%s is missing", f)
		}
	}
	if text := i.read(dropIn); !strings.Contains(text, `capabilities = ["remap-ids"]`) {
		t.Errorf("the kernel maps IDs, but containerd is not told: %s", text)
	}
	// A run that was killed before it restarted containerd leaves a note.
	i.write("host/opt/penstock/restart-containerd", "")
	i.want(0, "", true, 2)
	// A kernel without ID-mapped mounts, where containerd has to copy.
	i.write("kernel", "\n")
	i.want(0, "", true, 3)
	if text := i.read(dropIn); strings.Contains(text, "capabilities =") {
		t.Errorf("containerd is told of a capability that the kernel lacks: %s", text)
	}
}

// TestInstallRefuses checks that every run fails with a message and leaves
// containerd unchanged while the merged configuration would break containerd or
// would not use the snapshotter.
func TestInstallRefuses(t *testing.T) {
	for _, tc := range []struct {
		name                   string
		before, after, refuses string
		says                   string
	}{
		{"root version 2, containerd 2.3", dumpBefore, "", "containerd: drop-in config version 3 higher than root config version 2\n", "drop-in config version 3 higher than root config version 2"},
		{"root version 2, containerd 2.1", dumpBefore, strings.Replace(dumpAfter, "registry.example/pause", "registry.k8s.io/pause", 1), "", "sandbox = 'registry.example/pause:3.10'"},
		{"containerd 1.7", dumpBefore, "", "containerd: unsupported config version: `3`\n", "unsupported config version"},
		{"imports in a comment, or of other files", dumpBefore, dumpBefore, "", "containerd does not read /etc/containerd/conf.d/penstock.toml: write imports"},
		{"overridden by another file", dumpBefore, dumpBefore + dumpOurs, "", "another file of containerd's configuration sets the snapshotter"},
		{"no CRI", dumpBefore, strings.Replace(dumpAfter, "disabled_plugins = []", "disabled_plugins = ['cri']", 1), "", "turns the CRI plugin off"},
		{"another snapshotter's unpack_config", dumpBefore + "  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n    platform = 'linux'\n    snapshotter = 'nydus'\n", dumpAfter, "", "snapshotter = 'nydus'"},
		{"broken already", "", "", "", "can not read containerd's configuration"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := newInstallation(t)
			i.write("before", tc.before)
			i.write("after", tc.after)
			i.write("refuses", tc.refuses)
			for range 2 {
				i.want(1, tc.says, false, 0)
			}
			// After the repair the next run installs.
			i.write("before", dumpBefore)
			i.write("after", dumpAfter)
			i.write("refuses", "")
			i.want(0, "", true, 1)
			// A later run notices that the node has stopped using the snapshotter.
			i.write("after", dumpBefore)
			i.want(1, "containerd does not read", true, 1)
		})
	}
}

// TestInstallRestoresDropIn checks that the previous drop-in is restored when
// containerd refuses a new one, or does not start with it.
func TestInstallRestoresDropIn(t *testing.T) {
	i := newInstallation(t)
	i.want(0, "", true, 1)
	const old = "# an older version's\nversion = 3\n"
	i.write(dropIn, old)
	i.write("refuses", "containerd: no\n")
	i.want(1, "containerd: no", true, 1)
	if got := i.read(dropIn); got != old {
		t.Errorf("the drop-in is %q", got)
	}
	i.write("refuses", "")
	i.write("broken", "restart containerd.service\n")
	i.want(1, "it runs without it", true, 3)
	if got := i.read(dropIn); got != old {
		t.Errorf("the drop-in is %q", got)
	}
	i.want(0, "", true, 4)
	if got := i.read(dropIn); got == old {
		t.Error("the old drop-in is still there")
	}
	i.env = append(i.env, "CONTAINERD="+i.path("nowhere"))
	i.write(dropIn, old)
	i.want(1, "can not read containerd's configuration", true, 4)
	if got := i.read(dropIn); got != old {
		t.Errorf("the drop-in is %q", got)
	}
}

// TestInstallContainerd checks the script with the real containerd. The drop-in is
// used if there is an imports line for it, and a comment or an import of other
// files does not count as such a line.
func TestInstallContainerd(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: starts containerd several times")
	}
	program := tool(t, "containerd")
	i := newInstallation(t)
	i.env = append(i.env, "CONTAINERD="+program)
	conf := i.path("host/etc/containerd/conf.d")
	for _, line := range []string{"# imports = [%q]", "#imports = [%q]", `imports = ["%s.bak"]`} {
		i.write("host/etc/containerd/config.toml", "version = 3\n"+fmt.Sprintf(line, conf+"/*.toml")+"\n")
		i.want(1, "containerd does not read", false, 0)
	}
	i.write("host/etc/containerd/config.toml", fmt.Sprintf("version = 3\nimports = [%q]\n[plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter = \"native\"\n", conf+"/*.toml"))
	i.want(0, "", true, 1)
	i.want(0, "", true, 1)
	i.write("host/etc/containerd/conf.d/zz.toml", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter = \"native\"\n")
	i.want(1, "another file", true, 1)
}

// TestUninstallStops checks that uninstall.sh makes no change if containerd would
// not start without the drop-in, and waits only for a bounded time for a containerd
// that does not answer.
func TestUninstallStops(t *testing.T) {
	i := newInstallation(t)
	i.want(0, "", true, 1)
	before := i.read(dropIn)
	uninstall := func(containerd string) string {
		t.Helper()
		cmd := exec.Command("sh", "../../deploy/uninstall.sh")
		cmd.Env = append(i.env, "DROPIN="+i.path(dropIn), "BEFORE="+i.path("dropin.before"), "CTR=false", "WAIT=0", "CONTAINERD="+containerd)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	i.write("refuses", "containerd: no\n")
	if out := uninstall(i.path("containerd")); !strings.Contains(out, "put back and nothing was restarted") || i.read(dropIn) != before || i.restarts() != 1 {
		t.Errorf("restarted %d times: %s", i.restarts(), out)
	}
	if out := uninstall("true"); !strings.Contains(out, "does not answer") || i.restarts() != 2 {
		t.Errorf("restarted %d times: %s", i.restarts(), out)
	}
	if text := i.read(dropIn); strings.Contains(text, "cri.v1") || !strings.Contains(text, "proxy_plugins.penstock") {
		t.Errorf("the drop-in is %q", text)
	}
}
