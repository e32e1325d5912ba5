package soci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Image is a resolved image: its layers with their digests. [Puller.Resolve]
// returns it. It does not change afterwards and is safe for concurrent use.
type Image struct {
	Reference string          // as requested, in full form
	Manifest  string          // digest of the platform's manifest
	Platform  string          // as stated in the config
	Config    ocispec.Image   // environment, entry point, history
	RawConfig json.RawMessage // the verified bytes of Config
	Layers    []ImageLayer    // lowest first
	Warnings  []string        // harmless oddities

	ref   registry.Reference
	img   *registry.Image
	meter *untar.Meter // shared by all layers, because the limits apply to the image
}

// ImageLayer is one layer of a manifest.
type ImageLayer struct {
	Digest    string // of the blob
	DiffID    string // of the tar inside
	MediaType string
	Size      int64 // bytes of the blob
}

// Resolve finds the manifest of ref for the Puller's platform and reads its
// config. Both are checked against their digests. It fetches no layer.
func (p *Puller) Resolve(ctx context.Context, ref string) (_ *Image, err error) {
	defer recoverPull(&err)
	r, err := registry.ParseReference(ref)
	if err != nil {
		return nil, &Error{Op: "parse", Err: err}
	}
	img, err := p.client.Resolve(ctx, p.engine, r, p.platform)
	if err != nil {
		return nil, fail(ctx, "resolve", r, r.Digest.String(), err)
	}
	out := &Image{
		Reference: r.String(),
		Manifest:  img.Manifest.Digest.String(),
		Platform:  platforms.Format(img.Platform),
		Config:    img.Config,
		RawConfig: img.RawConfig,
		Warnings:  img.Notes,
		ref:       r,
		img:       img,
		meter:     p.names.Meter(p.opts.Limits.untar()),
	}
	for _, l := range img.Layers {
		out.Layers = append(out.Layers, ImageLayer{
			Digest: l.Digest.String(), DiffID: l.DiffID.String(), MediaType: l.MediaType, Size: l.Size,
		})
	}
	return out, nil
}

// UnpackOptions configure [Puller.UnpackLayer]. The zero value suits a lowest
// layer.
type UnpackOptions struct {
	// Lower returns the directories of the layers below, nearest first, in
	// overlay form, or nil for a lowest layer. It is called once, when the
	// layer has been extracted and verified, and may wait for the lower layers,
	// so layers can be extracted concurrently and in any order.
	Lower func(ctx context.Context) ([]string, error)
	// UserXattr marks opaque directories for mounts with the userxattr option,
	// and expects that form in lower directories. It is implied unless running
	// as root.
	UserXattr bool
	// Notify, if set, receives the bytes received (compressed) and inflated
	// (tar). A call may block to limit the rate. It is called from several
	// goroutines.
	Notify func(compressed, tar int64)
	// Watch, if set, receives a function when the fetch starts. The function
	// returns the bytes of the blob that have arrived so far, including
	// incomplete requests, and whether the layer is waiting for more. If the
	// fetch restarts, Watch receives a new function, which counts from zero.
	Watch func(flow func() (arrived int64, waiting bool))
	// Checkpoint names a file, on the file system of dir, that records the
	// progress of the layer. After a kill, a cancellation or a network failure,
	// dir and the file stay, and the next UnpackLayer with both resumes from
	// them. After a reboot the file is ignored and the layer restarts.
	// UnpackLayer removes the file when it succeeds. The file must be writable
	// only by users that may write to dir. Without a Checkpoint a failed
	// UnpackLayer removes dir.
	Checkpoint string
	// Resumed, if set, receives the bytes received and inflated by an earlier
	// UnpackLayer that this one resumes.
	Resumed func(compressed, tar int64)
}

// UnpackedLayer is a verified layer in a directory of its own.
type UnpackedLayer struct {
	Layer

	DiskBytes int64    `json:"disk_bytes"` // blocks of the file system times their size
	Inodes    int64    `json:"inodes"`
	Warnings  []string `json:"warnings,omitempty"` // attributes that could not be set
}

