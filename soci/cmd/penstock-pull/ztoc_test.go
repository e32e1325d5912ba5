package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci/internal/indexdir"
	"github.com/penstock/penstock/soci/internal/inflate"
)

// TestZtoc exports the index that a pull has recorded, and one that the command
// makes itself, and decodes the layer by both.
func TestZtoc(t *testing.T) {
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.AddFS(os.DirFS(filepath.Join(goroot(t), "src", "cmd", "compile"))); err != nil { // layers below 16 MiB get no index
		t.Skip("needs the Go source tree: ", err)
	}
	w.Close()
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	z.Write(plain.Bytes())
	z.Close()
	dir := t.TempDir()
	blob := filepath.Join(dir, "blob")
	indexes := filepath.Join(dir, "indexes")
	if err := os.WriteFile(blob, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(indexes, 0o755); err != nil {
		t.Fatal(err)
	}
	learn(t, dir, indexes, packed.Bytes())
	learned := filepath.Join(indexes, indexdir.Name(digest.FromBytes(packed.Bytes())))
	if _, err := os.Lstat(learned); err != nil {
		t.Fatal(err)
	}
	for _, tt := range [][]string{{"--indexes", indexes}, {"--version", "1"}, {"--version", "2"}} {
		out := filepath.Join(t.TempDir(), "ztoc")
		stdout := ztocOf(t, 0, append(tt, "--out", out, blob)...)
		if !strings.Contains(stdout, digest.FromBytes(plain.Bytes()).String()) {
			t.Error(stdout)
		}
		// This checks the result of a second export; package ztoc tests that Marshal writes all of it.
		c, err := parseZtoc(append(tt, "--out", out+".again", blob), cli.Streams{Out: io.Discard, Err: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.export(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(c.out)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := got.Marshal(c.version); err != nil || !bytes.Equal(data, want) {
			t.Errorf("%v: the file is not the zTOC that was exported: %v", tt, err)
		}
		if len(got.Index.Points) < 3 || len(got.Files) < 500 || got.Size != int64(packed.Len()) || got.Out != int64(plain.Len()) {
			t.Errorf("%v: %d points, %d files, %d and %d bytes", tt, len(got.Index.Points), len(got.Files), got.Size, got.Out)
		}
		r, err := inflate.NewReader(bytes.NewReader(packed.Bytes()), inflate.Options{Index: got.Index, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(all, plain.Bytes()) || r.IndexWrong() {
			t.Errorf("%v: %d bytes, %v", tt, len(all), err)
		}
		r.Close()
	}

	out, notGzip := filepath.Join(dir, "ztoc"), filepath.Join(dir, "plain")
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(notGzip, plain.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, packed.Bytes()[:packed.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		say  string
	}{
		{nil, 2, "--out FILE"},
		{[]string{"--out", out}, 2, "one file"},
		{[]string{"--out", out, "--version", "3", blob}, 2, "version 3"},
		{[]string{"--out", out, filepath.Join(dir, "none")}, 1, "no such file"},
		{[]string{"--out", out, notGzip}, 1, "compressed by none"},
		{[]string{"--out", out, cut}, 1, "unexpected EOF"},
		{[]string{"--out", blob, blob}, 1, "exists"},
	} {
		if text := ztocOf(t, tt.code, tt.args...); !strings.Contains(text, tt.say) || strings.Count(text, "\n") != 1 {
			t.Errorf("%q: %q, want %q", tt.args, text, tt.say)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%q left a file", tt.args)
		}
	}
}

// learn pulls an image of one layer, which records its index.
func learn(t *testing.T, dir, indexes string, blob []byte) {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(o.Host() + "/x:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "--root", filepath.Join(dir, "root"), "--indexes", indexes, ref.Name()); code != 0 {
		t.Fatal(code, stderr)
	}
}

// ztocOf runs the command, checks its exit code, and returns the output and errors.
func ztocOf(t *testing.T, want int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"ztoc"}, args...), &stdout, &stderr); code != want {
		t.Errorf("%q: exit %d, %s", args, code, stderr.String())
	}
	return stdout.String() + stderr.String()
}
