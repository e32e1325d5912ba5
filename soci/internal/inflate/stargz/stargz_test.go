package stargz

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/penstock/penstock/soci/internal/inflate"
)

// build makes an eStargz layer with the reference implementation.
func build(t testing.TB, files int) []byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(runtime.GOROOT(), "src", "net", "http", "*.go"))
	if err != nil || len(names) == 0 {
		t.Skip("needs the Go source tree: ", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names[:min(files, len(names))] {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Base(name), Typeflag: tar.TypeReg, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blob, err := estargz.Build(io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len())), estargz.WithChunkSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestIndex(t *testing.T) {
	blob := build(t, 1000)
	x, err := Index(bytes.NewReader(blob), int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	read := func(opts inflate.Options) []byte {
		r, err := inflate.NewReader(bytes.NewReader(blob), opts)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if !bytes.Equal(read(inflate.Options{Index: x, Workers: 3}), read(inflate.Options{})) {
		t.Error("not the bytes of the serial decoder")
	}
	if last := x.Points[len(x.Points)-1].Bits / 8; len(blob) > 2*span && (len(x.Points) < 2 || last >= int64(len(blob))) {
		t.Errorf("%d points up to %d of %d bytes", len(x.Points), last, len(blob))
	}
}

func TestRefused(t *testing.T) {
	blob := build(t, 3)
	for _, n := range []int{0, 10, 100, len(blob) - 1} {
		if _, err := Index(bytes.NewReader(blob[:n]), int64(n)); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, err := Index(bytes.NewReader(blob[1:]), int64(len(blob)-1)); !errors.Is(err, ErrFormat) {
		t.Errorf("shifted: %v", err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(build(f, 2))
	f.Fuzz(func(t *testing.T, blob []byte) {
		x, err := Index(bytes.NewReader(blob), int64(len(blob)))
		if err == nil {
			err = x.Check()
		}
		if err != nil && !errors.Is(err, ErrFormat) && x != nil {
			t.Error(err)
		}
	})
}
