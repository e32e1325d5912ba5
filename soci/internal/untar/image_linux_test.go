package untar

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPrivEqualsTar extracts an image and compares it with the files that GNU
// tar extracts, layer on layer, onto a mount of the kernel's overlayfs. It
// compares a mount of our layers, and the flattened tree. The image is made of
// files of this machine, or is the one that matches the glob PENSTOCK_LAYERS.
func TestPrivEqualsTar(t *testing.T) {
	needRoot(t, "mounts overlayfs, and owners")
	tar := gnuTar(t)
	work := tmpfs(t, "")
	layers, _ := filepath.Glob(os.Getenv("PENSTOCK_LAYERS"))
	if len(layers) == 0 {
		layers = makeImage(t, tar, filepath.Join(work, "image"))
	}
	r := &referenceTar{t: t, tar: tar, dir: filepath.Join(work, "rival")}
	x := newTB(t)
	x.root = filepath.Join(work, "layers")
	if err := os.Mkdir(x.root, 0o755); err != nil {
		t.Fatal(err)
	}
	var ours []*Layer
	for _, file := range layers {
		theirs := r.layer(file)
		l := x.open(file)
		var lower []*Layer
		for _, below := range slices.Backward(ours) {
			lower = append(lower, below)
		}
		if err := l.Overlay(t.Context(), TrustedXattr, reopen(t, lower, TrustedXattr)); err != nil {
			t.Fatal(err)
		}
		checkUsage(t, l)
		ours = append(ours, l)
		var dirs []string
		for _, l := range slices.Backward(ours) {
			dirs = append(dirs, l.Dir)
		}
		n := equalTrees(t, mount(t, dirs, ""), theirs, undescribed(ours))
		t.Logf("%s: %d entries, a tree of %d equal", filepath.Base(file), l.Entries, n)
	}
	// In the flattened tree the hard links of a lower layer stay links, whereas
	// overlayfs breaks a link when it copies a file up.
	r.apply(layers[0], r.path(-1, "flat"))
	flat := x.open(layers[0])
	for _, file := range layers[1:] {
		r.apply(file, r.path(-1, "flat"))
		if err := Merge(t.Context(), flat.Dir, x.open(file)); err != nil {
			t.Fatal(err)
		}
	}
	n := equalTrees(t, flat.Dir, r.path(-1, "flat"), undescribed(ours))
	t.Logf("flattened: a tree of %d equal", n)
}

// undescribed returns directories whose times no entry sets. For a directory
// that an upper layer only passes through, a mount shows the time of the copy.
func undescribed(layers []*Layer) map[string]bool {
	out := map[string]bool{".": true}
	for _, l := range layers {
		for d := range implicit(l) {
			out[d] = true
		}
		for _, w := range l.whiteouts {
			out[l.dirs.path(w.dir)] = true // its time changed when the mount removed the file
		}
		for _, ln := range l.lower {
			d, _ := split(l.linkTarget(ln)) // its time changed when the file was copied up
			out[d] = true
		}
	}
	return out
}

