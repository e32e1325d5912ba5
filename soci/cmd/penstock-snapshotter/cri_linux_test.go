package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/penstock/penstock/internal/testorigin"
)

// criConfig is added to soci/deploy/containerd.toml: a sandbox image from this
// test's registry, and no AppArmor, which containers in containers lack.
const criConfig = `
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
`

// kubelet is a CRI client that talks to containerd as kubelet does.
type kubelet struct {
	t       *testing.T
	images  cri.ImageServiceClient
	runtime cri.RuntimeServiceClient
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (k *kubelet) pull(ref string, auth *cri.AuthConfig) error {
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	_, err := k.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth})
	return err
}

func (k *kubelet) remove(ref string) {
	k.t.Helper()
	if _, err := k.images.RemoveImage(k.t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		k.t.Error(err)
	}
}

// pod runs the command of an image in a pod on the node's network and returns
// its output.
func (k *kubelet) pod(ref, logs string) string {
	t := k.t
	t.Helper()
	sandbox := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid"},
		LogDirectory: logs,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}
	pod, err := k.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		id := pod.GetPodSandboxId()
		if _, err := k.runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := k.runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}()
	made, err := k.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{
		PodSandboxId: pod.GetPodSandboxId(), SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "hello"}, Image: &cri.ImageSpec{Image: ref}, LogPath: "hello.log",
			Linux: &cri.LinuxContainerConfig{},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := made.GetContainerId()
	if _, err := k.runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	until(t, "the container ends", func() bool {
		s, err := k.runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		if s.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED && s.GetStatus().GetExitCode() != 0 {
			t.Errorf("exit code %d", s.GetStatus().GetExitCode())
		}
		return s.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED
	})
	out, err := os.ReadFile(filepath.Join(logs, "hello.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// blobs counts the layers in containerd's content store.
func (n *node) blobs(layers ...v1.Layer) (count int) {
	n.t.Helper()
	all := n.do("content", "ls", "--quiet")
	for _, l := range layers {
		d, _ := l.Digest()
		count += strings.Count(all, d.String())
	}
	return count
}

// TestPrivCRI pulls and runs as kubelet does: a pod with a container, images that
// need a secret, and removal.
func TestPrivCRI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd, runc")
	}
	o, err := testorigin.Start(testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "token", AnonymousPull: false}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	public, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { public.Close() })
	dir := shortDir(t)
	hello, motd := file(t, "bin/hello", program(t)), file(t, "etc/motd", []byte("one\n"))
	pause := pushCommand(t, public, "app:pause", []string{"/bin/hello", "pause"}, hello)
	app := push(t, public, "app:1", hello, motd)
	secret := push(t, o, "app:2", hello, file(t, "etc/motd", []byte("two\n")))

	n := containerd(t, dir, criConfig, pause)
	n.namespace = "k8s.io"
	images := filepath.Join(dir, "i.sock")
	d := start(t, dir, "--image-service", images, "--containerd", filepath.Join(dir, "c.sock"))
	k := &kubelet{t, cri.NewImageServiceClient(dial(t, images)), cri.NewRuntimeServiceClient(dial(t, filepath.Join(dir, "c.sock")))}

	if err := k.pull(app, nil); err != nil {
		t.Fatal(err)
	}
	if got := fetched(public, hello, motd); got != size(hello, motd) {
		t.Errorf("%d bytes of layers were fetched of %d", got, size(hello, motd))
	}
	if n := n.blobs(hello, motd); n != 0 {
		t.Errorf("containerd has fetched %d layers itself: the labels of remote snapshots are missing", n)
	}
	if got := k.pod(app, filepath.Join(dir, "logs")); !strings.Contains(got, "hello from a container, one") {
		t.Errorf("the container printed %q", got)
	}
	k.secrets(n, o, secret)
	k.filesystem(d)

	for _, ref := range []string{app, secret, pause} {
		k.remove(ref)
	}
	until(t, "the disk is free", func() bool { return d.entries("snapshots")+d.entries("ready")+d.entries("work") == 0 })
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// secrets pulls an image that needs a login. Without a login the pull fails. With
// one, the snapshotter fetches the layers, or containerd does if the pull bypasses
// the image service.
func (k *kubelet) secrets(n *node, o *testorigin.Origin, ref string) {
	t := k.t
	t.Helper()
	if err := k.pull(ref, nil); err == nil {
		t.Error("an image that needs a login was pulled without one")
	}
	auth := &cri.AuthConfig{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}
	before := strings.Count(n.do("content", "ls", "--quiet"), "\n")
	if err := k.pull(ref, auth); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(n.do("content", "ls", "--quiet"), "\n") - before; got > 2 {
		t.Errorf("containerd has fetched layers itself: %d blobs more, want manifest and config", got)
	}
	if got := k.pod(ref, filepath.Join(n.dir, "logs2")); !strings.Contains(got, "hello from a container, two") {
		t.Errorf("the container printed %q", got)
	}
}

// filesystem checks that containerd reports the disk of the snapshots to kubelet.
func (k *kubelet) filesystem(d *daemon) {
	t := k.t
	t.Helper()
	r, err := k.images.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil || len(r.GetImageFilesystems()) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if at := r.GetImageFilesystems()[0].GetFsId().GetMountpoint(); at != d.root {
		t.Errorf("containerd reports to kubelet that images lie in %q, want %q", at, d.root)
	}
}
