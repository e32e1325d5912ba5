package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/penstock/penstock/internal/testport"
)

// dockerRegistry starts the CNCF registry, and returns its address.
func dockerRegistry(t *testing.T, dir string) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed: apt-get install docker-registry")
	}
	addr, config := testport.Addr(t), filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "registry"), addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	until(t, "the registry answers", func() bool {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return addr
}

// TestPrivDockerRegistry pulls two images that share a layer from a real registry
// by containerd, and runs them. All layers come through the snapshotter, and no
// directory is left once both images are removed.
func TestPrivDockerRegistry(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd, runc")
	}
	dir := shortDir(t)
	addr := dockerRegistry(t, dir)
	n := containerd(t, dir, "")
	d := start(t, dir)
	hello := file(t, "bin/hello", program(t))
	pull := func(tag, text string) string {
		t.Helper()
		r, err := name.ParseReference(addr + "/app:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		img := imageOf(t, []string{"/bin/hello"}, []v1.Layer{hello, file(t, "etc/motd", []byte(text))})
		if err := remote.Write(r, img, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
		n.do("images", "pull", "--snapshotter", "penstock", "--plain-http", r.Name())
		if got := n.run(r.Name(), tag); got != "hello from a container, "+text {
			t.Errorf("%q", got)
		}
		return r.Name()
	}
	refs := []string{pull("one", "one\n"), pull("two", "two\n")}
	if blobs := strings.Fields(n.do("content", "ls", "--quiet")); len(blobs) != 4 {
		t.Errorf("containerd's content store has %d blobs, want manifest and config of each image: %v", len(blobs), blobs)
	}
	if got := strings.Count(n.do("snapshots", "--snapshotter", "penstock", "ls"), "Committed"); got != 3 {
		t.Errorf("%d snapshots of layers, want 3: one is shared", got)
	}
	n.do(append([]string{"images", "rm", "--sync"}, refs...)...)
	if left := d.entries("snapshots") + d.entries("ready") + d.entries("work"); left != 0 {
		t.Errorf("%d directories are left when all images are removed", left)
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
