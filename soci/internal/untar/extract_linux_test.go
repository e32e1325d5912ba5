package untar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// when is the time of every entry that does not say otherwise.
var when = time.Unix(1_700_000_000, 123_456_789)

// ent is one entry of a test archive.
type ent struct {
	name string
	kind byte // tar type; 0 is a regular file
	body string
	link string
	mode int64 // 0: 0644, directories 0755
	size int64 // when the header lies
	pax  map[string]string
	edit func(*tar.Header)
}

func file(name, body string) ent      { return ent{name: name, body: body} }
func dir(name string) ent             { return ent{name: name, kind: tar.TypeDir} }
func symlink(name, target string) ent { return ent{name: name, kind: tar.TypeSymlink, link: target} }
func hard(name, target string) ent    { return ent{name: name, kind: tar.TypeLink, link: target} }

func (e ent) header() *tar.Header {
	h := &tar.Header{
		Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)),
		ModTime: when, Uid: os.Geteuid(), Gid: os.Getegid(), PAXRecords: e.pax, Format: tar.FormatPAX,
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		if h.Mode = 0o644; e.kind == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if e.size != 0 {
		h.Size = e.size
	}
	if e.edit != nil {
		e.edit(h)
	}
	return h
}

// archive writes entries; a header that promises more than its body gets no more.
func archive(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, e := range ents {
		var one bytes.Buffer
		w := tar.NewWriter(&one)
		if err := w.WriteHeader(e.header()); err != nil {
			t.Fatalf("entry %q: %v", e.name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatalf("entry %q: %v", e.name, err)
		}
		_ = w.Flush() // fails when the header lies, as intended
		out.Write(one.Bytes())
	}
	out.Write(make([]byte, 1024))
	return out.Bytes()
}

type tb struct {
	testing.TB
	pool *Pool
	root string // holds the layers; everything else in the test's directory is outside
	base string
	n    int
	walk bool
}

func newTB(t testing.TB) *tb {
	base := t.TempDir()
	x := &tb{TB: t, pool: NewPool(3, 0), root: filepath.Join(base, "in"), base: base}
	t.Cleanup(x.pool.Close)
	t.Cleanup(func() { unlockAll(base) })
	for _, d := range []string{x.root, filepath.Join(base, "out")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "out", "victim"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *tb) extractBytes(data []byte, limits Limits) (*Layer, error) {
	x.Helper()
	x.n++
	dir := filepath.Join(x.root, fmt.Sprint("layer", x.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		x.Fatal(err)
	}
	return Extract(x.Context(), bytes.NewReader(data), dir, Options{Pool: x.pool, Meter: NewMeter(limits), walk: x.walk})
}

func (x *tb) extract(ents ...ent) (*Layer, error) {
	x.Helper()
	return x.extractBytes(archive(x, ents...), DefaultLimits())
}

func (x *tb) must(ents ...ent) *Layer {
	x.Helper()
	l, err := x.extract(ents...)
	if err != nil {
		x.Fatal(err)
	}
	return l
}

// outsideUntouched fails the test when anything but the layers changed.
func (x *tb) outsideUntouched() {
	x.Helper()
	got := listing(x, filepath.Join(x.base, "out"))
	if want := []string{"victim - untouched"}; !slices.Equal(got, want) {
		x.Errorf("outside of the root: %q, want %q", got, want)
	}
	names, err := os.ReadDir(x.base)
	if err != nil || len(names) != 2 {
		x.Errorf("beside the root: %v, %v", names, err)
	}
	fi, err := os.Stat(filepath.Join(x.base, "out", "victim"))
	if err != nil || fi.Mode() != 0o600 || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
		x.Errorf("victim: %v, %v", fi, err)
	}
}

// listing describes a tree, one line per entry: path, type, content or target.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch d.Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if len(b) > 40 {
				b = fmt.Appendf(nil, "%d bytes", len(b))
			}
			rel += " - " + string(b)
		case fs.ModeDir:
			rel += "/"
		case fs.ModeSymlink:
			target, _ := os.Readlink(p)
			rel += " -> " + target
		default:
			rel += " " + d.Type().String()
		}
		out = append(out, strings.TrimSpace(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func big(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

// TestAdversarial holds hand-made archives that try to escape, to confuse or to
// exhaust. Each either fails with the named error or leaves exactly the listed tree;
// in no case is anything outside touched.
func TestAdversarial(t *testing.T) {
	long := strings.Repeat("n", 300)
	small := Limits{Entries: 10, Depth: 5, NameLen: 64, TotalSize: 1 << 20}
	many := make([]ent, 11)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	tests := []struct {
		name string
		in   []ent
		err  error
		want []string
	}{
		{name: "dot dot", in: []ent{file("../evil", "x")}, err: ErrUnsafe},
		{name: "dot dot deep", in: []ent{file("a/b/../../../evil", "x")}, err: ErrUnsafe},
		{name: "dot dot alone", in: []ent{dir("..")}, err: ErrUnsafe},
		{name: "dot dot inside", in: []ent{file("a/../b", "x")}, want: []string{"b - x"}},
		{name: "absolute", in: []ent{file("/etc/passwd", "x")}, want: []string{"etc/", "etc/passwd - x"}},
		{name: "absolute twice", in: []ent{file("//etc//x", "x")}, want: []string{"etc/", "etc/x - x"}},
		{name: "absolute dot dot", in: []ent{file("/../evil", "x")}, err: ErrUnsafe},
		{
			name: "symlink to outside, then through it",
			in:   []ent{symlink("l", "../../out"), file("l/evil", "x")},
			want: []string{"l -> ../../out", "out/", "out/evil - x"},
		},
		{
			name: "absolute symlink, then through it",
			in:   []ent{symlink("l", "/tmp"), file("l/evil", "x")},
			want: []string{"l -> /tmp", "tmp/", "tmp/evil - x"},
		},
		{
			name: "chain of symlinks climbing",
			in:   []ent{dir("d"), symlink("d/a", ".."), symlink("d/b", "a/.."), symlink("d/c", "b/../../out"), file("d/c/evil", "x")},
			want: []string{"d/", "d/a -> ..", "d/b -> a/..", "d/c -> b/../../out", "out/", "out/evil - x"},
		},
		{name: "symlink loop", in: []ent{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}, err: ErrFormat},
		{
			name: "file over symlink to victim",
			in:   []ent{symlink("l", "../../out/victim"), file("l", "mine")},
			want: []string{"l - mine"},
		},
		{
			name: "directory over symlink",
			in:   []ent{symlink("l", "../../out"), dir("l"), file("l/x", "x")},
			want: []string{"l/", "l/x - x"},
		},
		{
			name: "symlink over directory",
			in:   []ent{file("d/x", "x"), symlink("d", "../../out"), file("d/evil", "y")},
			want: []string{"d -> ../../out", "out/", "out/evil - y"},
		},
		{name: "hard link to outside", in: []ent{hard("h", "../../out/victim")}, err: ErrUnsafe},
		{name: "hard link through symlink", in: []ent{symlink("l", "../../out"), hard("h", "l/victim")}, err: ErrFormat},
		{
			name: "hard link to symlink, then write",
			in:   []ent{symlink("l", "../../out/victim"), hard("h", "l"), file("h", "mine")},
			want: []string{"h - mine", "l -> ../../out/victim"},
		},
		{name: "hard link to directory", in: []ent{dir("d"), hard("h", "d")}, err: ErrFormat},
		{name: "hard link to itself", in: []ent{file("f", "x"), hard("f", "f")}, want: []string{"f - x"}},
		{name: "hard link to itself alone", in: []ent{hard("f", "f")}, err: ErrFormat},
		{name: "hard link to nothing", in: []ent{hard("h", "no/such")}, err: ErrFormat},
		{
			name: "hard link forward", in: []ent{hard("h", "f"), hard("g", "h"), file("f", "x")},
			want: []string{"f - x", "g - x", "h - x"},
		},
		{name: "whiteout of parent", in: []ent{file("a/.wh...", "")}, err: ErrUnsafe},
		{name: "whiteout of itself", in: []ent{file("a/.wh..", "")}, err: ErrUnsafe},
		{name: "whiteout of nothing", in: []ent{file(".wh.", "")}, err: ErrUnsafe},
		{
			name: "AUFS bookkeeping", in: []ent{file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", "")},
			want: []string{".wh..wh.plnk/", ".wh..wh.plnk/1.2 -"},
		},
		{name: "root as file", in: []ent{file(".", "x")}, err: ErrUnsafe},
		{name: "root as symlink", in: []ent{symlink("./", "/tmp")}, err: ErrUnsafe},
		{name: "empty name", in: []ent{dir("/")}, want: nil},
		{name: "parent is a file", in: []ent{file("f", "x"), file("f/y", "y")}, err: ErrFormat},
		{
			name: "directory, file, symlink, directory",
			in:   []ent{file("p/a", "1"), file("p", "2"), symlink("p", "q"), dir("p"), file("p/b", "3")},
			want: []string{"p/", "p/b - 3"},
		},
		{name: "same file twice", in: []ent{file("f", "one"), file("f", big(2<<20)), file("f", "three")}, want: []string{"f - three"}},
		{name: "missing parents", in: []ent{file("a/b/c", "x")}, want: []string{"a/", "a/b/", "a/b/c - x"}},
		{name: "lying size", in: []ent{{name: "f", body: "x", size: 1 << 40}}, err: ErrLimit},
		{name: "size beyond the end", in: []ent{{name: "f", body: "x", size: 5000}}, err: ErrFormat},
		{name: "component too long", in: []ent{file(long, "x")}, err: syscall.ENAMETOOLONG},
		{name: "fifo and socket-like", in: []ent{{name: "p", kind: tar.TypeFifo}, {name: "s", kind: 'Z'}}, want: []string{"p p---------"}},
		{name: "overlay whiteout smuggled in", in: []ent{{name: "w", kind: tar.TypeChar}}, want: nil},
		{name: "device out of range", in: []ent{{name: "w", kind: tar.TypeChar, edit: func(h *tar.Header) { h.Devmajor = 1 << 20 }}}, err: ErrFormat},
		{name: "owner out of range", in: []ent{{name: "f", edit: func(h *tar.Header) { h.Uid = -1 }}}, err: ErrFormat},
		{name: "symlink target too long", in: []ent{symlink("l", strings.Repeat("x", 5000))}, err: ErrFormat},
		{name: "too many entries", in: many, err: ErrLimit},
		{name: "too deep", in: []ent{dir("a/b/c/d/e/f")}, err: ErrLimit},
		{name: "too deep by symlinks", in: []ent{symlink("l", "a/b/c/d"), symlink("a/b/c/d/m", "x/y/z"), file("l/m/f", "x")}, err: ErrLimit},
		{name: "name too long", in: []ent{file(strings.Repeat("a/", 32)+"f", "x")}, err: ErrLimit},
		{name: "too large together", in: []ent{file("a", big(700<<10)), file("b", big(700<<10))}, err: ErrLimit},
	}
	for _, tt := range tests {
		for _, walk := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/walk=%v", tt.name, walk), func(t *testing.T) {
				x := newTB(t)
				limits := DefaultLimits()
				if tt.err == ErrLimit {
					limits = small
				}
				x.walk = walk
				l, err := x.extractBytes(archive(t, tt.in...), limits)
				if err == nil {
					err = l.Settle()
				}
				x.outsideUntouched()
				if tt.err != nil {
					if !errors.Is(err, tt.err) {
						t.Fatalf("error %v, want %v", err, tt.err)
					}
					if e, ok := errors.AsType[*Error](err); !ok || strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
						t.Errorf("error is not one line of an *Error: %v (%T)", err, e)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := listing(t, l.Dir); !slices.Equal(got, tt.want) {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
			})
		}
	}
}

// TestTreeStaysInside: even with wrong bookkeeping the kernel calls do not leave.
func TestTreeStaysInside(t *testing.T) {
	for _, walk := range []bool{false, true} {
		x := newTB(t)
		if err := os.Symlink("../out", filepath.Join(x.root, "l")); err != nil {
			t.Fatal(err)
		}
		tr, err := openTree(x.root, walk)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.close()
		for _, p := range []string{"l/victim", "../out/victim", "l/../../out/victim", "/etc/passwd", "l"} {
			if fd, err := tr.open(p, unix.O_RDONLY, 0); err == nil {
				_ = unix.Close(fd)
				t.Errorf("walk=%v: opened %q", walk, p)
			}
			if p == "l" {
				continue
			}
			if err := tr.unlink(p); err == nil {
				t.Errorf("walk=%v: removed %q", walk, p)
			}
		}
		x.outsideUntouched()
	}
}

func TestMetadata(t *testing.T) {
	x := newTB(t)
	l := x.must(
		ent{name: "d", kind: tar.TypeDir, mode: 0o1555},
		ent{name: "d/f", body: "x", mode: 0o640},
		ent{name: "d/big", body: big(1_500_000), mode: 0o755},
		ent{name: "d/attr", body: "x", pax: map[string]string{
			"SCHILY.xattr.user.note":                "hello",
			"SCHILY.xattr.trusted.overlay.redirect": "/../../etc",
			"SCHILY.xattr.user.overlay.opaque":      "y",
		}},
		ent{name: "d/l", kind: tar.TypeSymlink, link: "f"},
		ent{name: "d/h", kind: tar.TypeLink, link: "d/f"},
	)
	check := func(name string, mode fs.FileMode) {
		fi, err := os.Lstat(filepath.Join(l.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != mode && fi.Mode().Type() != fs.ModeSymlink || !fi.ModTime().Equal(when) {
			t.Errorf("%s: mode %v time %v, want %v %v", name, fi.Mode(), fi.ModTime(), mode, when)
		}
	}
	check("d", fs.ModeDir|fs.ModeSticky|0o555)
	check("d/f", 0o640)
	check("d/big", 0o755)
	check("d/l", fs.ModeSymlink|0o777)
	a, _ := os.Stat(filepath.Join(l.Dir, "d/f"))
	b, _ := os.Stat(filepath.Join(l.Dir, "d/h"))
	if !os.SameFile(a, b) {
		t.Error("hard link is another file")
	}
	buf := make([]byte, 64)
	attr := filepath.Join(l.Dir, "d/attr")
	if n, err := unix.Getxattr(attr, "user.note", buf); err == nil && string(buf[:n]) != "hello" {
		t.Errorf("user.note = %q", buf[:n])
	} else if err != nil && err != unix.ENOTSUP {
		t.Error(err)
	}
	for _, name := range []string{"trusted.overlay.redirect", "user.overlay.opaque"} {
		if _, err := unix.Getxattr(attr, name, buf); err == nil {
			t.Errorf("%s was set", name)
		}
	}
	if len(Notes(l)) == 0 || !strings.Contains(Notes(l)[0].String(), "steers overlayfs") {
		t.Errorf("notes: %v", Notes(l))
	}
	if l.Entries != 6 || l.Files != 3 || l.Bytes != 1_500_002 {
		t.Errorf("counted %d entries, %d files, %d bytes", l.Entries, l.Files, l.Bytes)
	}
}

// TestManyFiles drives the writers from one archive of many sizes, with
// duplicates and links close to their targets.
func TestManyFiles(t *testing.T) {
	x := newTB(t)
	var in []ent
	want := map[string]string{}
	for i := range 600 {
		name := fmt.Sprintf("d%d/e%d/f%d", i%7, i%13, i%450)
		body := big((i * 7919) % 150_000)
		if i%97 == 0 {
			body = big(chunk + i)
		}
		in = append(in, file(name, body))
		want[name] = body
		if i%10 == 0 {
			in = append(in, hard(name+".hard", name))
			want[name+".hard"] = body
		}
	}
	l := x.must(in...)
	for name, body := range want {
		got, err := os.ReadFile(filepath.Join(l.Dir, name))
		if err != nil || string(got) != body {
			t.Fatalf("%s: %d bytes, %v; want %d bytes", name, len(got), err, len(body))
		}
	}
}

func TestCancelEndsWriters(t *testing.T) {
	x := newTB(t)
	ctx, cancel := context.WithCancel(t.Context())
	data := archive(t, file("a", big(2<<20)), file("b", "x"))
	r := readerFunc(func(p []byte) (int, error) {
		if len(data) < 1<<20 {
			cancel()
		}
		n := copy(p, data)
		data = data[n:]
		return n, nil
	})
	_, err := Extract(ctx, r, x.root, Options{Pool: x.pool, Meter: NewMeter(DefaultLimits())})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestStreamErrorPasses(t *testing.T) {
	x := newTB(t)
	broken := errors.New("the network is gone")
	data := archive(t, file("a", big(2<<20)))[:1<<20]
	r := readerFunc(func(p []byte) (int, error) {
		if len(data) == 0 {
			return 0, broken
		}
		n := copy(p, data)
		data = data[n:]
		return n, nil
	})
	_, err := Extract(t.Context(), r, x.root, Options{Pool: x.pool, Meter: NewMeter(DefaultLimits())})
	if !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Fatal(err)
	}
}