// tmpfs mounts a tmpfs with a size as in mount(8), or with the default size if
// it is "".
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("needs to mount tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// open extracts the layer in a file.
func (x *tb) open(file string) *Layer {
	x.Helper()
	f, err := os.Open(file)
	if err != nil {
		x.Fatal(err)
	}
	defer f.Close()
	x.n++
	dir := filepath.Join(x.root, fmt.Sprint("layer", x.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		x.Fatal(err)
	}
	l, err := Extract(x.Context(), f, dir, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
	if err != nil {
		x.Fatal(err)
	}
	return l
}

// referenceTar extracts layers with GNU tar, each onto a mount of all lower
// ones.
type referenceTar struct {
	t      *testing.T
	tar    string
	dir    string
	uppers []string // nearest first
}

// layer applies another layer, and returns the mount of all layers.
func (r *referenceTar) layer(file string) string {
	r.t.Helper()
	n := len(r.uppers)
	upper, work, mnt := r.path(n, "upper"), r.path(n, "work"), r.path(n, "mnt")
	lower := slices.Clone(r.uppers)
	if n == 0 {
		lower = []string{r.path(n, "nothing")}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	if err := unix.Mount("overlay", mnt, "overlay", 0, opts); err != nil {
		r.t.Skip("needs overlayfs: ", err)
	}
	r.t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			r.t.Error(err)
		}
	})
	r.apply(file, mnt)
	r.uppers = slices.Insert(r.uppers, 0, upper)
	return mnt
}

// apply extracts a layer over the files in a directory.
func (r *referenceTar) apply(file, root string) {
	r.t.Helper()
	r.remove(file, root)
	if err := untarGNU(r.t.Context(), r.tar, file, root, "--exclude=.wh.*"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *referenceTar) path(n int, what string) string {
	r.t.Helper()
	p := filepath.Join(r.dir, fmt.Sprint(n), what)
	if err := os.MkdirAll(p, 0o755); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// remove removes the files that the whiteouts of a layer name.
func (r *referenceTar) remove(file, root string) {
	r.t.Helper()
	for _, name := range entries(r.t, r.tar, file) {
		dir, base := filepath.Split(filepath.Join(root, name))
		gone, ok := strings.CutPrefix(base, whiteoutPrefix)
		if !ok {
			continue
		}
		targets := []string{filepath.Join(dir, gone)}
		if base == whiteoutOpaque {
			targets, _ = filepath.Glob(filepath.Join(dir, "*"))
		}
		for _, p := range targets {
			if err := os.RemoveAll(p); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func entries(t *testing.T, tar, file string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tar, "-tf", file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for s := bufio.NewScanner(out); s.Scan(); {
		names = append(names, s.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return names
}

// makeImage writes layers with GNU tar: real files in two formats, a layer with
// every type of file, and a layer that removes and replaces files.
func makeImage(t *testing.T, tar, dir string) []string {
	t.Helper()
	var out []string
	pack := func(from string, args ...string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprint("l", len(out), ".tar"))
		args = append([]string{"-cf", file, "-C", from, "--numeric-owner", "--sort=name"}, args...)
		if b, err := exec.CommandContext(t.Context(), tar, args...).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, b)
		}
		out = append(out, file)
	}
	var etc []string
	for _, d := range []string{"etc", "usr/share/zoneinfo", "usr/share/perl"} {
		if _, err := os.Stat("/" + d); err == nil {
			etc = append(etc, d)
		}
	}
	pack("/", append([]string{"--format=gnu"}, etc...)...)
	src := filepath.Join(runtime.GOROOT(), "src") //nolint:staticcheck // the tree that go test itself needs
	pack(src, "--format=pax", "net", "crypto", "runtime")
	pack(specialFiles(t, filepath.Join(dir, "zoo")), "--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", ".")
	pack(changeTree(t, filepath.Join(dir, "changes")), "--format=pax", ".")
	return append(out, linkingLayer(t, filepath.Join(dir, "second.tar")))
}

// specialFiles makes a tree with a file of each type.
func specialFiles(t *testing.T, root string) string {
	t.Helper()
	sh(t, `mkdir -p "$1/zoo/deep/er" && cd "$1/zoo"
		echo plain > plain; ln plain twin; ln -s plain soft; ln soft hardsoft; ln -s /nowhere dangling
		mkfifo pipe; mknod null c 1 3; mknod disk b 8 17
		cp /bin/true suid; chown 12:34 suid; chmod 6755 suid
		cp /bin/true caps; chown 3000000:4000000 caps; setcap cap_net_raw+ep caps 2>/dev/null || true
		mkdir sticky setgid closed; chmod 1777 sticky; chown 0:50 setgid; chmod 2775 setgid; chmod 0 closed
		truncate -s 3000000 hole; printf middle | dd of=hole bs=1 seek=1000000 conv=notrunc status=none
		head -c 3000000 /dev/urandom > large; : > empty; chmod 0 empty
		long=$(printf 'n%.0s' $(seq 200)); mkdir $long; echo x > $long/$long
		touch -d '1969-07-20 20:17:40.123456789 UTC' moon; touch -d '2040-01-01 00:00:00.5 UTC' later
		cp plain deep/er/file; touch -d '2001-02-03' deep/er deep`, root)
	for name, value := range map[string]string{"user.note": "hello", "user.secret": "x", "user.empty": ""} {
		if err := unix.Setxattr(filepath.Join(root, "zoo/plain"), name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			t.Fatal(err)
		}
		if err := unix.Setxattr(filepath.Join(root, "zoo/deep"), name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			t.Fatal(err)
		}
	}
	return root
}

// changeTree makes a layer over specialFiles that removes and replaces files.
func changeTree(t *testing.T, root string) string {
	t.Helper()
	sh(t, `mkdir -p "$1/zoo" "$1/net/http" && cd "$1"
		: > zoo/.wh.plain; : > zoo/.wh.closed; : > net/.wh.mail; : > net/http/.wh..wh..opq; echo new > net/http/only
		echo file > zoo/sticky; mkdir zoo/suid; echo x > zoo/suid/x; ln -s x zoo/deep; : > zoo/.wh.deep; : > zoo/.wh.nothing
		touch -d 2002-02-02 zoo net net/http zoo/suid .`, root)
	return root
}

// linkingLayer makes a layer that refers to lower files: hard links, and
// directories that no entry describes.
func linkingLayer(t *testing.T, path string) string {
	t.Helper()
	data := archive(t,
		hard("links/go", "runtime/proc.go"), hard("links/again", "links/go"), hard("links/more", "runtime/proc.go"),
		hard("zoo/pipe2", "zoo/pipe"), hard("zoo/soft2", "zoo/soft"),
		file("runtime/internal/new", "x"), file("zoo/setgid/new", "y"),
	)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sh(t *testing.T, script, arg string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", script, "sh", arg).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
