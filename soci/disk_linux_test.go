package soci_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/testorigin"
)

// TestPrivDiskFull pulls into a file system too small for the image.
func TestPrivDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("needs to mount a tmpfs: ", err)
	}
	defer unix.Unmount(mnt, 0)
	if err := os.Mkdir(filepath.Join(mnt, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	for _, dir := range []string{filepath.Join(mnt, "root"), filepath.Join(mnt, "other")} {
		_, err := puller(t, nil).Pull(t.Context(), ref, dir)
		if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
			t.Error(err)
		}
	}
	names, _ := os.ReadDir(mnt)
	if len(names) != 1 || names[0].Name() != "other" {
		t.Errorf("left: %v", names)
	}

	// The target may be a mount point itself.
	root := filepath.Join(mnt, "other")
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, 0)
	if _, err := puller(t, nil).Pull(t.Context(), ref, root); err != nil {
		t.Fatal(err)
	}
	checkMedium(t, root)
	if names, _ := os.ReadDir(root); len(names) != 1 {
		t.Errorf("in the mount: %v", names)
	}
}

// TestPrivNoInodes pulls into a file system with too few inodes, while another
// pull of the same Puller continues on another file system.
func TestPrivNoInodes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=64m,nr_inodes=100"); err != nil {
		t.Skip("needs to mount a tmpfs: ", err)
	}
	defer unix.Unmount(mnt, 0)
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	p := puller(t, nil)
	other, _ := target(t)
	good := make(chan error, 1)
	go func() {
		_, err := p.Pull(t.Context(), ref, other)
		good <- err
	}()
	if _, err := p.Pull(t.Context(), ref, filepath.Join(mnt, "root")); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if names, _ := os.ReadDir(mnt); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	if err := <-good; err != nil {
		t.Fatal(err)
	}
	checkMedium(t, other)
}
