package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
	"github.com/penstock/penstock/csi/internal/mounts"
	"github.com/penstock/penstock/csi/internal/s3store"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mount mounts a bucket, or skips the test with the reason why this machine can't. At the end it checks that nothing
// is left: no mount, no goroutine (TestMain), no handle, no inode.
func mount(t *testing.T, store fs.Store, opts fs.Options) (dir string, srv *Server) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	core := fs.New(store, opts)
	dir = t.TempDir()
	srv, err := Mount(core, dir, Options{Source: "memory"})
	if errors.Is(err, ErrNoDevice) || errors.Is(err, unix.EPERM) {
		t.Skipf("needs /dev/fuse and CAP_SYS_ADMIN: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(context.Background()); err != nil {
			t.Error(err)
		}
		if err := core.Close(); err != nil {
			t.Error(err)
		}
		table, err := mounts.Read()
		if err != nil {
			t.Fatal(err)
		}
		if left := table.Below(dir, FSType); len(left) != 0 {
			t.Errorf("left mounted: %+v", left)
		}
	})
	return dir, srv
}

func TestPrivTree(t *testing.T) {
	s := &memstore.Store{}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 200_000) // 3.2 MB: several requests
	want := map[string]string{
		"empty": "", "hello": "hello, world\n", "big": string(big), "dir/sub/a b": "blank", "dir/caf\xc3\xa9": "e",
		"dir/" + strings.Repeat("n", 255): "longest name",
	}
	for k, v := range want {
		s.Put(k, []byte(v))
	}
	s.Put("dir", []byte("shadowed"))
	s.Put("dir//lost", []byte("unreachable"))
	dir, srv := mount(t, s, fs.Options{})

	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d files under the mount, want %d", len(got), len(want))
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%q: got %d bytes, want %d", k, len(got[k]), len(v))
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bfree != st.Blocks || st.Blocks == 0 {
		t.Errorf("statfs: %+v, %v", st, err)
	}
	if kib := srv.ReadAhead(); kib != readAheadKiB {
		t.Logf("read-ahead is %d KiB: sysfs is not writable here", kib)
	}
}

func TestPrivListLong(t *testing.T) {
	s := &memstore.Store{}
	for i := range 1000 {
		s.Put(fmt.Sprintf("dir/f%04d", i), make([]byte, i))
	}
	dir, _ := mount(t, s, fs.Options{})
	out, err := exec.Command("ls", "-l", dir+"/dir").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 1001 || !strings.Contains(lines[1000], "999") || !strings.Contains(lines[1000], "f0999") {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if n := s.Count(memstore.Stat); n > 2 {
		t.Errorf("ls -l cost %d HEADs: attributes must come with the listing", n)
	}
}

func TestPrivReadOnlyAndErrors(t *testing.T) {
	s := &memstore.Store{}
	s.Put("file", []byte("data"))
	s.Put("gone", []byte("data"))
	s.Fail = func(_ context.Context, op memstore.Op, key string) error {
		if op == memstore.Read && key == "file" {
			return errors.New("connection refused")
		}
		return nil
	}
	dir, _ := mount(t, s, fs.Options{MetadataTTL: -1})
	for what, err := range map[string]error{
		"write":  os.WriteFile(dir+"/file", []byte("x"), 0o644),
		"create": os.WriteFile(dir+"/new", []byte("x"), 0o644),
		"mkdir":  os.Mkdir(dir+"/d", 0o755),
		"remove": os.Remove(dir + "/file"),
		"rename": os.Rename(dir+"/file", dir+"/file2"),
		"chmod":  os.Chmod(dir+"/file", 0o777),
		"link":   os.Symlink("x", dir+"/link"),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: got %v, want EROFS", what, err)
		}
	}
	if _, err := os.Stat(dir + "/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := os.ReadFile(dir + "/file"); !errors.Is(err, syscall.EIO) {
		t.Errorf("store down: got %v, want EIO", err)
	}
	f, err := os.Open(dir + "/gone")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.Put("gone", []byte("replaced"))
	if _, err := f.Read(make([]byte, 4)); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("replaced under an open file: got %v, want ESTALE", err)
	}
	// Opened by name, the new version shows, although the kernel still knows the old inode.
	if b, err := os.ReadFile(dir + "/gone"); err != nil || string(b) != "replaced" {
		t.Errorf("replaced: %q, %v", b, err)
	}
}

