package untar

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stacks are images, as lists of layers, and the expected flattened trees.
var stacks = []struct {
	name   string
	layers [][]ent
	want   []string
}{
	{name: "files replace files", layers: [][]ent{
		{file("a", "1"), file("d/b", "1"), file("d/keep", "1")},
		{file("a", "2"), file("d/b", "2"), file("new/x", "2")},
	}, want: []string{"a - 2", "d/", "d/b - 2", "d/keep - 1", "new/", "new/x - 2"}},
	{name: "whiteouts", layers: [][]ent{
		{file("a", "1"), file("d/b", "1"), file("d/c", "1"), file("e/deep/x", "1")},
		{file(".wh.a", ""), file("d/.wh.b", ""), file(".wh.e", ""), file(".wh.never", "")},
	}, want: []string{"d/", "d/c - 1"}},
	{name: "whiteout and new file of one name", layers: [][]ent{
		{file("a", "1"), file("b", "1"), file("d/x", "1"), file("e/x", "1")},
		{
			file(".wh.a", ""), file("a", "2"), file("b", "2"), file(".wh.b", ""),
			file(".wh.d", ""), file("d/y", "2"), file("e/y", "2"), file(".wh.e", ""),
		},
	}, want: []string{"a - 2", "b - 2", "d/", "d/y - 2", "e/", "e/y - 2"}},
	{name: "opaque before and after", layers: [][]ent{
		{file("d/x", "1"), file("d/sub/y", "1"), file("e/x", "1")},
		{dir("d"), file("d/.wh..wh..opq", ""), file("d/n", "2"), dir("e"), file("e/n", "2"), file("e/.wh..wh..opq", "")},
	}, want: []string{"d/", "d/n - 2", "e/", "e/n - 2"}},
	{name: "opaque root", layers: [][]ent{
		{file("a", "1"), file("d/x", "1")},
		{file(".wh..wh..opq", ""), file("n", "2")},
	}, want: []string{"n - 2"}},
	{name: "type changes", layers: [][]ent{
		{file("d/x", "1"), file("f", "1"), symlink("l", "d"), dir("m")},
		{file("d", "2"), file("f/y", "2"), dir("f"), file("l", "2"), symlink("m", "d")},
	}, want: []string{"d - 2", "f/", "f/y - 2", "l - 2", "m -> d"}},
	{name: "three layers back and forth", layers: [][]ent{
		{file("a/f", "1")}, {file(".wh.a", "")}, {file("a/g", "3")},
	}, want: []string{"a/", "a/g - 3"}},
	{name: "hard link to a lower file", layers: [][]ent{
		{file("d/f", "1")}, {hard("h", "d/f"), hard("h2", "h")},
	}, want: []string{"d/", "d/f - 1", "h - 1", "h2 - 1"}},
	{name: "hard link to a lower file that this layer removes", layers: [][]ent{
		{file("f", "1")}, {hard("h", "f"), file(".wh.f", "")},
	}, want: []string{"h - 1"}},
	{name: "hard link replaces a file", layers: [][]ent{
		{file("f", "1"), file("h", "old")}, {hard("h", "f")},
	}, want: []string{"f - 1", "h - 1"}},
	{name: "a directory that the upper layer does not describe", layers: [][]ent{
		{ent{name: "d", kind: tar.TypeDir, mode: 0o1751}, file("d/a", "1"), ent{name: "e", kind: tar.TypeDir, mode: 0o700}},
		{file(".wh.e", "")},
		{file("d/b", "2"), file("e/c", "2")},
	}, want: []string{"d/", "d/a - 1", "d/b - 2", "e/", "e/c - 2"}},
	{name: "a whiteout in a new directory", layers: [][]ent{
		{file("f", "1")},
		{file("new/.wh.x", ""), file("new/y", "2")},
	}, want: []string{"f - 1", "new/", "new/y - 2"}},
	{name: "a whiteout in a directory that is made again", layers: [][]ent{
		{file("d/a", "1"), file("d/b", "1")},
		{file("d/.wh..wh..opq", ""), file("d/.wh.a", ""), file("d/c", "2")},
		{file(".wh.d", ""), file("d/.wh.c", ""), file("d/e", "3")},
	}, want: []string{"d/", "d/e - 3"}},
	{name: "empty layer", layers: [][]ent{{file("f", "1")}, {}}, want: []string{"f - 1"}},
}

