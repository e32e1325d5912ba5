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
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/soci"
)

// The image's name on the origin.
const (
	repo = "bench/go"
	tag  = "latest"
)

// puller leaves the image in dir and returns the compressed bytes.
type puller func(ctx context.Context, host, dir string) (int64, error)

// runPuller is the role of a contestant: it pulls once and prints one line.
func runPuller(ctx context.Context, args []string, pull puller) error {
	fs := flag.NewFlagSet("pull", flag.ContinueOnError)
	host := fs.String("registry", "", "host:port")
	dir := fs.String("dir", "", "where to leave the tree")
	if err := fs.Parse(args); err != nil {
		return err
	}
	start := time.Now()
	n, err := pull(ctx, *host, *dir)
	r := bench.Report{Bytes: n, Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	if err != nil {
		r.Outcome, r.Error = bench.OutcomeError, err.Error()
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, r))
}

func pullOurs(ctx context.Context, host, dir string) (int64, error) {
	p, err := soci.New(soci.Options{HostsDir: "none"})
	if err != nil {
		return 0, err
	}
	res, err := p.Pull(ctx, host+"/"+repo+":"+tag, dir)
	if err := errors.Join(err, p.Close()); err != nil {
		return 0, err
	}
	return res.CompressedBytes, nil
}

// pullPlain is what a simple program does: one GET for each layer, one after
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

// plainEntry knows the kinds of entries that our own image has.
func plainEntry(tr io.Reader, h *tar.Header, dir string) error {
	name := filepath.Join(dir, filepath.FromSlash(h.Name))
	if !strings.HasPrefix(name, dir) {
		return fmt.Errorf("entry %q leaves the directory", h.Name)
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(name, mode.Perm()|0o700)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode.Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, tr)
		return errors.Join(err, f.Close())
	}
	return nil
}
