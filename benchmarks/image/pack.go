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

	"github.com/penstock/penstock/internal/testorigin"
)

// parts of the Go tree, one for each layer: one large, some small, as in real
// images. A quick image has the last one only.
var parts = [][]string{{"pkg", "bin"}, {"src/cmd"}, {"src"}, {"api", "lib"}}

// image is a packed image on disk.
type image struct {
	root     string   // what was packed
	paths    []string // relative to root, in order; the reference of the comparison
	layers   []layer
	tarBytes int64
}

type layer struct {
	path           string
	digest, diffID digest.Digest
	size           int64
}

// pack writes the layers into dir.
func pack(ctx context.Context, root, dir string, parts [][]string) (*image, error) {
	img := &image{root: root}
	seen := map[string]bool{} // a path belongs to the first layer that has it
	for i, tops := range parts {
		l, err := img.packLayer(ctx, filepath.Join(dir, fmt.Sprintf("layer%d.tar.gz", i)), tops, seen)
		if err != nil {
			return nil, err
		}
		img.layers = append(img.layers, l)
	}
	return img, nil
}

func (img *image) packLayer(ctx context.Context, out string, tops []string, seen map[string]bool) (layer, error) {
	f, err := os.Create(out)
	if err != nil {
		return layer{}, err
	}
	defer f.Close()
	blob, diff := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, blob))
	count := &counter{}
	tw := tar.NewWriter(io.MultiWriter(zw, diff, count))
	for _, top := range tops {
		if parent := filepath.Dir(top); parent != "." && !seen[parent] {
			// The parent's own entry comes with its contents, in another layer.
			if err := img.add(tw, parent); err != nil {
				return layer{}, err
			}
			seen[parent] = true
		}
		err := filepath.WalkDir(filepath.Join(img.root, top), func(p string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(img.root, p)
			if err != nil || seen[rel] {
				return err
			}
			seen[rel] = true
			return errors.Join(ctx.Err(), img.add(tw, rel))
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // not every Go tree has every folder
		}
		if err != nil {
			return layer{}, err
		}
	}
	if err := errors.Join(tw.Close(), zw.Close(), f.Close()); err != nil {
		return layer{}, err
	}
	st, err := os.Stat(out)
	if err != nil {
		return layer{}, err
	}
	img.tarBytes += count.n
	return layer{out, digest.NewDigest(digest.SHA256, blob), digest.NewDigest(digest.SHA256, diff), st.Size()}, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// add writes one entry of the tree.
func (img *image) add(tw *tar.Writer, rel string) error {
	p := filepath.Join(img.root, rel)
	info, err := os.Lstat(p)
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
	h.Name, h.Format = filepath.ToSlash(rel), tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	img.paths = append(img.paths, rel)
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

// compressed is the size of all layers.
func (img *image) compressed() (n int64) {
	for _, l := range img.layers {
		n += l.size
	}
	return n
}

// push puts the image into the origin's registry; the blobs stay where they are.
func (img *image) push(o *testorigin.Origin) error {
	var cfg ocispec.Image
	cfg.OS, cfg.Architecture = runtime.GOOS, runtime.GOARCH
	cfg.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range img.layers {
		if _, err := o.PutBlobFile(repo, l.path, l.digest); err != nil {
			return err
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.diffID)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: l.digest, Size: l.size})
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: o.PutBlob(repo, config), Size: int64(len(config))}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = o.PutManifest(repo, tag, ocispec.MediaTypeImageManifest, body)
	return err
}

// compare says what differs between the tree that was packed and dir; "" if
// nothing does.
func (img *image) compare(dir string) string {
	for _, rel := range img.paths {
		if d := differs(filepath.Join(img.root, rel), filepath.Join(dir, rel)); d != "" {
			return rel + ": " + d
		}
	}
	n := 0
	err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
		n++
		return err
	})
	if err != nil {
		return err.Error()
	}
	if n-1 != len(img.paths) { // without dir itself
		return fmt.Sprintf("%d entries instead of %d", n-1, len(img.paths))
	}
	return ""
}

func differs(want, got string) string {
	a, err := os.Lstat(want)
	if err != nil {
		return err.Error()
	}
	b, err := os.Lstat(got)
	if err != nil {
		return err.Error()
	}
	if a.Mode().Type() != b.Mode().Type() {
		return fmt.Sprintf("%v instead of %v", b.Mode(), a.Mode())
	}
	if !a.Mode().IsRegular() {
		return ""
	}
	if a.Size() != b.Size() {
		return fmt.Sprintf("%d bytes instead of %d", b.Size(), a.Size())
	}
	x, err := os.ReadFile(want)
	if err != nil {
		return err.Error()
	}
	y, err := os.ReadFile(got)
	if err != nil {
		return err.Error()
	}
	if strings.Compare(string(x), string(y)) != 0 {
		return "other content"
	}
	return ""
}
