package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
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
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/internal/testorigin"
)

// layer is one packed layer on disk.
type layer struct {
	path   string
	digest digest.Digest // of the compressed bytes
	diffID digest.Digest
	size   int64
}

type image struct{ layers []layer }

func (i *image) compressed() (n int64) {
	for _, l := range i.layers {
		n += l.size
	}
	return n
}

// split says which layer an entry of the tree belongs to: like real images, a
// few layers of very unequal size.
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
	img := &image{layers: make([]layer, layerCount)}
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

func packLayer(ctx context.Context, root, out string, which int, j *job) (layer, error) {
	f, err := os.Create(out)
	if err != nil {
		return layer{}, err
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
		return layer{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return layer{}, err
	}
	return layer{out, digest.NewDigest(digest.SHA256, blob), digest.NewDigest(digest.SHA256, diff), st.Size()}, f.Close()
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

// push puts the image into the origin's registry; blobs stay where they are.
func (i *image) push(o *testorigin.Origin) error {
	var cfg ocispec.Image
	cfg.OS, cfg.Architecture = runtime.GOOS, runtime.GOARCH
	cfg.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range i.layers {
		if _, err := o.PutBlobFile("demo/go", l.path, l.digest); err != nil {
			return err
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.diffID)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: l.digest, Size: l.size})
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: o.PutBlob("demo/go", config), Size: int64(len(config))}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = o.PutManifest("demo/go", "latest", ocispec.MediaTypeImageManifest, body)
	return err
}
