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

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Image is a resolved image: what its layers are and what they must hash to. It
// is made by [Puller.Resolve], not changed afterwards, and safe for concurrent use.
type Image struct {
	Reference string          // in full form, as asked
	Manifest  string          // digest of the platform's manifest
	Platform  string          // as the config says
	Config    ocispec.Image   // environment, entry point, history
	RawConfig json.RawMessage // the same as it was verified
	Layers    []ImageLayer    // lowest first
	Warnings  []string        // oddities that do no harm

	ref   registry.Reference
	img   *registry.Image
	meter *untar.Meter // of all layers: the limits are the image's
}

// ImageLayer is one layer of a manifest.
type ImageLayer struct {
	Digest    string // of the blob
	DiffID    string // of the tar inside
	MediaType string
	Size      int64 // bytes of the blob
}

// Resolve finds the manifest of ref for the Puller's platform and reads its
// config. Both are checked against their digests. No layer is touched.
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

// UnpackOptions say how [Puller.UnpackLayer] unpacks. The zero value is for a
// lowest layer.
type UnpackOptions struct {
	// Lower names the directories of the layers below, nearest first, in overlay
	// form. It is called once, when the layer has been extracted and verified, and
	// may wait for them: so layers are extracted in any order and at the same time.
	// Nil: there are none.
	Lower func(ctx context.Context) ([]string, error)
	// UserXattr marks opaque directories for mounts with the userxattr option, and
	// reads lower ones in that form. Without root it is always so.
	UserXattr bool
	// Notify is told of bytes received (compressed) and inflated (tar). It may block,
	// which slows the layer down: so a rate is held. It is called from two
	// goroutines. Nil: nobody.
	Notify func(compressed, tar int64)
	// Watch gets, when the fetch begins, a function that tells at any time how many bytes
	// of the blob have come from the network, also of requests that are not complete, and
	// whether the layer waits for more. When the fetch begins again it gets another one,
	// which counts from zero. Nil: nobody watches.
	Watch func(flow func() (arrived int64, waiting bool))
	// Checkpoint names a file, on the file system of dir, that says how far the layer is.
	// With it, what a killed process has done is not lost, nor what an unpacking did that
	// was cancelled or failed by the network: dir and the file stay, and the next
	// UnpackLayer with both goes on from there. The file belongs to the running system:
	// after a reboot the layer begins anew. It is gone when UnpackLayer has succeeded.
	// Whoever may write to it may write to dir as well. "": what fails leaves nothing.
	Checkpoint string
	// Resumed is told of bytes received and inflated by an earlier UnpackLayer that is
	// gone on with, and not again now. Nil: nobody.
	Resumed func(compressed, tar int64)
}

// UnpackedLayer is a layer in a directory of its own, verified.
type UnpackedLayer struct {
	Layer

	DiskBytes int64    `json:"disk_bytes"` // blocks of the file system times their size
	Inodes    int64    `json:"inodes"`
	Warnings  []string `json:"warnings,omitempty"` // what could not be set
}

// UnpackLayer fetches layer i of an image into dir, in the form that overlayfs
// takes as lowerdir. dir must not exist, unless the options name a Checkpoint that does;
// its parent must. When it returns without error both digests and the size are right; when
// it fails, dir does not exist, or holds what the Checkpoint describes.
//
// The caller bounds how many run at once: each takes Memory/Parallelism of the
// options.
// The limits count all layers that were unpacked of one Image.
func (p *Puller) UnpackLayer(ctx context.Context, img *Image, i int, dir string, opts UnpackOptions) (_ *UnpackedLayer, err error) {
	defer recoverPull(&err)
	if i < 0 || i >= len(img.Layers) {
		return nil, &Error{Op: "layer", Registry: img.ref.Host, Repository: img.ref.Repository, Err: fmt.Errorf("there is no layer %d: the image has %d", i, len(img.Layers))}
	}
	desc := img.img.Layers[i]
	wrap := func(op string, err error) error { return fail(ctx, op, img.ref, desc.Digest.String(), err) }
	var part *partFile
	if opts.Checkpoint != "" {
		part = &partFile{path: opts.Checkpoint, boot: disk.BootID(), every: p.opts.CheckpointBytes, most: p.opts.maxState()}
	}
	layer, err := part.target(dir, desc)
	if err != nil {
		return nil, wrap("target", err)
	}
	defer func() {
		if err == nil || part.kept() {
			return
		}
		if rerr := untar.RemoveAll(dir); rerr != nil {
			err = wrap("clean up", fmt.Errorf("%w; %w in %s: %w", err, ErrLeft, dir, rerr))
		}
	}()
	if opts.Notify == nil {
		opts.Notify = quiet
	}
	if opts.Resumed == nil {
		opts.Resumed = quiet
	}
	out := &UnpackedLayer{}
	if layer != nil {
		out.Layer = *part.done.Finished
		out.Timing, out.Resumed = Timing{}, true
		img.meter.Resume(layer)
		opts.Resumed(out.CompressedBytes, out.TarBytes)
	} else {
		if out, layer, err = p.extract(ctx, img, desc, dir, part, opts); err != nil {
			return nil, wrap("layer", err)
		}
		if err := part.finish(&out.Layer, layer); err != nil { // it is just not kept
			p.opts.Log.Debug("no checkpoint", "digest", out.Digest, "err", err)
			part.drop()
		}
	}
	defer layer.Release()
	if err := overlay(ctx, layer, part, opts); err != nil {
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

// target makes the directory of a layer, unless an earlier attempt has left in it what can
// be gone on with. If that is all of the layer, it is returned.
func (f *partFile) target(dir string, l registry.Layer) (*untar.Layer, error) {
	if !f.kept() {
		return nil, makeTarget(dir, l.Size)
	}
	f.open(l)
	if fi, err := os.Lstat(dir); err == nil && fi.IsDir() {
		if f.from != nil {
			return nil, nil
		}
		if f.done != nil {
			if layer, err := untar.Load(dir, f.done.State); err == nil {
				return layer, nil
			}
		}
	}
	f.drop()
	if err := untar.RemoveAll(dir); err != nil {
		return nil, err
	}
	return nil, makeTarget(dir, l.Size)
}

// makeTarget makes the directory of a layer if the blob's bytes would fit there.
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
func (p *Puller) extract(ctx context.Context, img *Image, desc registry.Layer, dir string, part *partFile, opts UnpackOptions) (*UnpackedLayer, *untar.Layer, error) {
	// A share of the budget, less what is spoken for.
	n := int64(p.opts.Parallelism)
	window := max(2*p.opts.PartBytes, (p.mem.Limit()-p.writers.Bytes()-n*ringBytes)/n)
	if b := p.opts.Budget; b != nil {
		if err := b.Acquire(ctx, window+ringBytes); err != nil {
			return nil, nil, err
		}
		defer b.Release(window + ringBytes)
	}
	sk := &sink{ctx: ctx, dir: dir, opts: untar.Options{Pool: p.writers, Meter: img.meter}, notify: opts.Notify, resumed: opts.Resumed, watch: opts.Watch, part: part}
	f, err := p.fly(ctx, request{ref: img.ref, desc: desc, window: window}, sk)
	if err != nil {
		return nil, nil, err
	}
	return &UnpackedLayer{Layer: f.result(sk), Warnings: f.notes}, sk.layer, nil
}

// overlay gives a layer the form of overlayfs above what lies below it.
func overlay(ctx context.Context, l *untar.Layer, part *partFile, opts UnpackOptions) error {
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
	part.drop() // from here on the directory is not what it says
	return l.Overlay(ctx, form, lower)
}
