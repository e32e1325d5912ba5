package soci_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/indexdir"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// indexed is a registry with a layer of several spans, and a directory for its
// index.
type indexed struct {
	o         *testorigin.Origin
	ref, blob string
	dir, file string
}

func newIndexed(t *testing.T) *indexed {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: a layer cannot be unpacked elsewhere")
	}
	x := &indexed{o: origin(t, testorigin.Options{}), dir: t.TempDir()}
	l := gzLayer(goTree(t, "cmd/compile"))
	h, _ := l.Digest()
	x.blob = h.String()
	x.ref = push(t, x.o, "go/compile:1", image(t, here, l))
	x.file = filepath.Join(x.dir, indexdir.Name(digest.Digest(x.blob)))
	return x
}

// pull pulls the image and compares the tree. It returns the requests and bytes
// that the layer cost the registry, and the number of repeated requests.
func (x *indexed) pull(t *testing.T, indexDir string) (requests, sent, extra int64) {
	t.Helper()
	x.o.Reset()
	dir, clean := target(t)
	p := puller(t, func(o *soci.Options) { o.IndexDir, o.Memory = indexDir, 128<<20 })
	res, err := p.Pull(t.Context(), x.ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := sameTree(t, "cmd/compile", filepath.Join(dir, "go", "cmd", "compile")); n < 500 {
		t.Fatalf("only %d files", n)
	}
	clean("root")
	c := x.o.Count("GetBlob", "go/compile@"+x.blob)
	return c.Requests, c.Bytes, res.Network.Hedges + res.Network.Retries
}

// inode distinguishes a file from another one written in its place.
func inode(t *testing.T, name string) os.FileInfo {
	t.Helper()
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

// TestIndexDir checks that a pull leaves an index and that the next one uses
// it, with the same requests to the registry.
func TestIndexDir(t *testing.T) {
	x := newIndexed(t)
	requests, sent, extra := x.pull(t, "")
	for range 2 {
		first, err := os.Stat(x.file)
		// On a busy machine late answers are requested twice.
		if n, s, e := x.pull(t, x.dir); extra+e == 0 && (n != requests || s != sent) {
			t.Errorf("%d requests, %d bytes; without indexes %d, %d", n, s, requests, sent)
		}
		if err == nil && !os.SameFile(first, inode(t, x.file)) {
			t.Error("a valid index was replaced")
		}
	}
	if size := inode(t, x.file).Size(); size > sent/50 {
		t.Errorf("the index has %d bytes, the layer %d", size, sent)
	}
	idx := load(t, x.file)
	if idx.Digest != x.blob || idx.Size < 1<<20 || len(idx.Points) < 2 {
		t.Errorf("%+v with %d points", idx.Blob, len(idx.Points))
	}
	names, _ := os.ReadDir(x.dir)
	if len(names) != 1 {
		t.Errorf("%d files in the directory of indexes", len(names))
	}
}

func load(t *testing.T, name string) *index.Index {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := index.Load(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return idx
}

// TestIndexHostile checks that the tree is right with any file in place of an
// index, and that the file is afterwards gone or valid.
func TestIndexHostile(t *testing.T) {
	x := newIndexed(t)
	x.pull(t, x.dir)
	good, err := os.ReadFile(x.file)
	if err != nil {
		t.Fatal(err)
	}
	diffID := load(t, x.file).DiffID
	saved := func(edit func(*index.Index)) []byte {
		idx, err := index.Load(bytes.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		edit(idx)
		var out bytes.Buffer
		if err := idx.Save(&out); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	nextVersion := bytes.Clone(good)
	nextVersion[7]++
	lastBlock := func(idx *index.Index) *index.Point { return &idx.Points[len(idx.Points)-1] }
	for name, tt := range map[string]struct {
		data []byte
		// Only decoding detects a wrong offset. The file is removed, and the
		// next pull records a new one.
		lies bool
	}{
		"empty":         {nil, false},
		"truncated":     {good[:len(good)-40], false},
		"a bit flipped": {flipped, false},
		"other version": {nextVersion, false},
		"too large":     {append(bytes.Clone(good), make([]byte, 4<<20)...), false},
		"other layer":   {saved(func(i *index.Index) { i.Digest = digest.FromString("other").String() }), false},
		"other DiffID":  {saved(func(i *index.Index) { i.DiffID = digest.FromString("other").String() }), false},
		"wrong history": {saved(func(i *index.Index) {
			lastBlock(i).Window = index.NewWindow(bytes.Repeat([]byte("hostile "), 4096), nil)
		}), true},
		"wrong place": {saved(func(i *index.Index) { lastBlock(i).Bits += 3 }), true},
	} {
		if err := os.WriteFile(x.file, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		x.pull(t, x.dir)
		if _, err := os.Stat(x.file); tt.lies && runtime.GOMAXPROCS(0) > 1 {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: the file is still there: %v", name, err)
			}
			x.pull(t, x.dir)
		}
		// The offsets of points depend on the number of cores that decode.
		if idx := load(t, x.file); idx.Digest != x.blob || idx.DiffID != diffID {
			t.Errorf("%s: there is an index of another layer now: %+v", name, idx.Blob)
		}
		if now, _ := os.ReadFile(x.file); bytes.Equal(now, tt.data) && runtime.GOMAXPROCS(0) > 1 {
			t.Errorf("%s: it is still there", name)
		}
	}
}

// TestIndexDirGone checks that a pull succeeds without write access to the
// directory.
func TestIndexDirGone(t *testing.T) {
	x := newIndexed(t)
	x.dir = filepath.Join(x.dir, "gone")
	if err := os.Mkdir(x.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, _ := target(t)
	p := puller(t, func(o *soci.Options) { o.IndexDir = x.dir })
	if err := os.Remove(x.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Pull(t.Context(), x.ref, dir); err != nil {
		t.Error(err)
	}
	if err := (soci.Options{IndexDir: x.dir}).Validate(); err == nil || !strings.Contains(err.Error(), "create it first") {
		t.Error(err)
	}
}
