package csi_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/csi/internal/mounts"
	"github.com/penstock/penstock/internal/testorigin"
)

const fsType = "fuse.penstock"

// needsMount skips the test where no mount can be made, and says why.
func needsMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: modprobe fuse")
	}
}

// kubelet is a running driver, and what kubelet has: a connection to its socket and a directory of pods.
type kubelet struct {
	dir  string // as kubelet calls it
	real string // without links
	node spec.NodeClient
	id   spec.IdentityClient
	sock string
	stop func() error
}

// startDriver runs a driver until the test ends, and then checks that nothing is left of it.
func startDriver(t *testing.T, opts csi.Options) *kubelet {
	t.Helper()
	k := &kubelet{real: t.TempDir()}
	k.dir = k.real
	if link := opts.KubeletDir; link != "" {
		if err := os.Symlink(k.real, link); err != nil {
			t.Fatal(err)
		}
		k.dir = link
	}
	k.sock = filepath.Join(k.real, "csi.sock")
	opts.Endpoint, opts.NodeID, opts.KubeletDir = "unix://"+k.sock, "node-1", k.dir
	d, err := csi.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	select {
	case <-d.Serving():
	case err := <-ended:
		cancel()
		t.Fatalf("driver did not start: %v", err)
	}
	conn, err := grpc.NewClient("unix://"+k.sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	k.node, k.id = spec.NewNodeClient(conn), spec.NewIdentityClient(conn)
	k.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(conn.Close(), <-ended)
	})
	t.Cleanup(func() {
		if err := k.stop(); err != nil {
			t.Errorf("driver ended with %v", err)
		}
		if left := k.mounts(t); len(left) != 0 {
			t.Errorf("left mounted: %+v", left)
		}
		if _, err := os.Lstat(k.sock); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return k
}

// mounts returns what the driver has mounted.
func (k *kubelet) mounts(t *testing.T) []mounts.Mount {
	t.Helper()
	table, err := mounts.Read()
	if err != nil {
		t.Fatal(err)
	}
	return table.Below(k.real, fsType)
}

// pod makes the directory of a volume in a pod, as kubelet does, and returns the target in it.
func (k *kubelet) pod(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(k.dir, "pods", name, "volumes", "kubernetes.io~csi", "pv-1")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "mount")
}

// publishRequest is what kubelet sends for a read-only volume.
func publishRequest(target string) *spec.NodePublishVolumeRequest {
	return &spec.NodePublishVolumeRequest{
		VolumeId:   "volume-1",
		TargetPath: target,
		Readonly:   true,
		VolumeCapability: &spec.VolumeCapability{
			AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
			AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
		},
		VolumeContext: map[string]string{"bucketName": bucket, "csi.storage.k8s.io/pod.name": "pod"},
	}
}

func (k *kubelet) publish(t *testing.T, req *spec.NodePublishVolumeRequest) {
	t.Helper()
	if _, err := k.node.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func (k *kubelet) unpublish(t *testing.T, target string) {
	t.Helper()
	_, err := k.node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: "volume-1", TargetPath: target})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPrivKubeletSequence is one volume's life on a node: registration, two pods that share it, repeated publishes, reads,
// figures, and the end, with nothing left over.
func TestPrivKubeletSequence(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	want := bytes.Repeat([]byte("weights "), 1<<17) // 1 MiB
	put(t, o, "dir/weights.bin", want)
	k := startDriver(t, csi.Options{S3: s3At(o), Memory: 64 << 20, MaxVolumes: 7})

	info, err := k.id.GetPluginInfo(t.Context(), &spec.GetPluginInfoRequest{})
	if err != nil || info.GetName() != csi.DefaultDriverName || info.GetVendorVersion() == "" {
		t.Errorf("plugin info %v, %v", info, err)
	}
	nodeInfo, err := k.node.NodeGetInfo(t.Context(), &spec.NodeGetInfoRequest{})
	if err != nil || nodeInfo.GetNodeId() != "node-1" || nodeInfo.GetMaxVolumesPerNode() != 7 {
		t.Errorf("node info %v, %v", nodeInfo, err)
	}
	a, b := k.pod(t, "a"), k.pod(t, "b")
	for range 3 {
		k.publish(t, publishRequest(a))
	}
	k.publish(t, publishRequest(b))
	for _, target := range []string{a, b} {
		got, err := os.ReadFile(target + "/dir/weights.bin")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", target, len(got), err)
		}
	}
	if n := o.Count("GetObject", bucket+"/dir/weights.bin").Bytes; n != int64(len(want)) {
		t.Errorf("two pods cost %d bytes of S3, the object has %d: the page cache must be shared", n, len(want))
	}
	if m := k.mounts(t); len(m) != 3 {
		t.Errorf("%d mounts, want one and a bind for each pod: %+v", len(m), m)
	}
	stats, err := k.node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: "volume-1", VolumePath: a})
	if err != nil || len(stats.GetUsage()) != 1 || stats.GetUsage()[0].GetTotal() == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	for range 2 {
		k.unpublish(t, a)
	}
	if _, err := os.Lstat(a); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target must be gone: %v", err)
	}
	if got, err := os.ReadFile(b + "/dir/weights.bin"); err != nil || len(got) != len(want) {
		t.Errorf("the other pod lost its volume: %v", err)
	}
	k.unpublish(t, b)
	if m := k.mounts(t); len(m) != 0 {
		t.Errorf("after the last unpublish: %+v", m)
	}
	k.publish(t, publishRequest(a)) // left to the driver's end, which must take it down
}

