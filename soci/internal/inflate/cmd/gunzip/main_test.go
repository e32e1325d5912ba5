package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// TestIndex writes an index and loads it.
func TestIndex(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "src", "net", "http", "server.go"))
	if err != nil {
		t.Skip("needs the Go source tree: ", err)
	}
	dir := t.TempDir()
	layer, idx := filepath.Join(dir, "layer.gz"), filepath.Join(dir, "layer.idx")
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	for range 10 {
		_, _ = w.Write(src)
	}
	_ = w.Close()
	if err := os.WriteFile(layer, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, j := range []job{{file: layer, write: idx, span: 100 << 10}, {file: layer, workers: 2}} {
		if n, err := j.decode(); err != nil || n != int64(10*len(src)) {
			t.Errorf("%+v: %d bytes, %v; want %d", j, n, err, 10*len(src))
		}
	}
	f, err := os.Open(idx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if x, err := index.Load(f); err != nil || x.Size != int64(b.Len()) || x.Out != int64(10*len(src)) || len(x.Points) < 3 {
		t.Errorf("the index that was written: %+v, %v", x, err)
	}
	var out, errs bytes.Buffer
	if code := (job{file: layer, write: dir}).main(&out, &errs); code != 1 || !strings.Contains(out.String(), "is a directory") {
		t.Errorf("an index that cannot be written: exit %d, %s", code, out.String())
	}
	if n, err := os.ReadDir(dir); err != nil || len(n) != 2 {
		t.Errorf("%v, %v", n, err)
	}
}
