package untar

import (
	"archive/tar"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAttributeWithoutSpace checks that an attribute that the file system
// cannot hold is not reported as a full disk.
func TestAttributeWithoutSpace(t *testing.T) {
	for name, c := range map[string]struct {
		blocks, inodes, free uint64
		want                 error
	}{
		"ext4 with much room":          {1 << 20, 1 << 20, 1 << 19, ErrAttribute},
		"a file system without inodes": {1 << 20, 0, 0, ErrAttribute},
		"full":                         {0, 1 << 20, 1 << 19, unix.ENOSPC},
		"nearly full":                  {100, 1 << 20, 1 << 19, unix.ENOSPC},
		"no inodes left":               {1 << 20, 1 << 20, 0, unix.ENOSPC},
	} {
		err := attrNoSpace("user.x", 5000, c.blocks, c.inodes, c.free)
		if !errors.Is(err, c.want) || errors.Is(err, unix.ENOSPC) != (c.want == unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ext4 mounts a small ext4 file system.
func ext4(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 32<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-b", "4096", disk).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v %s", err, out)
	}
	at := filepath.Join(dir, "at")
	mkdir(t, at)
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
		t.Skipf("needs to mount ext4 from a loop device: %v %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

// TestPrivLargeAttribute extracts attributes that are too large for ext4, or
// for Linux.
func TestPrivLargeAttribute(t *testing.T) {
	needRoot(t, "mounts ext4")
	x := newTB(t)
	x.root = ext4(t)
	for _, c := range []struct {
		n    int
		as   error
		want string
	}{
		{3000, nil, ""},
		{5000, ErrAttribute, `attribute too large for this file system: "user.large" of 5000 bytes, and the disk is not full: ext4`},
		{70_000, ErrFormat, `attribute "user.large" of 70000 bytes: Linux allows 65536`},
	} {
		for _, kind := range []byte{tar.TypeReg, tar.TypeDir} {
			_, err := x.extract(ent{name: "a/b", kind: kind, pax: map[string]string{"SCHILY.xattr.user.large": strings.Repeat("v", c.n)}})
			if !errors.Is(err, c.as) || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"a/b"`) || errors.Is(err, unix.ENOSPC)) {
				t.Errorf("%d bytes, type %c: %v", c.n, kind, err)
			}
		}
	}
}

// TestTrustedAttributes checks that trusted.* attributes are left out, as in
// containerd.
func TestTrustedAttributes(t *testing.T) {
	x := newTB(t)
	l := x.must(ent{name: "f", pax: map[string]string{"SCHILY.xattr.trusted.md5": "x", "SCHILY.xattr.trusted.overlay.opaque": "y"}})
	for _, name := range []string{"trusted.md5", "trusted.overlay.opaque"} {
		if n, err := unix.Getxattr(filepath.Join(l.Dir, "f"), name, make([]byte, 10)); err == nil {
			t.Errorf("%s was set (%d bytes)", name, n)
		}
	}
	if notes := Notes(l); len(notes) != 2 || notes[1].String() != "attribute refused (trusted.* is the system's): f: trusted.md5" {
		t.Errorf("notes %v", notes)
	}
}

// TestHardLinkIsItsTarget checks that mode, owner and times in the entry of a
// hard link are not applied, because the file has an entry of its own. (GNU tar
// does the same. containerd and Docker do apply them to the file, but no
// builder writes an entry in which they differ.)
func TestHardLinkIsItsTarget(t *testing.T) {
	x := newTB(t)
	l := x.must(
		ent{name: "forward", kind: tar.TypeLink, link: "f", mode: 0o777},
		ent{name: "f", body: "x", mode: 0o640},
		ent{name: "d/back", kind: tar.TypeLink, link: "f", mode: 0o4755},
	)
	for _, name := range []string{"f", "forward", "d/back"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(l.Dir, name), &st); err != nil || st.Mode != unix.S_IFREG|0o640 || st.Nlink != 3 {
			t.Errorf("%s: mode %o, %d links, %v", name, st.Mode, st.Nlink, err)
		}
	}
}
