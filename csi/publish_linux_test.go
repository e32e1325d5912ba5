package csi_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestPrivParallelPublishes: many pods come and go at once, sharing mounts, making and ending them, some of them asking for
// what is not there. Everyone reads its own bytes, and nothing is left.
func TestPrivParallelPublishes(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	prefixes := []string{"a", "b", "missing-bucket"}
	for _, p := range prefixes {
		put(t, o, p+"/file", []byte(p))
	}
	k := startDriver(t, csi.Options{S3: s3At(o)})
	var wg sync.WaitGroup
	for i := range 9 {
		target, prefix := k.pod(t, fmt.Sprint("pod-", i)), prefixes[i%len(prefixes)]
		wg.Go(func() {
			for range 5 {
				req := publishRequest(target)
				req.VolumeContext["prefix"] = prefix
				if prefix == "missing-bucket" {
					req.VolumeContext["bucketName"] = prefix
					if _, err := k.node.NodePublishVolume(t.Context(), req); status.Code(err) != codes.NotFound {
						t.Errorf("missing bucket: %v", err)
					}
					continue
				}
				if _, err := k.node.NodePublishVolume(t.Context(), req); err != nil {
					t.Errorf("%s: %v", prefix, err)
					return
				}
				if b, err := os.ReadFile(target + "/file"); err != nil || string(b) != prefix {
					t.Errorf("%s: %q, %v", prefix, b, err)
				}
				_, err := k.node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: "volume-1", TargetPath: target})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if m := k.mounts(t); len(m) != 0 {
		t.Errorf("left mounted: %+v", m)
	}
	if left, err := os.ReadDir(filepath.Join(k.dir, "plugins", csi.DefaultDriverName, "mounts")); err != nil || len(left) != 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

// TestPrivCallerGoesAway: a publish that waits for a store that does not answer ends with its caller, and the next one
// works.
func TestPrivCallerGoesAway(t *testing.T) {
	needsMount(t)
	asked := make(chan struct{}, 100)
	o, err := testorigin.Start(testorigin.Options{Tap: func(e testorigin.Event) {
		if !e.Done {
			asked <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	put(t, o, "file", []byte("x"))
	k := startDriver(t, csi.Options{S3: s3At(o)})
	target := k.pod(t, "pod")
	o.SetFaults(testorigin.Fault{Action: testorigin.ActStall})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := k.node.NodePublishVolume(ctx, publishRequest(target))
		ended <- err
	}()
	<-asked
	if _, err := k.node.NodePublishVolume(t.Context(), publishRequest(target)); status.Code(err) != codes.Aborted {
		t.Errorf("a second publish at the same time: %v", err)
	}
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	o.SetFaults()
	// The driver's side of the first call may still be ending: until then the target is busy.
	for {
		_, err := k.node.NodePublishVolume(t.Context(), publishRequest(target))
		if err == nil {
			break
		}
		if status.Code(err) != codes.Aborted {
			t.Fatal(err)
		}
	}
	k.unpublish(t, target)
}

// TestPrivSecretOfVolume: a volume with a secret is read with it, apart from volumes without.
func TestPrivSecretOfVolume(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("for those who may"))
	anonymous := s3At(o)
	anonymous.AccessKeyID, anonymous.SecretAccessKey, anonymous.Anonymous = "", "", true
	k := startDriver(t, csi.Options{S3: anonymous})
	target := k.pod(t, "pod")
	if _, err := k.node.NodePublishVolume(t.Context(), publishRequest(target)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without the secret: %v", err)
	}
	req := publishRequest(target)
	req.Secrets = map[string]string{"key_id": testorigin.AccessKey, "access_key": testorigin.SecretKey}
	k.publish(t, req)
	if b, err := os.ReadFile(target + "/file"); err != nil || string(b) != "for those who may" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestPrivRotation: a publish with new credentials gives them to the mount that is there, with its open files, and one with
// credentials that do not work changes nothing.
func TestPrivRotation(t *testing.T) {
	needsMount(t)
	var ahead atomic.Int64 // of the origin's clock, in nanoseconds
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	session := func(name string, life time.Duration) testorigin.Credential {
		return testorigin.Credential{AccessKey: "ASIA" + name, SecretKey: "secret-" + name, SessionToken: "token-" + name, Expires: time.Now().Add(life)}
	}
	first, second := session("FIRST", time.Minute), session("SECOND", time.Hour)
	o, err := testorigin.Start(testorigin.Options{Now: now, Credentials: []testorigin.Credential{first, second}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	data := bytes.Repeat([]byte("x"), 16<<20) // more than what is read ahead
	put(t, o, "file", data)
	anonymous := csi.S3Options{Endpoint: o.URL(), Region: testorigin.Region, Anonymous: true}
	k := startDriver(t, csi.Options{S3: anonymous})
	target := k.pod(t, "pod")
	publish := func(c testorigin.Credential) error {
		req := publishRequest(target)
		req.Secrets = map[string]string{"key_id": c.AccessKey, "access_key": c.SecretKey, "session_token": c.SessionToken}
		_, err := k.node.NodePublishVolume(t.Context(), req)
		return err
	}
	if err := publish(first); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(target + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 4096)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	wrong := second
	wrong.SecretKey = "wrong"
	if err := publish(wrong); status.Code(err) != codes.PermissionDenied {
		t.Errorf("rotation to credentials that do not work: %v", err)
	}
	ahead.Store(int64(2 * time.Minute)) // the first session has ended
	if err := publish(second); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(p, 15<<20); err != nil || p[0] != 'x' {
		t.Errorf("an open file after the rotation: %v", err)
	}
	if b, err := os.ReadFile(target + "/file"); err != nil || !bytes.Equal(b, data) {
		t.Errorf("after the rotation: %d bytes, %v", len(b), err)
	}
	if m := k.mounts(t); len(m) != 2 {
		t.Errorf("a rotation must not mount: %+v", m)
	}
	if _, err := k.node.NodePublishVolume(t.Context(), publishRequest(target)); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same volume without its secret: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	k.unpublish(t, target)
}

// TestPrivMends: a target that somebody unmounted is mounted again by the next publish, and one whose mount was taken away
// altogether can be unpublished and published.
func TestPrivMends(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("here"))
	k := startDriver(t, csi.Options{S3: s3At(o)})
	target := k.pod(t, "pod")
	read := func() {
		t.Helper()
		if b, err := os.ReadFile(target + "/file"); err != nil || string(b) != "here" {
			t.Errorf("%q, %v", b, err)
		}
	}
	k.publish(t, publishRequest(target))
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatal(err)
	}
	k.publish(t, publishRequest(target))
	read()
	// MNT_FORCE aborts the connection as the death of the server would: reads are ENOTCONN.
	if err := unix.Unmount(target, unix.MNT_FORCE); err != nil {
		t.Logf("abort: %v", err)
	}
	k.publish(t, publishRequest(target))
	read()
	k.unpublish(t, target)
}

// TestPrivLinkedKubeletDir: kubelet's directory may be a symbolic link to where the disk is.
func TestPrivLinkedKubeletDir(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("here"))
	k := startDriver(t, csi.Options{S3: s3At(o), KubeletDir: filepath.Join(t.TempDir(), "link")})
	target := k.pod(t, "pod")
	for range 2 {
		k.publish(t, publishRequest(target))
	}
	if b, err := os.ReadFile(target + "/file"); err != nil || string(b) != "here" {
		t.Errorf("%q, %v", b, err)
	}
	if m := k.mounts(t); len(m) != 2 {
		t.Errorf("published twice makes %d mounts, want the shared one and one bind: %+v", len(m), m)
	}
	_, err := k.node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: "volume-1", VolumePath: target})
	if err != nil {
		t.Error(err)
	}
	k.unpublish(t, target)
	if m := k.mounts(t); len(m) != 0 {
		t.Errorf("left mounted: %+v", m)
	}
}

// TestPrivStaleMounts: what a driver that died left mounted is detached by the next one.
func TestPrivStaleMounts(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("here"))
	dir := t.TempDir()
	stale := filepath.Join(dir, "pods", "old")
	if err := os.MkdirAll(stale, 0o750); err != nil {
		t.Fatal(err)
	}
	m, err := csi.Mount(t.Context(), csi.MountOptions{BucketOptions: csi.BucketOptions{Bucket: bucket, S3: s3At(o)}, Dir: stale})
	if err != nil {
		t.Fatal(err)
	}
	d, err := csi.New(csi.Options{Endpoint: "unix://" + dir + "/csi.sock", NodeID: "n", KubeletDir: dir, S3: s3At(o)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	<-d.Serving()
	<-m.Done()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already run") {
		t.Errorf("a driver runs once: %v", err)
	}
}
