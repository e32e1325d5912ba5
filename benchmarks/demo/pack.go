package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// image is the packed layers on disk.
type image struct{ layers []bench.Layer }

func (i *image) compressed() (n int64) {
	for _, l := range i.layers {
		n += l.Size
	}
	return n
}

// split returns the layer to which an entry of the tree belongs. As in real images,
// there are a few layers of very unequal size.
func split(rel string) int {
	switch {
	case rel == "pkg" || strings.HasPrefix(rel, "pkg/") || rel == "bin" || strings.HasPrefix(rel, "bin/"):
		return 0
	case strings.HasPrefix(rel, "src/cmd/"):
		return 1
	case strings.HasPrefix(rel, "src/"):
		return 2
	}
	return 3
}

const layerCount = 4

// pack writes the input as gzip layers into dir, several at once.
func pack(ctx context.Context, env *environment, dir string, j *job) (*image, error) {
	img := &image{layers: make([]bench.Layer, layerCount)}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range layerCount {
		g.Go(func() error {
			var err error
			img.layers[i], err = packLayer(ctx, env.source, filepath.Join(dir, fmt.Sprintf("layer%d.tar.gz", i)), i, j)
			return err
		})
	}
	return img, g.Wait()
}

func packLayer(ctx context.Context, root, out string, which int, j *job) (bench.Layer, error) {
	f, err := os.Create(out)
	if err != nil {
		return bench.Layer{}, err
	}
	defer f.Close()
	blob, diff := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, blob))
	tw := tar.NewWriter(io.MultiWriter(zw, diff))
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel == "." || (split(rel) != which && !d.IsDir()) || (d.IsDir() && split(rel) != which && !parentOf(rel, which)) {
			return nil
		}
		return packEntry(tw, p, rel, d, j)
	})
	if err := errors.Join(err, tw.Close(), zw.Close()); err != nil {
		return bench.Layer{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return bench.Layer{}, err
	}
	return bench.Layer{Path: out, Digest: digest.NewDigest(digest.SHA256, blob), DiffID: digest.NewDigest(digest.SHA256, diff), Size: st.Size()}, f.Close()
}

// parentOf reports whether entries of the layer lie below the folder.
func parentOf(rel string, which int) bool {
	return rel == "src" && (which == 1 || which == 2) || rel == "src/cmd" && which == 1
}

func packEntry(tw *tar.Writer, p, rel string, d fs.DirEntry, j *job) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = rel, tar.FormatPAX
	if d.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(tw, f)
	j.add(n)
	return err
}
