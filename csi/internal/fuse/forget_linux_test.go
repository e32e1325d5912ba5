package fuse

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
)

// fakeKernel records what it is asked to forget.
type fakeKernel struct {
	prune   gofuse.Status
	nodes   []uint64
	entries []string
}

// PruneNotify implements kernel.
func (k *fakeKernel) PruneNotify(nodes []uint64) gofuse.Status {
	if k.prune == gofuse.OK {
		k.nodes = append(k.nodes, nodes...)
	}
	return k.prune
}

// EntryNotify implements kernel.
func (k *fakeKernel) EntryNotify(parent uint64, name string) gofuse.Status {
	k.entries = append(k.entries, fmt.Sprint(parent, "/", name))
	return gofuse.OK
}

// TestForgetterKnowsOldKernels: where the kernel can't drop what nobody uses, names of files are given up, and no
// directory, since a container may have mounted something on it.
func TestForgetterKnowsOldKernels(t *testing.T) {
	s := &memstore.Store{}
	s.Put("dir/file", []byte("x"))
	s.Put("other", []byte("x"))
	core := fs.New(s, fs.Options{})
	defer core.Close()
	for _, name := range []string{"dir", "other"} {
		if _, err := core.Lookup(t.Context(), fs.Root, name); err != nil {
			t.Fatal(err)
		}
	}
	newer, older := &fakeKernel{}, &fakeKernel{prune: gofuse.ENOSYS}
	f := forgetter{core: core, kernel: newer}
	f.forget(2)
	if len(newer.nodes) != 2 || len(newer.entries) != 0 {
		t.Errorf("a new kernel was asked to forget %v and %v", newer.nodes, newer.entries)
	}
	f = forgetter{core: core, kernel: older}
	f.forget(2)
	if len(older.nodes) != 0 || len(older.entries) != 1 || older.entries[0] != "1/other" {
		t.Errorf("an old kernel was asked to forget %v and %v", older.nodes, older.entries)
	}
}

// TestPrivInodesAreBounded: a walk over more names than the limits allow leaves about as many inodes as they allow, in both
// ways to ask the kernel; files that are open stay, and all can be read afterwards.
func TestPrivInodesAreBounded(t *testing.T) {
	const files = 3000
	s := &memstore.Store{}
	for i := range files {
		s.Put(fmt.Sprintf("d%d/f%04d", i%4, i), []byte("x"))
	}
	walk := func(dir string) {
		t.Helper()
		n := 0
		err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			n++
			_, err = os.Lstat(path)
			return err
		})
		if err != nil || n != files {
			t.Errorf("%d files, %v", n, err)
		}
	}
	for _, byEntry := range []bool{false, true} {
		if os.Geteuid() != 0 {
			t.Skip("needs root: mount(2)")
		}
		core := fs.New(s, fs.Options{Limits: fs.LimitInodes(256<<20, 512)})
		dir := t.TempDir()
		srv, err := mountWith(core, dir, Options{Source: "memory"}, byEntry)
		if errors.Is(err, ErrNoDevice) {
			t.Skipf("needs /dev/fuse: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		open, err := os.Open(dir + "/d0/f0000")
		if err != nil {
			t.Fatal(err)
		}
		walk(dir)
		for deadline := time.Now().Add(10 * time.Second); core.Usage().Inodes > 600; {
			if time.Now().After(deadline) {
				t.Errorf("by entry %v: %d inodes are known, want about 512", byEntry, core.Usage().Inodes)
				break
			}
			time.Sleep(5 * time.Millisecond) // real time: polls the kernel
		}
		if n, err := open.ReadAt(make([]byte, 1), 0); n != 1 || err != nil {
			t.Errorf("by entry %v: a file that was open: %v", byEntry, err)
		}
		if err := open.Close(); err != nil {
			t.Error(err)
		}
		walk(dir)
		if b, err := os.ReadFile(dir + "/d1/f0001"); err != nil || string(b) != "x" {
			t.Errorf("by entry %v: %q, %v", byEntry, b, err)
		}
		if err := srv.Unmount(context.Background()); err != nil {
			t.Error(err)
		}
		if err := core.Close(); err != nil {
			t.Error(err)
		}
	}
}
