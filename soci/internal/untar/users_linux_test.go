package untar

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// childVar is the environment variable with the directory of a test that runs
// as another user.
const childVar = "PENSTOCK_UNTAR_CHILD"

// asOther runs one test of this binary in a process with other rights, in a
// directory that uid owns.
func asOther(t *testing.T, uid int, attr *syscall.SysProcAttr) {
	t.Helper()
	// Not below t.TempDir, which only root can enter.
	dir, err := os.MkdirTemp("", "penstock-untar-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(dir, "test")
	copyTo(t, bin)
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, work} {
		if err := os.Chown(p, uid, uid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVar+"="+work, "TMPDIR="+work)
	cmd.Dir = work
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip(string(out))
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func copyTo(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

func owned(uid, gid int) func(*tar.Header) {
	return func(h *tar.Header) { h.Uid, h.Gid = uid, gid }
}

// capNetRaw is a capability set of version 2: cap_net_raw, effective.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// rootOnlyEntries returns entries with metadata that only root can set, and
// some others.
func rootOnlyEntries() []ent {
	return []ent{
		{name: "d", kind: tar.TypeDir, mode: 0o2751, edit: owned(0, 5)},
		{name: "d/plain", body: "x", mode: 0o444, edit: owned(0, 0), pax: map[string]string{"SCHILY.xattr.user.note": "hello"}},
		{name: "d/suid", body: "x", mode: 0o4755, edit: owned(12, 34)},
		{name: "d/far", body: "x", edit: owned(3_000_000, 3_000_000)},
		{name: "d/caps", body: "x", edit: owned(0, 0), pax: map[string]string{"SCHILY.xattr.security.capability": capNetRaw}},
		{name: "d/locked", kind: tar.TypeDir, mode: 0o001, edit: owned(0, 0)},
		{name: "d/locked/in", body: "x", edit: owned(0, 0)},
		{name: "null", kind: tar.TypeChar, mode: 0o666, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }},
		{name: "pipe", kind: tar.TypeFifo, edit: owned(0, 0)},
		{name: "link", kind: tar.TypeSymlink, link: "d", edit: owned(12, 0)},
		hard("d/hard", "d/suid"),
	}
}

// upperEntries returns a layer over rootOnlyEntries.
func upperEntries() []ent {
	return []ent{
		file("d/.wh.plain", ""),
		dir("d2"),
		file("d2/.wh..wh..opq", ""),
		file("d2/new", "2"),
		hard("far2", "d/far"), file("d/locked/more", "2"),
	}
}

// TestPrivAsUser checks that a normal user gets a tree with all metadata that
// the user may set, and notes about the rest. With KeepOwners the owners are
// stored.
func TestPrivAsUser(t *testing.T) {
	if os.Getenv(childVar) == "" {
		needRoot(t, "becomes another user")
		asOther(t, 65534, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
		return
	}
	if os.Geteuid() == 0 {
		t.Fatal("still root")
	}
	for _, keep := range []bool{false, true} {
		x := newTB(t)
		l, err := Extract(t.Context(), &tartest.Blocks{Data: archive(t, rootOnlyEntries()...), Size: 5000}, x.root, Options{Pool: x.pool, Meter: newMeter(DefaultLimits()), KeepOwners: keep})
		if err != nil {
			t.Fatal(err)
		}
		checkModes(t, l.Dir, map[string]uint32{
			"d": unix.S_IFDIR | 0o751, "d/plain": unix.S_IFREG | 0o444, "d/suid": unix.S_IFREG | 0o755,
			"d/locked": unix.S_IFDIR | 0o001, "pipe": unix.S_IFIFO | 0o644, "link": unix.S_IFLNK | 0o777,
		})
		if _, err := os.Lstat(filepath.Join(l.Dir, "null")); err == nil {
			t.Error("a device was made")
		}
		checkNotes(t, l, "attribute of security.* not set (operation not permitted): d/caps: security.capability", "device node left out (needs root): null",
			"owner not set", "setuid or setgid bit not set")
		for name, want := range map[string]string{"d/suid": "12:34:04755", "d": "0:5:02751", "d/plain": "0:0:0444"} {
			if !keep {
				want = ""
			}
			if got := attribute(t, filepath.Join(l.Dir, name), overrideAttr); got != want {
				t.Errorf("%s is noted as %q, want %q", name, got, want)
			}
		}
		if got := attribute(t, filepath.Join(l.Dir, "d/plain"), "user.note"); got != "hello" {
			t.Errorf("user.note is %q", got)
		}
	}
	x := newTB(t)
	base, top := x.must(rootOnlyEntries()...), x.must(upperEntries()...)
	if err := top.Overlay(t.Context(), UserXattr, []*Layer{base}); err != nil {
		t.Fatal(err)
	}
	if got := attribute(t, filepath.Join(top.Dir, "d2"), "user.overlay.opaque"); got != "y" {
		t.Errorf("the opaque mark is %q", got)
	}
	base, top = x.must(rootOnlyEntries()...), x.must(upperEntries()...)
	if err := Merge(t.Context(), base.Dir, top); err != nil {
		t.Fatal(err)
	}
	checkModes(t, base.Dir, map[string]uint32{"d/far": unix.S_IFREG | 0o644, "far2": unix.S_IFREG | 0o644, "d2/new": unix.S_IFREG | 0o644, "d/plain": 0})
}

// TestPrivInUserNamespace checks that root of a user namespace sets the mapped
// owners, and that overlayfs shows layers with marks of the user form, also
// after OpenLayer.
func TestPrivInUserNamespace(t *testing.T) {
	const first, count = 100_000, 65_536
	if os.Getenv(childVar) == "" {
		needRoot(t, "maps a range of ids")
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
		asOther(t, first, &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
			Credential: &syscall.Credential{},
		})
		return
	}
	x := newTB(t)
	base := x.must(rootOnlyEntries()...)
	if err := base.Overlay(t.Context(), UserXattr, nil); err != nil {
		t.Fatal(err)
	}
	middle := x.must(dir("d2"), file("d2/old", "1"))
	if err := middle.Overlay(t.Context(), UserXattr, reopen(t, []*Layer{base}, UserXattr)); err != nil {
		t.Fatal(err)
	}
	top := x.must(upperEntries()...)
	if err := top.Overlay(t.Context(), UserXattr, reopen(t, []*Layer{middle, base}, UserXattr)); err != nil {
		t.Fatal(err)
	}
	checkNotes(t, base, "device node left out (not permitted here): null", "owner not set (id not mapped in this user namespace): d/far")
	checkNotes(t, top)
	// The top layer, opened from its directory alone, hides the same files.
	last := x.must(hard("h", "d2/old"))
	if err := last.Overlay(t.Context(), UserXattr, reopen(t, []*Layer{top, middle, base}, UserXattr)); err == nil {
		t.Error("a hard link to a file that an opaque directory hides was created")
	}
	mnt := mount(t, []string{top.Dir, middle.Dir, base.Dir}, ",userxattr")
	checkModes(t, mnt, map[string]uint32{
		"d": unix.S_IFDIR | 0o2751, "d/suid": unix.S_IFREG | 0o4755, "d/plain": 0, "d2/old": 0, "d2/new": unix.S_IFREG | 0o644,
		"far2": unix.S_IFREG | 0o644, "d/locked": unix.S_IFDIR | 0o001, "d/locked/more": unix.S_IFREG | 0o644, "d/locked/in": unix.S_IFREG | 0o644,
	})
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(mnt, "d/suid"), &st); err != nil || st.Uid != 12 || st.Gid != 34 || st.Nlink != 2 {
		t.Errorf("d/suid: %d:%d, %d links, %v", st.Uid, st.Gid, st.Nlink, err)
	}
	if got := attribute(t, filepath.Join(base.Dir, "d/caps"), "security.capability"); got != capNetRaw {
		t.Errorf("the capability is %q", got)
	}
}

// checkModes compares types and modes. A mode of 0 means that the file must not
// exist.
func checkModes(t *testing.T, root string, want map[string]uint32) {
	t.Helper()
	for name, mode := range want {
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(root, name), &st)
		if mode == 0 && err == unix.ENOENT {
			continue
		}
		if err != nil || st.Mode != mode {
			t.Errorf("%s: %o, %v, want %o", name, st.Mode, err, mode)
		}
	}
}

// checkNotes expects one note for each prefix, and no others.
func checkNotes(t *testing.T, l *Layer, want ...string) {
	t.Helper()
	got := Notes(l)
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.HasPrefix(got[i].String(), want[i])
	}
	if !ok {
		t.Errorf("notes %v, want %q", got, want)
	}
}

func attribute(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil && !slices.Contains([]error{unix.ENODATA, unix.ENOTSUP}, err) {
		t.Fatal(fmt.Errorf("%s of %s: %w", name, path, err))
	}
	return string(buf[:max(n, 0)])
}
