package untar

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips a test unless it runs as root.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + why)
	}
}

// reopen opens layers from their directories alone.
func reopen(t *testing.T, layers []*Layer, form Form) []*Layer {
	t.Helper()
	var out []*Layer
	for _, l := range layers {
		again, err := OpenLayer(l.Dir, form)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, again)
	}
	return out
}

// mount mounts layers, nearest first, with the kernel's overlayfs.
func mount(t *testing.T, dirs []string, options string) string {
	t.Helper()
	mnt := t.TempDir()
	if len(dirs) == 1 {
		dirs = append(slices.Clip(dirs), t.TempDir()) // overlayfs needs two
	}
	err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")+options)
	if err == unix.EPERM || err == unix.ENODEV {
		t.Skip("needs overlayfs: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// overlays writes a stack in the form of overlayfs, from the lowest layer up,
// and returns the directories, nearest first. If again is true, the lower
// layers are opened from their directories, as after a restart.
func (x *tb) overlays(stack [][]ent, form Form, again bool) []string {
	x.Helper()
	t, _ := x.TB.(*testing.T)
	var lower []*Layer
	var dirs []string
	for _, l := range x.layers(stack) {
		if again {
			lower = reopen(t, lower, form)
		}
		if err := l.Overlay(x.Context(), form, lower); err != nil {
			x.Fatal(err)
		}
		lower = slices.Insert(lower, 0, l)
		dirs = slices.Insert(dirs, 0, l.Dir)
		checkUsage(t, l)
	}
	return dirs
}

// TestPrivOverlay mounts every stack with the kernel's overlayfs and expects
// the flattened tree.
func TestPrivOverlay(t *testing.T) {
	needRoot(t, "mounts overlayfs")
	for _, tt := range slices.Concat(stacks, linkedStacks) {
		for _, again := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				x := newTB(t)
				mnt := mount(t, x.overlays(tt.layers, TrustedXattr, again), "")
				if got := listing(t, mnt); !slices.Equal(got, tt.want) {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
				if got, want := modes(t, mnt), modes(t, x.flatten(tt.layers)); !slices.Equal(got, want) {
					t.Errorf("overlayfs shows %q\nflattened is   %q", got, want)
				}
			})
		}
	}
}

// TestPrivLinksThroughLayers checks that the target of a hard link is resolved
// in the lower layers as on a mount, even if only the directories of these
// layers are left.
func TestPrivLinksThroughLayers(t *testing.T) {
	needRoot(t, "whiteouts and trusted attributes")
	own := func(h *tar.Header) { h.Uid, h.Gid = 7, 8 }
	tests := []struct {
		name  string
		lower [][]ent
		top   []ent
		err   error
		want  []string // of the top layer alone
	}{
		{
			name:  "removed in between",
			lower: [][]ent{{file("f", "1")}, {file(".wh.f", "")}},
			top:   []ent{hard("h", "f")}, err: ErrFormat,
		},
		{
			name:  "its directory removed in between",
			lower: [][]ent{{file("d/f", "1")}, {file(".wh.d", ""), file("d/g", "2")}},
			top:   []ent{hard("h", "d/f")}, err: ErrFormat,
		},
		{
			name:  "hidden by an opaque directory in between",
			lower: [][]ent{{file("d/f", "1")}, {dir("d"), file("d/.wh..wh..opq", "")}},
			top:   []ent{hard("h", "d/f")}, err: ErrFormat,
		},
		{
			name:  "hidden by an opaque root in between",
			lower: [][]ent{{file("f", "1")}, {file(".wh..wh..opq", "")}},
			top:   []ent{hard("h", "f")}, err: ErrFormat,
		},
		{
			name:  "the nearest wins",
			lower: [][]ent{{file("d/f", "1"), file("d/other", "1")}, {file("d/f", "2")}},
			top:   []ent{hard("h", "d/f")}, want: []string{"d/", "d/f - 2", "h - 2"},
		},
		{
			name:  "through a link of the top layer into a lower one",
			lower: [][]ent{{file("usr/lib/f", "1")}},
			top:   []ent{symlink("lib", "usr/lib"), hard("h", "lib/f")},
			want:  []string{"h - 1", "lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/f - 1"},
		},
		{
			name:  "through a link of the lowest layer",
			lower: [][]ent{{symlink("lib", "/usr/lib")}, {file("usr/lib/f", "1")}},
			top:   []ent{hard("h", "lib/f")},
			want:  []string{"h - 1", "usr/", "usr/lib/", "usr/lib/f - 1"},
		},
		{
			name:  "a link that climbs out stays in",
			lower: [][]ent{{symlink("l", "../../out")}},
			top:   []ent{hard("h", "l/victim")}, err: ErrFormat,
		},
		{
			name:  "removed by the top layer itself",
			lower: [][]ent{{file("d/f", "1")}},
			top:   []ent{hard("h", "d/f"), file("d/.wh.f", "")},
			want:  []string{"d/", "d/f Dc---------", "h - 1"},
		},
		{
			name:  "two links, one of a link",
			lower: [][]ent{{file("f", "1")}},
			top:   []ent{hard("h", "f"), hard("h2", "f"), hard("h3", "h")},
			want:  []string{"f - 1", "h - 1", "h2 - 1", "h3 - 1"},
		},
		{
			name:  "symbolic links and fifos have links too",
			lower: [][]ent{{symlink("l", "x"), {name: "p", kind: tar.TypeFifo}}},
			top:   []ent{hard("h", "l"), hard("q", "p")},
			want:  []string{"h -> x", "l -> x", "p p---------", "q p---------"},
		},
		{
			name:  "directories above keep their looks",
			lower: [][]ent{{{name: "d", kind: tar.TypeDir, mode: 0o1500, edit: own}, file("d/f", "1")}},
			top:   []ent{hard("h", "d/f")}, want: []string{"d/", "d/f - 1", "h - 1"},
		},
		{
			name:  "a lower directory",
			lower: [][]ent{{dir("d")}}, top: []ent{hard("h", "d")}, err: ErrFormat,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newTB(t)
			var lower []*Layer
			for _, d := range x.overlays(tt.lower, TrustedXattr, true) {
				l, err := OpenLayer(d, TrustedXattr)
				if err != nil {
					t.Fatal(err)
				}
				lower = append(lower, l)
			}
			top := x.must(tt.top...)
			err := top.Overlay(t.Context(), TrustedXattr, lower)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			x.outsideUntouched()
			if err != nil {
				return
			}
			if got := listing(t, top.Dir); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			for _, name := range tt.want {
				if name == "d/" {
					a, b := modes(t, filepath.Join(top.Dir, "d"))[0], modes(t, filepath.Join(lower[0].Dir, "d"))[0]
					if a != b {
						t.Errorf("d is %s, below %s", a, b)
					}
				}
			}
			if h, err := os.Lstat(filepath.Join(top.Dir, "h")); err == nil && h.Mode().IsRegular() {
				if f, err := os.Lstat(filepath.Join(top.Dir, "d/f")); err == nil && f.Mode().IsRegular() && !os.SameFile(h, f) {
					t.Error("h is a copy of d/f, not a link")
				}
			}
			checkUsage(t, top)
		})
	}
}

