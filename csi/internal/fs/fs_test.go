package fs_test

import (
	"bytes"
	"context"
	"fmt"
	iofs "io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
	"github.com/penstock/penstock/csi/internal/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newFS returns a file system over a bucket with the given keys, each holding its own name as data.
func newFS(t *testing.T, opts fs.Options, keys ...string) (*fs.FS, *memstore.Store) {
	t.Helper()
	s := &memstore.Store{}
	for _, k := range keys {
		s.Put(k, []byte(k))
	}
	f := fs.New(s, opts)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, s
}

func wantErrno(t *testing.T, err error, want syscall.Errno) {
	t.Helper()
	if got := fs.Errno(err); got != want {
		t.Errorf("got %v (%v), want %v", err, got, want)
	}
}

// lookup walks a path from the root and returns the last inode. It gives back the lookups of the directories.
func lookup(t *testing.T, f *fs.FS, path string) fs.Attr {
	t.Helper()
	a := fs.Attr{Ino: fs.Root}
	for name := range strings.SplitSeq(path, "/") {
		parent := a
		var err error
		if a, err = f.Lookup(t.Context(), parent.Ino, name); err != nil {
			t.Fatalf("lookup %q of %q: %v", name, path, err)
		}
		f.Forget(parent.Ino, 1)
	}
	return a
}

func read(t *testing.T, f *fs.FS, h uint64, n int, off int64) string {
	t.Helper()
	p := make([]byte, n)
	got, err := f.Read(t.Context(), h, p, off)
	if err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	return string(p[:got])
}

func TestLookupAndRead(t *testing.T) {
	f, _ := newFS(t, fs.Options{Prefix: "p/", UID: 7, GID: 8}, "p/a/b/file", "p/a/b", "p/x", "p/empty", "elsewhere")
	a := lookup(t, f, "a/b/file")
	if a.Kind != tree.File || a.Mode != syscall.S_IFREG|0o444 || a.Size != 10 || a.UID != 7 || a.GID != 8 {
		t.Errorf("attributes of the file: %+v", a)
	}
	if d := lookup(t, f, "a/b"); d.Kind != tree.Dir || d.Mode != syscall.S_IFDIR|0o555 {
		t.Errorf("a directory must shadow the file of its name: %+v", d)
	}
	h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		n    int
		off  int64
		want string
	}{{100, 0, "p/a/b/file"}, {3, 2, "a/b"}, {5, 8, "le"}, {5, 10, ""}, {5, 1 << 40, ""}, {0, 0, ""}} {
		if got := read(t, f, h, c.n, c.off); got != c.want {
			t.Errorf("read %d at %d = %q, want %q", c.n, c.off, got, c.want)
		}
	}
	_, err = f.Read(t.Context(), h, make([]byte, 1), -1)
	wantErrno(t, err, syscall.EINVAL)
	f.Release(h)
	_, err = f.Read(t.Context(), h, make([]byte, 1), 0)
	wantErrno(t, err, syscall.EBADF)
}

