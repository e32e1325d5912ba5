package main

import (
	"context"
	"errors"
	"fmt"
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

const csiStart = 20 * time.Second

// throughKubelet runs the driver and calls it as a kubelet does.
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
	// The mount is removed after a failed read and after Ctrl-C as well.
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