func TestPrivBadRequests(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("x"))
	dead := startOrigin(t)
	_ = dead.Close()
	where := s3At(o)
	where.Outage = -1 // what refuses is not asked for a minute
	k := startDriver(t, csi.Options{S3: where})
	target := k.pod(t, "pod")
	link := filepath.Join(k.dir, "pods", "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		change func(*spec.NodePublishVolumeRequest)
		code   codes.Code
		want   string
	}{
		{"no id", func(r *spec.NodePublishVolumeRequest) { r.VolumeId = "" }, codes.InvalidArgument, "volume id is missing"},
		{"no target", func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "" }, codes.InvalidArgument, "target path is missing"},
		{"no capability", func(r *spec.NodePublishVolumeRequest) { r.VolumeCapability = nil }, codes.InvalidArgument, "capability is missing"},
		{"block", func(r *spec.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}
		}, codes.InvalidArgument, "use volumeMode Filesystem"},
		{"writing", func(r *spec.NodePublishVolumeRequest) {
			r.Readonly = false
			r.VolumeCapability.AccessMode.Mode = spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		}, codes.InvalidArgument, "mounts read-only; set readOnly: true"},
		{"attribute", func(r *spec.NodePublishVolumeRequest) { r.VolumeContext["colour"] = "red" }, codes.InvalidArgument, `"colour" is unknown`},
		{"outside", func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "/tmp/elsewhere" }, codes.InvalidArgument, "not inside the allowed directory"},
		{"dots", func(r *spec.NodePublishVolumeRequest) { r.TargetPath = k.dir + "/../x" }, codes.InvalidArgument, "not a clean absolute path"},
		{"link", func(r *spec.NodePublishVolumeRequest) { r.TargetPath = link + "/mount" }, codes.InvalidArgument, "symbolic link"},
		{"bucket", func(r *spec.NodePublishVolumeRequest) { r.VolumeContext["bucketName"] = "missing" }, codes.NotFound, "no such bucket"},
		{"secret", func(r *spec.NodePublishVolumeRequest) {
			r.Secrets = map[string]string{"key_id": testorigin.AccessKey, "access_key": "hush-hush"}
		}, codes.PermissionDenied, "wrong secret key"},
		{"refused", func(r *spec.NodePublishVolumeRequest) { r.VolumeContext["endpointURL"] = dead.URL() }, codes.Unavailable, "refuses connections"},
	} {
		req := publishRequest(target)
		c.change(req)
		_, err := k.node.NodePublishVolume(t.Context(), req)
		s := status.Convert(err)
		if s.Code() != c.code || !strings.Contains(s.Message(), c.want) || strings.Contains(s.Message(), "hush-hush") {
			t.Errorf("%s: got %v %q, want %v %q", c.what, s.Code(), s.Message(), c.code, c.want)
		}
	}
	if m := k.mounts(t); len(m) != 0 {
		t.Errorf("refused requests left mounts: %+v", m)
	}
	if left, err := os.ReadDir(filepath.Join(k.dir, "plugins", csi.DefaultDriverName, "mounts")); err != nil || len(left) != 0 {
		t.Errorf("refused requests left directories: %v, %v", left, err)
	}

	k.publish(t, publishRequest(target))
	other := publishRequest(target)
	other.VolumeContext["prefix"] = "other/"
	if _, err := k.node.NodePublishVolume(t.Context(), other); status.Code(err) != codes.AlreadyExists {
		t.Errorf("other attributes at the same target: %v", err)
	}
	_, err := k.node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: "volume-1", VolumePath: "/nowhere"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("stats of nothing: %v", err)
	}
	_, err = k.node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: "volume-1", TargetPath: "/tmp/x"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("unpublish outside: %v", err)
	}
}

func TestDriverSocket(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "csi.sock")
	if err := os.WriteFile(sock, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	newDriver := func(kubelet string) *csi.Driver {
		d, err := csi.New(csi.Options{Endpoint: "unix://" + sock, NodeID: "n", KubeletDir: kubelet})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if err := newDriver(dir).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file in the way: %v", err)
	}
	if err := newDriver(dir + "/missing").Run(t.Context()); err == nil || !strings.Contains(err.Error(), "kubelet directory") {
		t.Errorf("no kubelet directory: %v", err)
	}
	if err := os.Remove(sock); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := newDriver(dir)
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	<-first.Serving()
	if err := newDriver(dir).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another driver runs with it") {
		t.Errorf("a second driver with the same state: %v", err)
	}
	if err := newDriver(t.TempDir()).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another driver answers") {
		t.Errorf("a second driver on the same socket: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestPrivSanity runs the conformance suite of the Kubernetes project against the driver, over its socket: all of what it
// has for the services that the driver declares. The suite makes volumes through a controller service, which this driver
// does not have (there is nothing to provision read-only); the specs that need one are left out by name, and what they
// check of the node service is in TestPrivKubeletSequence and TestPrivBadRequests.
func TestPrivSanity(t *testing.T) {
	needsMount(t)
	if count := flag.Lookup("test.count"); count != nil && count.Value.String() != "1" {
		t.Skip("needs -count=1: the suite's runner ends the process otherwise")
	}
	o := startOrigin(t)
	put(t, o, "file", []byte("x"))
	k := startDriver(t, csi.Options{S3: s3At(o)})
	config := sanity.NewTestConfig()
	config.Address = "unix://" + k.sock
	config.TargetPath = filepath.Join(k.dir, "sanity-target")
	config.StagingPath = filepath.Join(k.dir, "sanity-staging")
	for name, value := range map[string]string{
		"ginkgo.skip":     `\[Controller Server\]|should remove target path|volume does not exist on the specified path|should return health for a valid volume`,
		"ginkgo.no-color": "true",
	} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	sanity.Test(t, config)
}