func TestErrors(t *testing.T) {
	f, s := newFS(t, fs.Options{}, "file", "dir/x", "denied", "broken")
	_, err := f.Lookup(t.Context(), fs.Root, "missing")
	wantErrno(t, err, syscall.ENOENT)
	_, err = f.Lookup(t.Context(), fs.Root, "..")
	wantErrno(t, err, syscall.ENOENT)
	_, err = f.Lookup(t.Context(), fs.Root, strings.Repeat("n", 256))
	wantErrno(t, err, syscall.ENAMETOOLONG)
	_, err = f.Lookup(t.Context(), 999, "file")
	wantErrno(t, err, syscall.ESTALE)

	file, dir := lookup(t, f, "file"), lookup(t, f, "dir")
	_, err = f.Lookup(t.Context(), file.Ino, "x")
	wantErrno(t, err, syscall.ENOTDIR)
	_, err = f.Open(t.Context(), dir.Ino, fs.OpenRead)
	wantErrno(t, err, syscall.EISDIR)
	_, err = f.Open(t.Context(), file.Ino, fs.OpenRead|fs.OpenWrite)
	wantErrno(t, err, syscall.EROFS)
	_, err = f.OpenDir(file.Ino)
	wantErrno(t, err, syscall.ENOTDIR)
	wantErrno(t, f.ReadDir(t.Context(), 999, 0, fs.Names, nil), syscall.EBADF)

	s.Fail = func(_ context.Context, op memstore.Op, key string) error {
		switch {
		case op == memstore.Stat && key == "denied":
			return fmt.Errorf("HEAD: 403: %w", iofs.ErrPermission)
		case op == memstore.Stat && key == "broken":
			return fmt.Errorf("dial: %w", syscall.ECONNREFUSED) // an errno, but none of a file's
		}
		return nil
	}
	_, err = f.Lookup(t.Context(), fs.Root, "denied")
	wantErrno(t, err, syscall.EACCES)
	_, err = f.Lookup(t.Context(), fs.Root, "broken")
	wantErrno(t, err, syscall.EIO)
	if want := `lookup "broken": dial: connection refused`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	wantErrno(t, context.DeadlineExceeded, syscall.EIO)
}

// TestVersions: an inode is one version. A replaced object gets another inode, its old handle is ESTALE, and opening
// the old inode is ESTALE so that the kernel looks up again.
func TestVersions(t *testing.T) {
	f, s := newFS(t, fs.Options{MetadataTTL: -1}, "file")
	a := lookup(t, f, "file")
	h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	s.Put("file", []byte("another version"))
	_, err = f.Read(t.Context(), h, make([]byte, 4), 0)
	wantErrno(t, err, syscall.ESTALE)
	_, err = f.Open(t.Context(), a.Ino, fs.OpenRead)
	wantErrno(t, err, syscall.ESTALE)
	b := lookup(t, f, "file")
	if b.Ino == a.Ino || b.Size != 15 {
		t.Errorf("new version %+v must have a new inode, not that of %+v", b, a)
	}
	if got, err := f.GetAttr(a.Ino); err != nil || got.Size != 4 {
		t.Errorf("the old inode must stay as it was: %+v, %v", got, err)
	}
	_, err = f.Open(t.Context(), a.Ino, fs.OpenRead)
	wantErrno(t, err, syscall.ESTALE)

	s.Delete("file")
	_, err = f.Open(t.Context(), b.Ino, fs.OpenRead)
	wantErrno(t, err, syscall.ESTALE)
	_, err = f.Read(t.Context(), h, make([]byte, 4), 0)
	wantErrno(t, err, syscall.ESTALE)
	f.Release(h)
	f.Forget(a.Ino, 1)
	f.Forget(b.Ino, 1)
	if got := f.Usage(); got != (fs.Usage{Inodes: 1}) {
		t.Errorf("after the last release and forget: %+v", got)
	}
}

func TestMetadataTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memstore.Store{}
		s.Put("file", []byte("one"))
		f := fs.New(s, fs.Options{MetadataTTL: time.Minute})
		open := func(a fs.Attr) error {
			h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
			f.Release(h)
			return err
		}
		a := lookup(t, f, "file")
		s.Put("file", []byte("three"))
		time.Sleep(time.Minute) // in fake time: still within the TTL, which includes its end
		if b := lookup(t, f, "file"); b.Ino != a.Ino || open(a) != nil || s.Count(memstore.Stat) != 1 {
			t.Errorf("within the TTL nobody may be asked: %d HEADs", s.Count(memstore.Stat))
		}
		time.Sleep(time.Nanosecond)
		wantErrno(t, open(a), syscall.ESTALE)
		if b := lookup(t, f, "file"); b.Ino == a.Ino || b.Size != 5 {
			t.Errorf("after the TTL the new version must show, got %+v", b)
		}
		if f.MetadataTTL() != time.Minute {
			t.Errorf("MetadataTTL() = %v", f.MetadataTTL())
		}
	})
}