// TestPrivMissingIsRemembered: a name that is not there is asked for once within the TTL, and every time without one.
func TestPrivMissingIsRemembered(t *testing.T) {
	for ttl, want := range map[time.Duration]int{time.Hour: 1, -1: 3} {
		s := &memstore.Store{}
		dir, _ := mount(t, s, fs.Options{MetadataTTL: ttl})
		before := s.Count(memstore.Stat)
		for range 3 {
			if _, err := os.Stat(dir + "/missing"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("ttl %v: %v", ttl, err)
			}
		}
		if got := s.Count(memstore.Stat) - before; got != want {
			t.Errorf("ttl %v: %d HEADs, want %d", ttl, got, want)
		}
	}
}

// TestPrivNewVersionWithinTTL: the page cache of one version never answers for another, even when the kernel has not
// yet asked about the name again.
func TestPrivNewVersionWithinTTL(t *testing.T) {
	s := &memstore.Store{}
	s.Put("file", []byte("old"))
	dir, _ := mount(t, s, fs.Options{MetadataTTL: time.Hour})
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "old" {
		t.Fatalf("%q, %v", b, err)
	}
	s.Put("file", []byte("new version"))
	// Within the TTL the old version may go on being read, from the page cache; never a mix.
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestPrivParallelReaders(t *testing.T) {
	s := &memstore.Store{}
	data := bytes.Repeat([]byte("penstock"), 1<<17) // 1 MiB
	const files = 8
	for i := range files {
		s.Put(fmt.Sprintf("f%d", i), data)
	}
	dir, _ := mount(t, s, fs.Options{})
	var wg sync.WaitGroup
	for i := range 4 * files {
		wg.Go(func() {
			b, err := os.ReadFile(fmt.Sprintf("%s/f%d", dir, i%files))
			if err != nil || !bytes.Equal(b, data) {
				t.Errorf("reader %d: %d bytes, %v", i, len(b), err)
			}
		})
	}
	wg.Wait()
}

// TestPrivBusyUnmount: unmounting does not wait for a program that holds a file open, nor for a read that hangs.
func TestPrivBusyUnmount(t *testing.T) {
	s := &memstore.Store{}
	s.Put("file", []byte("data"))
	s.Put("hang", []byte("data"))
	hung := make(chan struct{})
	s.Fail = func(ctx context.Context, op memstore.Op, key string) error {
		if op == memstore.Read && key == "hang" {
			close(hung)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	dir, srv := mount(t, s, fs.Options{})
	f, err := os.Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(dir + "/hang")
		failed <- err
	}()
	<-hung
	if err := srv.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the hanging read must fail")
	}
	if _, err := io.ReadAll(f); err == nil {
		t.Error("a file of an aborted mount must fail")
	}
	if err := srv.Unmount(t.Context()); err != nil {
		t.Errorf("unmounting again: %v", err)
	}
}

// TestPrivKill: a program that is killed while the store does not answer is gone within the grace.
func TestPrivKill(t *testing.T) {
	s := &memstore.Store{}
	s.Put("hang", []byte("data"))
	hung := make(chan struct{})
	s.Fail = func(ctx context.Context, op memstore.Op, _ string) error {
		if op == memstore.Read {
			close(hung)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	dir, _ := mount(t, s, fs.Options{})
	cmd := exec.Command("cat", dir+"/hang")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-hung
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil { // hangs, and the test with it, if the interrupt is lost
		t.Error("cat must have been killed")
	}
}

func TestPrivUnmountedFromOutside(t *testing.T) {
	s := &memstore.Store{}
	dir, srv := mount(t, s, fs.Options{})
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	<-srv.Done()
}

func TestPrivBoundElsewhere(t *testing.T) {
	s := &memstore.Store{}
	s.Put("file", []byte("data"))
	dir, srv := mount(t, s, fs.Options{})
	base := t.TempDir()
	target, err := mounts.OpenTarget(base, base+"/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Bind(dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(base + "/copy/file"); err != nil || string(b) != "data" {
		t.Errorf("through the bind mount: %q, %v", b, err)
	}
	if err := srv.Unmount(t.Context()); err != nil { // must not wait for the copy
		t.Error(err)
	}
	if table, err := mounts.Read(); err != nil || len(table.Below(dir, FSType)) != 0 {
		t.Errorf("still mounted: %v, %v", table.Below(dir, FSType), err)
	}
	if _, err := os.ReadFile(base + "/copy/file"); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a copy of an aborted mount: got %v, want ENOTCONN", err)
	}
	if err := mounts.Remove(base, base+"/copy", func(mounts.Mount) error { return nil }); err != nil { // a dead mount is removed all the same
		t.Error(err)
	}
}

// TestPrivAborted: a mount whose connection was aborted from outside is dead, and still removed by Unmount.
func TestPrivAborted(t *testing.T) {
	s := &memstore.Store{}
	dir, srv := mount(t, s, fs.Options{})
	base := t.TempDir()
	target, err := mounts.OpenTarget(base, base+"/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Bind(dir); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(base+"/copy", unix.MNT_FORCE); err != nil {
		t.Fatal(err)
	}
	<-srv.Done()
	if err := srv.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPrivOriginDies: when S3 goes away, a read ends with EIO after the engine's last attempt, and does not hang.
func TestPrivOriginDies(t *testing.T) {
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := o.Put("bucket", "file", []byte("data")); err != nil {
		t.Fatal(err)
	}
	client, err := s3.New(t.Context(), s3.Options{
		Endpoint: o.URL(), Credentials: s3.StaticCredentials(testorigin.AccessKey, testorigin.SecretKey, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	engine, err := ranges.New(ranges.Options{Retry: ranges.RetryPolicy{Attempts: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	dir, _ := mount(t, s3store.New(client, engine, "bucket"), fs.Options{})
	f, err := os.Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 100)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
}

func TestObstacles(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		fsType string
		dead   *bool
		want   obstacle
	}{
		{"autofs", nil, below},
		{"tmpfs", nil, inTheWay},
		{"fuse.sshfs", nil, inTheWay},
		{"fuse.sshfs", &yes, inTheWay}, // not ours to take away
		{FSType, nil, unchecked},
		{FSType, &yes, replaced},
		{FSType, &no, inTheWay},
	} {
		if got := obstacleOf(c.fsType, c.dead); got != c.want {
			t.Errorf("%s, dead %v: got %d, want %d", c.fsType, c.dead, got, c.want)
		}
	}
}

// TestPrivMountOverAutofs: with x-systemd.automount the mount point is an autofs, which waits for us.
func TestPrivMountOverAutofs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	dir := t.TempDir()
	options := fmt.Sprintf("fd=%d,pgrp=%d,minproto=5,maxproto=5,direct", w.Fd(), unix.Getpgrp())
	if err := unix.Mount("systemd-1", dir, "autofs", 0, options); err != nil {
		t.Skipf("needs the kernel module autofs4: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }() // the test is over
	core := fs.New(&memstore.Store{}, fs.Options{})
	defer core.Close()
	srv, err := Mount(core, dir, Options{Source: "memory"})
	if errors.Is(err, ErrNoDevice) {
		t.Skipf("needs /dev/fuse: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMountRefusals(t *testing.T) {
	core := fs.New(&memstore.Store{}, fs.Options{})
	defer core.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		"/does/not/exist": "no such file or directory",
		file:              "not a directory",
		"/proc":           "already a mount point (proc",
	} {
		srv, err := Mount(core, dir, Options{})
		if err == nil {
			_ = srv.Unmount(context.Background())
			t.Errorf("mounted on %q", dir)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", dir, err, want)
		}
	}
}
