package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// image is an image in files, as a registry serves it.
type image struct {
	layers []bench.Layer
	volume volume // of all layers
	tree   tree
}

// load computes the volume of the image and the tree that a pull must produce.
func (img *image) load() error {
	img.tree, img.volume = tree{}, volume{}
	for _, l := range img.layers {
		v, err := img.tree.apply(l.Path)
		if err != nil {
			return err
		}
		img.volume.tar += v.tar
		img.volume.blocks += v.blocks
		img.volume.entries += v.entries
	}
	return nil
}

// compressed is the size of all layers.
func (img *image) compressed() (n int64) {
	for _, l := range img.layers {
		n += l.Size
	}
	return n
}

// full is the least that a client can write: the archive's bytes, or the blocks of
// its files where those are more.
func (img *image) full() int64 { return max(img.volume.tar, img.volume.blocks) }

// readLayout reads the first image of an OCI image layout. Its layers must be gzip.
func readLayout(dir string) (*image, error) {
	var index ocispec.Index
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout: %w", dir, err)
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("%s: the index names no image", dir)
	}
	at := func(d digest.Digest) string { return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()) }
	var m ocispec.Manifest
	var cfg ocispec.Image
	d := index.Manifests[0].Digest
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := readJSON(at(d), &m); err != nil {
		return nil, err
	}
	if err := m.Config.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%s: config: %w", dir, err)
	}
	if err := readJSON(at(m.Config.Digest), &cfg); err != nil {
		return nil, err
	}
	if len(m.Layers) == 0 || len(m.Layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%s: %d layers and %d DiffIDs: give the layout of one image", dir, len(m.Layers), len(cfg.RootFS.DiffIDs))
	}
	img := &image{}
	for i, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%s: layer %d: %w", dir, i, err)
		}
		img.layers = append(img.layers, bench.Layer{Path: at(l.Digest), Digest: l.Digest, DiffID: cfg.RootFS.DiffIDs[i], Size: l.Size})
	}
	return img, img.load()
}

func readJSON(name string, into any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return errors.Join(fmt.Errorf("%s is not JSON", name), err)
	}
	return nil
}
