package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/testorigin"
)

// sampled files are read through the mount and compared, besides the largest.
const sampled = 500

const csiStart = 20 * time.Second

// runCSI calls the driver as a kubelet does and reads files of the bucket.
func runCSI(ctx context.Context, env *environment) (result, error) {
	for _, f := range env.files {
		if err := env.origin.PutFile(bucketName, f.key, f.path); err != nil {
			return result{}, err
		}
	}
	env.origin.Reset()
	if why := cannotMount(); why != "" {
		return coreOnly(ctx, env, why)
	}
	return throughKubelet(ctx, env)
}

// cannotMount says why a mount can't be made here; "" if it can.
func cannotMount() string {
	if os.Geteuid() != 0 {
		return "not root: no mount, read through the same file-system core without the kernel"
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Sprintf("no /dev/fuse (%v): read through the same file-system core without the kernel", err)
	}
	_ = f.Close() // opened only to see whether it can be
	return ""
}

func s3Options(env *environment) csi.S3Options {
	return csi.S3Options{Endpoint: env.origin.URL(), Region: "us-east-1", AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey}
}

func coreOnly(ctx context.Context, env *environment, why string) (result, error) {
	var r result
	r.Note = why
	env.ui.say("%s", why)
	b, err := csi.OpenBucket(ctx, csi.BucketOptions{Bucket: bucketName, S3: s3Options(env)})
	if err != nil {
		return r, err
	}
	err = readFiles(ctx, env, b.FS(ctx), &r)
	return r, errors.Join(err, b.Close())
}

func throughKubelet(ctx context.Context, env *environment) (r result, err error) {
	dir, err := env.scratch("csi")
	if err != nil {
		return r, err
	}
	kubelet := filepath.Join(dir, "kubelet")
	target := filepath.Join(kubelet, "pods", "demo", "volumes", "kubernetes.io~csi", "go", "mount")
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return r, err
	}
	socket := filepath.Join(dir, "csi.sock")
	d, err := csi.New(csi.Options{Endpoint: "unix://" + socket, NodeID: "demo-node", KubeletDir: kubelet, S3: csi.S3Options{Endpoint: env.origin.URL(), Region: "us-east-1"}})
	if err != nil {
		return r, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- d.Run(run) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
		if left := mountsBelow(dir); err == nil && left > 0 {
			err = fmt.Errorf("%d mounts are left behind", left)
		}
	}()
	select {
	case <-d.Serving():
	case err := <-ended:
		ended <- nil
		return r, fmt.Errorf("driver: %w", err)
	case <-time.After(csiStart):
		return r, errors.New("driver does not serve")
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return r, err
	}
	defer conn.Close()
	return r, kubeletCalls(ctx, env, conn, target, &r)
}

// kubeletCalls publishes, reads and unpublishes a volume.
func kubeletCalls(ctx context.Context, env *environment, conn *grpc.ClientConn, target string, r *result) error {
	id, node := csipb.NewIdentityClient(conn), csipb.NewNodeClient(conn)
	info, err := id.GetPluginInfo(ctx, &csipb.GetPluginInfoRequest{})
	if err != nil {
		return err
	}
	if _, err := id.Probe(ctx, &csipb.ProbeRequest{}); err != nil {
		return err
	}
	where, err := node.NodeGetInfo(ctx, &csipb.NodeGetInfoRequest{})
	if err != nil {
		return err
	}
	env.ui.say("driver %s %s on node %s", info.GetName(), info.GetVendorVersion(), where.GetNodeId())
	_, err = node.NodePublishVolume(ctx, &csipb.NodePublishVolumeRequest{
		VolumeId: "go-tree", TargetPath: target, Readonly: true,
		VolumeContext: map[string]string{"bucketName": bucketName},
		Secrets:       map[string]string{"key_id": testorigin.AccessKey, "access_key": testorigin.SecretKey},
		VolumeCapability: &csipb.VolumeCapability{
			AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}},
			AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		},
	})
	if err != nil {
		return fmt.Errorf("NodePublishVolume: %w", err)
	}
	env.ui.say("published at %s", target)
	readErr := readFiles(ctx, env, os.DirFS(target), r)
	// Also after a failed read, and after Ctrl-C: the mount must go.
	_, err = node.NodeUnpublishVolume(context.WithoutCancel(ctx), &csipb.NodeUnpublishVolumeRequest{VolumeId: "go-tree", TargetPath: target})
	if err = errors.Join(readErr, err); err != nil {
		return err
	}
	if _, err := os.Lstat(target); err == nil {
		return fmt.Errorf("%s is still there after NodeUnpublishVolume", target)
	}
	r.figure("driver", info.GetName(), "driver", fmt.Sprintf("%s %s: published, read, unpublished, nothing left", info.GetName(), info.GetVendorVersion()))
	return nil
}

// readFiles compares a sample of the files with their sources, and times the
// largest one.
func readFiles(ctx context.Context, env *environment, fsys fs.FS, r *result) error {
	largest := env.files[0]
	var picked []file
	var total int64
	for i, f := range env.files {
		if f.size > largest.size {
			largest = f
		}
		if i%max(1, len(env.files)/sampled) == 0 {
			picked = append(picked, f)
			total += f.size
		}
	}
	j := env.ui.job("read and compare files", total)
	for _, f := range picked {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := compareFile(fsys, f); err != nil {
			return err
		}
		j.add(f.size)
	}
	j.end("%d files equal", len(picked))
	before, begin := env.origin.TotalBytes(bucketName+"/"+largest.key), time.Now()
	if err := compareFile(fsys, largest); err != nil {
		return err
	}
	took := time.Since(begin)
	env.ui.say("%s (%s) in %.2f s", largest.key, size(largest.size), took.Seconds())
	fetched := env.origin.TotalBytes(bucketName+"/"+largest.key) - before
	r.figure("files", len(picked), "files", fmt.Sprintf("%d (%s) read and equal to the source", len(picked), size(total)))
	r.figure("largest_bytes_per_second", float64(largest.size)/took.Seconds(), "largest file", fmt.Sprintf("%s, read and compared at %s, %.2f bytes fetched for each", size(largest.size), rate(largest.size, took), float64(fetched)/float64(largest.size)))
	return nil
}

func compareFile(fsys fs.FS, f file) error {
	got, err := fsys.Open(f.key)
	if err != nil {
		return err
	}
	defer got.Close()
	want, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer want.Close()
	return compareReaders(io.Reader(want), got, f.key)
}

// mountsBelow counts the mounts at or below a folder.
func mountsBelow(dir string) int {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir) {
			n++
		}
	}
	return n
}