// TestPrivForeignLowerLayers checks lower layers with marks that only the
// kernel writes.
func TestPrivForeignLowerLayers(t *testing.T) {
	needRoot(t, "trusted attributes")
	set := func(t *testing.T, path, name, value string) {
		t.Helper()
		if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
			t.Skip("needs a file system with attributes: ", err)
		}
	}
	tests := []struct {
		name string
		mark func(t *testing.T, dir string)
		err  string
	}{
		{"renamed directory", func(t *testing.T, dir string) { set(t, dir+"/d", "trusted.overlay.redirect", "e") }, "redirect"},
		{"metadata only", func(t *testing.T, dir string) { set(t, dir+"/d/f", "trusted.overlay.metacopy", "") }, "metacopy"},
		{"whiteout by attribute", func(t *testing.T, dir string) {
			if err := os.Truncate(dir+"/d/f", 0); err != nil {
				t.Fatal(err)
			}
			set(t, dir+"/d/f", "trusted.overlay.whiteout", "")
		}, "does not exist"},
		{"marks of the other form", func(t *testing.T, dir string) { set(t, dir+"/d", "user.overlay.opaque", "y") }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newTB(t)
			dirs := x.overlays([][]ent{{file("d/f", "1")}, {file("d/f", "2")}}, TrustedXattr, false)
			tt.mark(t, dirs[0])
			top := x.must(hard("h", "d/f"))
			var lower []*Layer
			for _, d := range dirs {
				l, err := OpenLayer(d, TrustedXattr)
				if err != nil {
					t.Fatal(err)
				}
				lower = append(lower, l)
			}
			err := top.Overlay(t.Context(), TrustedXattr, lower)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestOpenLayer(t *testing.T) {
	if _, err := OpenLayer(filepath.Join(t.TempDir(), "none"), TrustedXattr); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	l, err := OpenLayer(t.TempDir(), UserXattr)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Overlay(t.Context(), UserXattr, nil); !errors.Is(err, errOpened) {
		t.Error(err)
	}
	if err := Merge(t.Context(), t.TempDir(), l); !errors.Is(err, errOpened) {
		t.Error(err)
	}
}

// walkUsage counts every inode once, as containerd does.
func walkUsage(t *testing.T, root string) Usage {
	t.Helper()
	var sum Usage
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if err == nil && !seen[st.Ino] {
			seen[st.Ino] = true
			sum.Bytes += st.Blocks * 512
			sum.Inodes++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func checkUsage(t *testing.T, l *Layer) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // directories may be locked
	}
	if got, want := l.Usage(), walkUsage(t, l.Dir); got != want {
		t.Errorf("usage of %s: counted %+v, a walk finds %+v", filepath.Base(l.Dir), got, want)
	}
}

// TestUsage checks that replaced files do not count, whatever the order.
func TestUsage(t *testing.T) {
	long := strings.Repeat("x", 200) // longer than a symbolic link that fits an inode
	tests := map[string][]ent{
		"empty":       nil,
		"plain":       {dir("d"), file("d/f", "x"), file("g", bigContent(1_500_000)), symlink("l", "x"), symlink("m", long)},
		"links":       {file("f", bigContent(5000)), hard("g", "f"), hard("h", "g"), hard("k", "later"), file("later", "x")},
		"duplicates":  {file("f", bigContent(9000)), file("f", "x"), symlink("f", "y"), file("f", bigContent(2<<20)), file("f", "x")},
		"type change": {file("d/a/b", bigContent(9000)), hard("keep", "d/a/b"), file("d/c", bigContent(5000)), symlink("d/l", long), file("d", "x"), dir("d")},
		"a link over": {file("a", bigContent(9000)), file("b", bigContent(5000)), hard("a", "b"), hard("b", "a")},
		"a gap":       {file("a", "x"), hard("a", "nowhere"), dir("a")},
		"fifo":        {{name: "p", kind: tar.TypeFifo}, {name: "p", kind: tar.TypeFifo}},
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			checkUsage(t, newTB(t).must(in...))
		})
	}
}
