package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The image's name on the origin.
const (
	repo = "bench/image"
	tag  = "latest"
)

// runPlain is the role of a contestant: it pulls once and prints one line.
func runPlain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("plain", flag.ContinueOnError)
	host := fs.String("registry", "", "host:port")
	dir := fs.String("dir", "", "where to leave the tree")
	if err := fs.Parse(args); err != nil {
		return err
	}
	_, err := pullPlain(ctx, *host, *dir)
	return err
}

// pullPlain pulls as a simple program would: one GET for each layer, one after
// the other, the standard library's gunzip and tar. It verifies no digest.
func pullPlain(ctx context.Context, host, dir string) (int64, error) {
	base := "http://" + host + "/v2/" + repo
	body, err := get(ctx, base+"/manifests/"+tag, ocispec.MediaTypeImageManifest)
	if err != nil {
		return 0, err
	}
	var m ocispec.Manifest
	err = json.NewDecoder(body).Decode(&m)
	body.Close()
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	var total int64
	for _, l := range m.Layers {
		if err := plainLayer(ctx, base+"/blobs/"+l.Digest.String(), dir); err != nil {
			return total, err
		}
		total += l.Size
	}
	return total, nil
}

func get(ctx context.Context, url, accept string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

func plainLayer(ctx context.Context, url, dir string) error {
	body, err := get(ctx, url, "*/*")
	if err != nil {
		return err
	}
	defer body.Close()
	zr, err := gzip.NewReader(body)
	if err != nil {
		return err
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := plainEntry(tr, h, dir); err != nil {
			return err
		}
	}
}

// plainEntry knows the kinds of entries that images of Debian packages have.
func plainEntry(tr io.Reader, h *tar.Header, dir string) error {
	name := filepath.Join(dir, filepath.FromSlash(h.Name))
	if name != dir && !strings.HasPrefix(name, dir+"/") {
		return fmt.Errorf("entry %q leaves the directory", h.Name)
	}
	parent, base := filepath.Split(name)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if base == opaque {
		return emptyDir(parent)
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		return os.RemoveAll(filepath.Join(parent, hidden))
	}
	mode := h.FileInfo().Mode()
	if mode.IsDir() {
		return os.MkdirAll(name, mode.Perm()|0o700)
	}
	if _, err := os.Lstat(name); err == nil { // an upper layer replaces it
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, filepath.FromSlash(h.Linkname)), name)
	case tar.TypeFifo:
		return mkfifo(name, uint32(mode.Perm()))
	case tar.TypeReg, tar.TypeGNUSparse:
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode.Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, tr)
		return errors.Join(err, f.Close())
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