// linkedStacks have a link in a lower layer where an upper layer has a
// directory, or a name below it. The directory replaces the link, as in
// overlayfs, whether an entry describes it or not.
var linkedStacks = []struct {
	name   string
	layers [][]ent
	want   []string
}{
	{name: "through a lower symlink", layers: [][]ent{
		{symlink("var/run", "/run"), file("run/a", "1"), file("run/gone", "1")},
		{file("var/run/b", "2"), file("var/run/.wh.gone", "")},
	}, want: []string{"run/", "run/a - 1", "run/gone - 1", "var/", "var/run/", "var/run/b - 2"}},
	{name: "an opaque directory in place of a lower symlink", layers: [][]ent{
		{symlink("lnk", "d"), file("d/a", "1")},
		{file("lnk/.wh..wh..opq", ""), file("lnk/n", "2")},
	}, want: []string{"d/", "d/a - 1", "lnk/", "lnk/n - 2"}},
	{name: "a whiteout through a lower symlink", layers: [][]ent{
		{symlink("lnk", "d"), file("d/a", "1")},
		{file("lnk/.wh.a", "")},
	}, want: []string{"d/", "d/a - 1", "lnk/"}},
	{name: "an explicit directory replaces the symlink", layers: [][]ent{
		{symlink("var/run", "/run"), file("run/a", "1")},
		{dir("var/run"), file("var/run/b", "2")},
	}, want: []string{"run/", "run/a - 1", "var/", "var/run/", "var/run/b - 2"}},
	{name: "through an escaping lower symlink", layers: [][]ent{
		{symlink("l", "../../out")}, {file("l/evil", "2"), file("l/.wh.victim", "")},
	}, want: []string{"l/", "l/evil - 2"}},
	{name: "hard link through a lower symlink", layers: [][]ent{
		{file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {hard("h", "lib/x")},
	}, want: []string{"h - 1", "lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x - 1"}},
	{name: "hard link to outside by a lower symlink", layers: [][]ent{
		{symlink("l", "../../out"), file("out/victim", "decoy")}, {hard("h", "l/victim")},
	}, want: []string{"h - decoy", "l -> ../../out", "out/", "out/victim - decoy"}},
}

func (x *tb) layers(stack [][]ent) []*Layer {
	x.Helper()
	var out []*Layer
	for _, ents := range stack {
		out = append(out, x.must(ents...))
	}
	return out
}

func (x *tb) flatten(stack [][]ent) string {
	x.Helper()
	layers := x.layers(stack)
	if err := layers[0].Settle(); err != nil {
		x.Fatal(err)
	}
	for _, l := range layers[1:] {
		if err := Merge(x.Context(), layers[0].Dir, l); err != nil {
			x.Fatal(err)
		}
	}
	return layers[0].Dir
}

func TestMerge(t *testing.T) {
	for _, tt := range append(stacks, linkedStacks...) {
		t.Run(tt.name, func(t *testing.T) {
			x := newTB(t)
			if got := listing(t, x.flatten(tt.layers)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			x.outsideUntouched()
		})
	}
}

func TestMergeKeepsMetadata(t *testing.T) {
	x := newTB(t)
	root := x.flatten([][]ent{
		{ent{name: "locked", kind: tar.TypeDir, mode: 0o555}, file("locked/a", "1"), dir("d"), file("d/x", "1")},
		{file("locked/b", "2"), ent{name: "d", kind: tar.TypeDir, mode: 0o700}, ent{name: "n", kind: tar.TypeDir, mode: 0o500}, file("n/x", "2")},
	})
	for name, mode := range map[string]os.FileMode{"locked": 0o555, "d": 0o700, "n": 0o500} {
		fi, err := os.Stat(filepath.Join(root, name))
		if err != nil || fi.Mode().Perm() != mode || !fi.ModTime().Equal(entryTime) {
			t.Errorf("%s: %v %v %v", name, fi.Mode(), fi.ModTime(), err)
		}
	}
	one := x.flatten([][]ent{{file("f", "1")}, {hard("h", "f")}})
	a, _ := os.Stat(filepath.Join(one, "f"))
	b, _ := os.Stat(filepath.Join(one, "h"))
	if !os.SameFile(a, b) {
		t.Error("link to a lower file is a copy")
	}
}

func TestMergeFailures(t *testing.T) {
	x := newTB(t)
	layers := x.layers([][]ent{{file("f", "1")}, {hard("h", "nowhere")}})
	err := Merge(t.Context(), layers[0].Dir, layers[1])
	if err == nil || !strings.Contains(err.Error(), `"h": bad archive: hard link to "nowhere"`) {
		t.Error(err)
	}
}

// modes lists mode and owner of everything in a tree.
func modes(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.Walk(root, func(p string, fi os.FileInfo, err error) error {
		if err == nil {
			st := fi.Sys().(*syscall.Stat_t)
			out = append(out, fmt.Sprintf("%s %v %d:%d", strings.TrimPrefix(p, root), fi.Mode(), st.Uid, st.Gid))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPrivMetadata checks what only root can set.
func TestPrivMetadata(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and device nodes")
	}
	x := newTB(t)
	own := func(h *tar.Header) { h.Uid, h.Gid = 1234, 3_000_000 } // beyond octal: base-256
	// A capability set of version 2: cap_net_raw, effective.
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	l := x.must(
		ent{name: "suid", body: "x", mode: 0o4755, edit: own, pax: map[string]string{"SCHILY.xattr.security.capability": caps}},
		ent{name: "null", kind: tar.TypeChar, mode: 0o666, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }},
		ent{name: "disk", kind: tar.TypeBlock, mode: 0o660, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 8, 300 }},
		ent{name: "link", kind: tar.TypeSymlink, link: "suid", edit: own},
	)
	st := func(name string) *syscall.Stat_t {
		fi, err := os.Lstat(filepath.Join(l.Dir, name))
		if err != nil {
			t.Fatalf("%v; notes %v", err, Notes(l))
		}
		return fi.Sys().(*syscall.Stat_t)
	}
	if s := st("suid"); s.Uid != 1234 || s.Gid != 3_000_000 || s.Mode&0o7777 != 0o4755 {
		t.Errorf("suid: %d:%d %o", s.Uid, s.Gid, s.Mode)
	}
	if s := st("link"); s.Uid != 1234 || s.Gid != 3_000_000 {
		t.Errorf("link: %d:%d", s.Uid, s.Gid)
	}
	if s := st("null"); s.Rdev != unix.Mkdev(1, 3) || s.Mode != unix.S_IFCHR|0o666 {
		t.Errorf("null: %x %o", s.Rdev, s.Mode)
	}
	if s := st("disk"); s.Rdev != unix.Mkdev(8, 300) || s.Mode != unix.S_IFBLK|0o660 {
		t.Errorf("disk: %x %o", s.Rdev, s.Mode)
	}
	buf := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(l.Dir, "suid"), "security.capability", buf)
	if err != nil && err != unix.ENOTSUP || err == nil && string(buf[:n]) != caps {
		t.Errorf("capability %q, %v", buf[:max(n, 0)], err)
	}
}

// TestUnprivileged checks that metadata that a normal user cannot set is noted,
// and that a file with the wrong owner has no setuid bit.
func TestUnprivileged(t *testing.T) {
	x := newTB(t)
	other := func(h *tar.Header) { h.Uid, h.Gid = os.Geteuid()+1, os.Getegid()+1 }
	data := archive(t,
		ent{name: "suid", body: "x", mode: 0o4755, edit: other},
		ent{name: "null", kind: tar.TypeChar, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }},
	)
	l, err := Extract(t.Context(), strings.NewReader(string(data)), x.root,
		Options{Pool: x.pool, Meter: newMeter(DefaultLimits()), Unprivileged: true})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(x.root, "suid")); err != nil || fi.Mode() != 0o755 {
		t.Error(fi, err)
	}
	want := []string{
		"device node left out (needs root): null",
		"owner not set (needs root): suid",
		"setuid or setgid bit not set (the owner is not): suid",
	}
	var got []string
	for _, n := range Notes(l) {
		got = append(got, n.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestSparse extracts archives that GNU tar -S wrote in its four formats.
func TestSparse(t *testing.T) {
	want := make([]byte, 300_000)
	copy(want[100_000:], "middle")
	copy(want[250_000:], "near-the-end")
	for _, format := range []string{"gnu", "pax00", "pax01", "pax10"} {
		x := newTB(t)
		data := gunzip(t, filepath.Join("..", "tarfile", "testdata", "sparse-"+format+".tar.gz"))
		l, err := x.extractBytes(data, DefaultLimits())
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		got, err := os.ReadFile(filepath.Join(l.Dir, "holes"))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: content differs (%v)", format, err)
		}
		fi, err := os.Stat(filepath.Join(l.Dir, "holes"))
		if err != nil || fi.Sys().(*syscall.Stat_t).Blocks*512 >= 300_000 {
			t.Errorf("%s: takes %d bytes of disk, %v", format, fi.Sys().(*syscall.Stat_t).Blocks*512, err)
		}
		if fi, err = os.Stat(filepath.Join(l.Dir, "empty")); err != nil || fi.Size() != 70_000 {
			t.Errorf("%s: %v %v", format, fi.Size(), err)
		}
	}
}

// FuzzExtract extracts arbitrary bytes. No file outside may change, and merging
// a layer over itself must succeed.
func FuzzExtract(f *testing.F) {
	for _, s := range slices.Concat(stacks, linkedStacks) {
		for _, l := range s.layers {
			f.Add(archive(f, l...))
		}
	}
	for _, s := range corpus {
		if data := s.bytes(f); len(data) < 64<<10 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x := newTB(t)
		limits := Limits{Entries: 200, Depth: 20, NameLen: 300, TotalSize: 1 << 20}
		base, err := x.extractBytes(data, limits)
		if err == nil {
			if err = base.Settle(); err == nil {
				var upper *Layer
				if upper, err = x.extractBytes(data, limits); err != nil {
					t.Fatalf("the second time: %v", err)
				}
				if err = Merge(t.Context(), base.Dir, upper); err != nil {
					t.Fatalf("merge: %v", err)
				}
			}
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		x.outsideUntouched()
	})
}

// unlockAll makes the directory of a test removable.
func unlockAll(root string) {
	_ = filepath.Walk(root, func(p string, fi os.FileInfo, err error) error {
		if fi != nil && fi.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
}

// gunzip reads a compressed file.
func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
