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
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/csi/internal/mounts"
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
// credentials that do not work changes nothing. The mount then is for who has the new ones, and no longer for the old.
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
	// The mount has moved to the new credentials: who comes with the old ones, which have expired, gets nothing of it, and
	// who comes with the new ones shares it.
	target = k.pod(t, "with-old-keys")
	if err := publish(first); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "nodePublishSecretRef") {
		t.Errorf("another pod with the expired credentials: %v", err)
	}
	target = k.pod(t, "with-new-keys")
	if err := publish(second); err != nil {
		t.Error(err)
	}
	if m := k.mounts(t); len(m) != 3 {
		t.Errorf("a pod with the new credentials must share the mount: %+v", m)
	}
	k.unpublish(t, target)
	target = k.pod(t, "pod")
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

// TestPrivLivingMountsStay: a start of the driver leaves alone what has a server, whoever mounted it and wherever; and an
// unpublish takes away nothing but the driver's own mounts.
func TestPrivLivingMountsStay(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("here"))
	dir := t.TempDir()
	var points []string
	for _, p := range []string{"pods/by-hand", "plugins/" + csi.DefaultDriverName + "/mounts/by-hand"} {
		point := filepath.Join(dir, p)
		if err := os.MkdirAll(point, 0o750); err != nil {
			t.Fatal(err)
		}
		m, err := csi.Mount(t.Context(), csi.MountOptions{BucketOptions: csi.BucketOptions{Bucket: bucket, S3: s3At(o)}, Dir: point})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Unmount(context.Background()); err != nil {
				t.Error(err)
			}
		})
		points = append(points, point)
	}
	tmpfs := filepath.Join(dir, "pods", "token")
	if err := os.MkdirAll(tmpfs, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", tmpfs, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(tmpfs, unix.MNT_DETACH) }) // nothing to lose
	d, err := csi.New(csi.Options{Endpoint: "unix://" + dir + "/csi.sock", NodeID: "n", KubeletDir: dir, S3: s3At(o)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	select {
	case <-d.Serving():
	case err := <-ended:
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+dir+"/csi.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	node := spec.NewNodeClient(conn)
	for target, want := range map[string]codes.Code{
		tmpfs:                            codes.FailedPrecondition,
		points[0]:                        codes.FailedPrecondition,
		points[1]:                        codes.InvalidArgument, // the driver's own state
		filepath.Dir(points[1]):          codes.InvalidArgument,
		filepath.Join(dir, "plugins"):    codes.InvalidArgument,
		filepath.Join(dir, "pods/gone"):  codes.OK,
		filepath.Join(dir, "no/such/it"): codes.OK,
	} {
		_, err := node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: target})
		if status.Code(err) != want {
			t.Errorf("unpublish of %s: got %v, want %v", target, err, want)
		}
		req := publishRequest(target)
		if want == codes.FailedPrecondition {
			if _, err := node.NodePublishVolume(t.Context(), req); status.Code(err) != codes.AlreadyExists {
				t.Errorf("publish over %s: %v", target, err)
			}
		}
	}
	for _, point := range points {
		if b, err := os.ReadFile(point + "/file"); err != nil || string(b) != "here" {
			t.Errorf("%s: %q, %v", point, b, err)
		}
	}
	if table, err := mounts.Read(); err != nil {
		t.Error(err)
	} else if _, mounted := table.At(tmpfs); !mounted {
		t.Error("the tmpfs was unmounted")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already run") {
		t.Errorf("a driver runs once: %v", err)
	}
}

// TestPrivStatsAndHealth: what is told of a volume is what the node has, not what was once published.
func TestPrivStatsAndHealth(t *testing.T) {
	needsMount(t)
	o := startOrigin(t)
	put(t, o, "file", []byte("here"))
	k := startDriver(t, csi.Options{S3: s3At(o)})
	target := k.pod(t, "pod")
	stats := func() codes.Code {
		_, err := k.node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: "volume-1", VolumePath: target})
		return status.Code(err)
	}
	health := func(path string) string {
		got, err := k.node.NodeGetVolumeHealth(t.Context(), &spec.NodeGetVolumeHealthRequest{VolumeId: "volume-1", VolumePublishPath: path})
		if err != nil {
			return status.Code(err).String()
		}
		if len(got.GetVolumeHealth().GetHealthStatuses()) == 0 {
			return "well"
		}
		return got.GetVolumeHealth().GetHealthStatuses()[0].GetReason()
	}
	expect := func(when string, code codes.Code, reason string) {
		t.Helper()
		if c := stats(); c != code {
			t.Errorf("%s: stats are %v, want %v", when, c, code)
		}
		for _, path := range []string{"", target} {
			if h := health(path); h != reason {
				t.Errorf("%s: health of %q is %s, want %s", when, path, h, reason)
			}
		}
	}
	expect("before", codes.NotFound, "NotFound")
	k.publish(t, publishRequest(target))
	expect("published", codes.OK, "well")
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	expect("covered", codes.Internal, "Covered")
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatal(err)
	}
	expect("uncovered", codes.OK, "well")
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	expect("unmounted", codes.NotFound, "NotFound")
	k.publish(t, publishRequest(target))
	expect("published again", codes.OK, "well")
	// MNT_FORCE aborts the connection, as the death of a server does; the mount stays, since it is in use.
	f, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, m := range k.mounts(t) {
		if m.Point != target {
			_ = unix.Unmount(m.Point, unix.MNT_FORCE) // whether it also unmounts is no matter
		}
	}
	waitFor(t, "the end of the connection", func() bool { return health(target) == "ConnectionEnded" })
	expect("aborted", codes.Internal, "ConnectionEnded")
	k.unpublish(t, target)
	expect("unpublished", codes.NotFound, "NotFound")
}

// waitFor polls until a real thing outside this process has come.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond) // real time: polls the kernel
	}
}