// UnpackLayer fetches layer i of an image into dir, in the form that overlayfs
// takes as lowerdir. The parent of dir must exist; dir must not, unless the
// options name an existing Checkpoint. If it returns nil, both digests and the
// size are verified. If it fails, dir does not exist, or holds the state that
// the Checkpoint describes.
//
// The caller bounds the number of concurrent calls: each takes
// Memory/Parallelism of the options. The limits apply to all layers of one
// Image together.
func (p *Puller) UnpackLayer(ctx context.Context, img *Image, i int, dir string, opts UnpackOptions) (_ *UnpackedLayer, err error) {
	defer recoverPull(&err)
	if i < 0 || i >= len(img.Layers) {
		return nil, &Error{Op: "layer", Registry: img.ref.Host, Repository: img.ref.Repository, Err: fmt.Errorf("there is no layer %d: the image has %d", i, len(img.Layers))}
	}
	desc := img.img.Layers[i]
	wrap := func(op string, err error) error { return fail(ctx, op, img.ref, desc.Digest.String(), err) }
	var file *checkpoint.File
	if opts.Checkpoint != "" {
		file = checkpoint.NewFile(opts.Checkpoint, p.opts.CheckpointBytes, p.opts.maxState())
	}
	found, layer, err := prepareDir(file, dir, desc)
	if err != nil {
		return nil, wrap("target", err)
	}
	defer func() {
		if err == nil || file.Exists() {
			return
		}
		if rerr := untar.RemoveAll(dir); rerr != nil {
			err = wrap("clean up", fmt.Errorf("%w; %w in %s: %w", err, ErrLeft, dir, rerr))
		}
	}()
	if opts.Notify == nil {
		opts.Notify = ignoreBytes
	}
	if opts.Resumed == nil {
		opts.Resumed = ignoreBytes
	}
	out := &UnpackedLayer{}
	if layer != nil {
		out.Layer = *found
		out.Timing, out.Resumed = Timing{}, true
		img.meter.Resume(layer)
		opts.Resumed(out.CompressedBytes, out.TarBytes)
	} else {
		if out, layer, err = p.extract(ctx, img, desc, dir, file, opts); err != nil {
			return nil, wrap("layer", err)
		}
		if err := file.Finish(desc, &out.Layer, layer); err != nil { // the layer is whole; only a later attempt fetches more
			p.opts.Log.Debug("no checkpoint", "digest", out.Digest, "err", err)
			file.Drop()
		}
	}
	defer layer.Release()
	if err := overlay(ctx, layer, file, opts); err != nil {
		return nil, wrap("merge", err)
	}
	if p.opts.Sync {
		if err := untar.SyncFS(dir); err != nil {
			return nil, wrap("target", err)
		}
	}
	out.Dir = dir
	u := layer.Usage()
	out.DiskBytes, out.Inodes = u.Bytes, u.Inodes
	for _, n := range untar.Notes(layer) {
		out.Warnings = append(out.Warnings, n.String())
	}
	return out, nil
}

// prepareDir creates the directory of a layer, unless an earlier attempt has
// left one that can be resumed. If that attempt had finished the layer,
// prepareDir returns it.
func prepareDir(file *checkpoint.File, dir string, l registry.Layer) (*Layer, *untar.Layer, error) {
	if !file.Exists() {
		return nil, nil, makeTarget(dir, l.Size)
	}
	file.Open(l)
	if fi, err := os.Lstat(dir); err == nil && fi.IsDir() {
		if file.Resume() != nil {
			return nil, nil, nil
		}
		if s := file.Finished(); s != nil {
			res := new(Layer)
			layer, err := untar.Load(dir, s.Untar)
			if err == nil {
				err = json.Unmarshal(s.Finished, res)
			}
			if err == nil {
				return res, layer, nil
			}
		}
	}
	file.Drop()
	if err := untar.RemoveAll(dir); err != nil {
		return nil, nil, err
	}
	return nil, nil, makeTarget(dir, l.Size)
}

// makeTarget creates the directory of a layer if the disk has room for its
// blob.
func makeTarget(dir string, size int64) error {
	switch err := os.Mkdir(dir, 0o755); {
	case errors.Is(err, fs.ErrExist):
		return marked{fmt.Errorf("%s exists: name a new directory", dir), ErrTarget}
	case err != nil:
		return marked{err, ErrTarget}
	}
	// The files take at least as much room as their compressed form.
	if have, err := stage.Free(filepath.Dir(dir)); err == nil && have < size {
		return errors.Join(fmt.Errorf("%w: the layer has %d bytes compressed, %d are free", syscall.ENOSPC, size, have), os.Remove(dir))
	}
	return nil
}

// extract runs the pipeline of one layer into a directory.
func (p *Puller) extract(ctx context.Context, img *Image, desc registry.Layer, dir string, file *checkpoint.File, opts UnpackOptions) (*UnpackedLayer, *untar.Layer, error) {
	// The window is a share of the budget, less the buffers of the writers and
	// rings.
	n := int64(p.opts.Parallelism)
	window := max(2*p.opts.PartBytes, (p.mem.Limit()-p.writers.Bytes()-n*flow.RingBytes)/n)
	if b := p.opts.Budget; b != nil {
		if err := b.Acquire(ctx, window+flow.RingBytes); err != nil {
			return nil, nil, err
		}
		defer b.Release(window + flow.RingBytes)
	}
	target := &flow.Target{
		Ctx: ctx, Dir: dir, Untar: untar.Options{Pool: p.writers, Meter: img.meter},
		Notify: opts.Notify, Resumed: opts.Resumed, Watch: opts.Watch, Checkpoint: file,
	}
	f, err := p.fetcher.Fetch(ctx, flow.Request{Ref: img.ref, Layer: desc, Window: window}, target)
	if err != nil {
		return nil, nil, err
	}
	return &UnpackedLayer{Layer: layerOf(desc, f, target.Layer), Warnings: f.Warnings}, target.Layer, nil
}

// overlay converts a layer to the form that overlayfs expects above its lower
// directories.
func overlay(ctx context.Context, l *untar.Layer, file *checkpoint.File, opts UnpackOptions) error {
	form := untar.TrustedXattr
	if opts.UserXattr || os.Geteuid() != 0 {
		form = untar.UserXattr
	}
	var lower []*untar.Layer
	if opts.Lower != nil {
		dirs, err := opts.Lower(ctx)
		if err != nil {
			return err
		}
		for _, d := range dirs {
			below, err := untar.OpenLayer(d, form)
			if err != nil {
				return err
			}
			lower = append(lower, below)
		}
	}
	file.Drop() // from here on the directory no longer matches the checkpoint
	return l.Overlay(ctx, form, lower)
}
