package untar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entryTime is the default time of entries.
var entryTime = time.Unix(1_700_000_000, 123_456_789)

// ent is one entry of a test archive.
type ent struct {
	name string
	kind byte // tar type; 0 is a regular file
	body string
	link string
	mode int64 // 0 means 0644, or 0755 for directories
	size int64 // the size in the header, if it is wrong
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
		ModTime: entryTime, Uid: os.Geteuid(), Gid: os.Getegid(), PAXRecords: e.pax, Format: tar.FormatPAX,
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

// archive returns an archive of entries. If a header states a larger size than
// its body, the body stays short.
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
		_ = w.Flush() // fails if the stated size is wrong, as intended
		out.Write(one.Bytes())
	}
	out.Write(make([]byte, 1024))
	return out.Bytes()
}

// newMeter returns a meter at zero whose memory has no limit.
func newMeter(l Limits) *Meter { return NewMemory(-1, nil).Meter(l) }

type tb struct {
	testing.TB
	pool *Pool
	root string // holds the layers; the rest of the directory of the test is outside
	base string
	n    int
	walk bool
	// blocks, unless zero, is the size of the blocks of the archive.
	blocks int
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
	var r io.Reader = bytes.NewReader(data)
	if x.blocks > 0 {
		blocks := &tartest.Blocks{Data: data, Size: x.blocks}
		defer func() {
			if out := blocks.Held(); out != 0 {
				x.Errorf("%d blocks were not given back", out)
			}
		}()
		r = blocks
	}
	return Extract(x.Context(), r, dir, Options{Pool: x.pool, Meter: newMeter(limits), walk: x.walk})
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

// outsideUntouched fails the test if a file outside of the layers has changed.
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

func bigContent(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

// TestTreeStaysInside checks that the system calls cannot leave the tree, even
// if the bookkeeping is wrong.
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
		ent{name: "d/big", body: bigContent(1_500_000), mode: 0o755},
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
		if fi.Mode() != mode && fi.Mode().Type() != fs.ModeSymlink || !fi.ModTime().Equal(entryTime) {
			t.Errorf("%s: mode %v time %v, want %v %v", name, fi.Mode(), fi.ModTime(), mode, entryTime)
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

// TestManyFiles extracts an archive with files of many sizes, with duplicates,
// and with links close to their targets.
func TestManyFiles(t *testing.T) {
	x := newTB(t)
	var in []ent
	want := map[string]string{}
	for i := range 600 {
		name := fmt.Sprintf("d%d/e%d/f%d", i%7, i%13, i%450)
		body := bigContent((i * 7919) % 150_000)
		if i%97 == 0 {
			body = bigContent(bufferBytes + i)
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
	data := archive(t, file("a", bigContent(2<<20)), file("b", "x"))
	r := readerFunc(func(p []byte) (int, error) {
		if len(data) < 1<<20 {
			cancel()
		}
		n := copy(p, data)
		data = data[n:]
		return n, nil
	})
	_, err := Extract(ctx, r, x.root, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestStreamErrorPasses(t *testing.T) {
	x := newTB(t)
	broken := errors.New("the network is gone")
	data := archive(t, file("a", bigContent(2<<20)))[:1<<20]
	r := readerFunc(func(p []byte) (int, error) {
		if len(data) == 0 {
			return 0, broken
		}
		n := copy(p, data)
		data = data[n:]
		return n, nil
	})
	_, err := Extract(t.Context(), r, x.root, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
	if !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Fatal(err)
	}
}

// TestHardLinkKeepsItsFile checks that the mode in the entry of a hard link is
// not set, as in GNU tar, because the file has an entry of its own.
func TestHardLinkKeepsItsFile(t *testing.T) {
	x := newTB(t)
	h := hard("h", "f")
	h.mode = 0o777
	l := x.must(ent{name: "f", body: "1", mode: 0o600}, h)
	fi, err := os.Lstat(filepath.Join(l.Dir, "h"))
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
}