// TestOpenIsConfirmed: with the default options a name is trusted for a second, but an open is not: it finds out that the
// object was replaced, and the lookup that the kernel then makes gets the new version.
func TestOpenIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memstore.Store{}
		s.Put("file", []byte("one"))
		f := fs.New(s, fs.Options{})
		a := lookup(t, f, "file")
		h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
		if err != nil || s.Count(memstore.Stat) != 1 {
			t.Errorf("right after the lookup: %v, %d HEADs", err, s.Count(memstore.Stat))
		}
		f.Release(h)
		s.Put("file", []byte("three"))
		time.Sleep(500 * time.Millisecond) // in fake time
		if b := lookup(t, f, "file"); b.Ino != a.Ino {
			t.Error("the name must be trusted for a second")
		}
		_, err = f.Open(t.Context(), a.Ino, fs.OpenRead)
		wantErrno(t, err, syscall.ESTALE)
		if b := lookup(t, f, "file"); b.Ino == a.Ino || b.Size != 5 {
			t.Errorf("after the failed open: %+v", b)
		}
	})
}

// TestCancel: a lookup, a read and a directory read that hang end with EINTR when their caller is interrupted, and
// what they were on goes on working.
func TestCancel(t *testing.T) {
	f, s := newFS(t, fs.Options{MetadataTTL: -1}, "dir/a", "dir/b", "file")
	file, dir := lookup(t, f, "file"), lookup(t, f, "dir")
	h, err := f.Open(t.Context(), file.Ino, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.OpenDir(dir.Ino)
	if err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	s.Fail = func(ctx context.Context, _ memstore.Op, _ string) error {
		select {
		case <-hang:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Lookup(ctx, fs.Root, "file")
	wantErrno(t, err, syscall.EINTR)
	_, err = f.Read(ctx, h, make([]byte, 1), 0)
	wantErrno(t, err, syscall.EINTR)
	skipDots := uint64(2)
	err = f.ReadDir(ctx, d, skipDots, fs.Names, func(*fs.DirEntry) bool { return true })
	wantErrno(t, err, syscall.EINTR)
	close(hang)
	if got := names(t, f, d, skipDots, 100); fmt.Sprint(got) != "[a b]" {
		t.Errorf("after the interrupt: %v", got)
	}
	if got := read(t, f, h, 9, 0); got != "file" {
		t.Errorf("after the interrupt: %q", got)
	}
}

func TestClosed(t *testing.T) {
	f, _ := newFS(t, fs.Options{}, "file", "dir/a")
	a := lookup(t, f, "file")
	h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.OpenDir(fs.Root)
	if err != nil {
		t.Fatal(err)
	}
	names(t, f, d, 0, 1) // leaves a lister behind
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = f.Read(t.Context(), h, make([]byte, 1), 0)
	wantErrno(t, err, syscall.EBADF)
	_, err = f.Open(t.Context(), a.Ino, fs.OpenRead)
	wantErrno(t, err, syscall.ENODEV)
	_, err = f.OpenDir(fs.Root)
	wantErrno(t, err, syscall.ENODEV)
	if f.Usage().Handles != 0 {
		t.Errorf("after Close: %+v", f.Usage())
	}
}

func TestShortObjectIsAnError(t *testing.T) {
	f := fs.New(shortStore{&memstore.Store{}}, fs.Options{})
	defer f.Close()
	a, err := f.Lookup(t.Context(), fs.Root, "file")
	if err != nil {
		t.Fatal(err)
	}
	h, err := f.Open(t.Context(), a.Ino, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Read(t.Context(), h, make([]byte, 8), 0)
	wantErrno(t, err, syscall.EIO)
}

// shortStore claims that "file" has 8 bytes, and its reader has 3.
type shortStore struct{ *memstore.Store }

func (shortStore) Stat(context.Context, string) (fs.Object, error) {
	return fs.Object{Key: "file", Size: 8, ETag: "e"}, nil
}

func (shortStore) Open(context.Context, fs.Object) (fs.Reader, error) {
	return shortReader{bytes.NewReader([]byte("abc"))}, nil
}

type shortReader struct{ *bytes.Reader }

func (r shortReader) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return r.Reader.ReadAt(p, off)
}
func (shortReader) Close() error { return nil }
