package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/testorigin"
)

// pinned matches our image with a version or a digest.
var pinned = regexp.MustCompile(`^ghcr\.io/penstock/penstock-soci(:v\d+(\.\d+)*|@sha256:[0-9a-f]{64})$`)

// TestManifests reads the manifests as strictly as the API server does.
func TestManifests(t *testing.T) {
	for _, name := range []string{"install.yaml", "prefetch.yaml"} {
		data, err := os.ReadFile(filepath.Join("../../deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		var d appsv1.DaemonSet
		if err := yaml.UnmarshalStrict(data, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pod := d.Spec.Template.Spec
		var volumes []string
		for _, v := range pod.Volumes {
			volumes = append(volumes, v.Name)
		}
		if d.APIVersion != "apps/v1" || d.Kind != "DaemonSet" || d.Spec.Selector.MatchLabels["app"] != d.Spec.Template.Labels["app"] {
			t.Errorf("%s: %s %s, selector %v, labels %v", name, d.APIVersion, d.Kind, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels)
		}
		for _, c := range pod.Containers { // the containers that remain after the init containers
			sc := c.SecurityContext
			if sc == nil || sc.Privileged != nil || !*sc.RunAsNonRoot || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || len(sc.Capabilities.Drop) != 1 || len(c.VolumeMounts) > 0 {
				t.Errorf("%s: container %s stays with more rights than it needs: %+v", name, c.Name, sc)
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			if !pinned.MatchString(c.Image) {
				t.Errorf("%s: container %s runs %s, which is neither a version nor a digest", name, c.Name, c.Image)
			}
			for _, m := range c.VolumeMounts {
				if !slices.Contains(volumes, m.Name) {
					t.Errorf("%s: container %s mounts %q, which is no volume", name, c.Name, m.Name)
				}
			}
		}
	}
}

// TestService checks that the program accepts the unit's command line, that the
// unit has its bounds, and that systemd, if it is installed, accepts the unit.
func TestService(t *testing.T) {
	data, err := os.ReadFile("../../deploy/penstock-snapshotter.service")
	if err != nil {
		t.Fatal(err)
	}
	const program = "ExecStart=/opt/penstock/bin/penstock-snapshotter "
	unit := string(data)
	_, line, ok := strings.Cut(unit, program)
	line, _, _ = strings.Cut(line, "\n")
	flags, ok2 := strings.CutSuffix(line, " $PENSTOCK_FLAGS")
	if !ok || !ok2 {
		t.Fatalf("the unit starts %q", line)
	}
	c, err := parse(strings.Fields(flags), cli.Streams{Out: io.Discard, Err: io.Discard})
	if err != nil || c.snapshotter.Root != defaultRoot || c.listen.Socket != defaultSocket || !c.LogsJSON() {
		t.Errorf("%q: %+v, %v", flags, c, err)
	}
	for _, want := range []string{"StartLimitIntervalSec=0", "EnvironmentFile=-/etc/default/penstock-snapshotter", "MemoryMax=", "MemoryHigh=", "OOMScoreAdjust=-", "NoNewPrivileges=true", "ProtectHome=read-only"} {
		if !strings.Contains(unit, "\n"+want) {
			t.Errorf("the unit has no %s", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the unit's syntax is not checked")
		return
	}
	file := filepath.Join(t.TempDir(), "penstock-snapshotter.service")
	if err := os.WriteFile(file, []byte(strings.Replace(unit, program, "ExecStart=/bin/true ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), "penstock") {
		t.Errorf("systemd-analyze: %v: %s", err, out)
	}
}

// TestPrivNode installs, upgrades and uninstalls as the DaemonSet does, with all
// files at their real paths in a mount namespace of its own. It runs the unit's
// command, and containerd with the configuration that install.sh wrote.
func TestPrivNode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces, containerd")
	}
	tools := filepath.Dir(tool(t, "containerd"))
	for _, name := range []string{"ctr", "containerd-shim-runc-v2", "runc", "unshare"} {
		tool(t, name)
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	ref := push(t, o, "app:node", file(t, "bin/hello", program(t)), file(t, "etc/motd", []byte("node\n")))
	kept := push(t, o, "app:kept", file(t, "bin/hello", program(t)), file(t, "etc/motd", []byte("kept\n")))
	state := shortDir(t)
	t.Cleanup(func() {
		made, _ := os.ReadFile(filepath.Join(state, "made")) // mount points that node.sh made on this machine
		for dir := range strings.FieldsSeq(string(made)) {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	bin, deploy := filepath.Join(state, "bin"), "../../deploy"
	if out, err := exec.Command("go", "build", "-o", bin+"/", ".", "../penstock-pull").CombinedOutput(); err != nil {
		t.Skipf("needs the go command: %v: %s", err, out)
	}
	absolute := func(p string) string {
		p, err := filepath.Abs(p)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "testdata/node.sh")
	cmd.Env = append(os.Environ(), "DEPLOY="+absolute(deploy), "BIN="+bin, "TOOLS="+tools, "STATE="+state, "IMAGE="+ref, "KEPT="+kept,
		"SYSTEMCTL=sh "+absolute("testdata/systemctl"), "PATH="+tools+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(state, "penstock-snapshotter.service.log"))
		t.Fatalf("%v: %s\ndaemon: %s", err, out, log)
	}
	if n := strings.Count(string(out), "hello from a container, node"); n != 3 {
		t.Errorf("the image ran %d times, want 3: %s", n, out)
	}
	if !strings.Contains(string(out), "hello from a container, kept") {
		t.Errorf("the image that was never ours did not run: %s", out)
	}
}
