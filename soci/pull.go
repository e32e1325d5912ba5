package soci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Puller pulls images. Make it with [New]; close it.
type Puller struct {
	opts     Options
	platform registry.Platform
	mem      *budget.Budget
	engine   *ranges.Engine
	client   *registry.Client
	writers  *untar.Pool
}

// New returns a Puller.
func New(opts Options) (*Puller, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	p := &Puller{opts: opts, mem: budget.New(opts.Memory)}
	var err error
	if p.platform, err = registry.ParsePlatform(opts.Platform); err != nil {
		return nil, err
	}
	p.engine, err = ranges.New(ranges.Options{Budget: p.mem, PartBytes: opts.PartBytes, MaxConns: opts.MaxConns, Log: opts.Log})
	if err != nil {
		return nil, err
	}
	if p.client, err = registry.New(opts.registry()); err != nil {
		return nil, errors.Join(err, p.engine.Close())
	}
	// A sixteenth: enough to keep the writers busy, little beside the windows.
	p.writers = untar.NewPool(opts.Writers, opts.Memory/16)
	p.mem.Force(p.writers.Bytes())
	return p, nil
}

// Close ends the Puller's goroutines and connections. Pulls must have ended.
func (p *Puller) Close() error {
	err := p.engine.Close()
	p.client.Close()
	p.writers.Close()
	p.mem.Release(p.writers.Bytes())
	return err
}

// Pull leaves the root file system of an image in dir: all layers applied, all
// digests verified. dir must not exist or be empty.
func (p *Puller) Pull(ctx context.Context, ref, dir string) (*Result, error) {
	return p.pull(ctx, ref, dir, true)
}

// PullLayers leaves each layer in a directory of its own inside dir, in the form
// that overlayfs takes as lowerdir. The names sort from the lowest layer up.
func (p *Puller) PullLayers(ctx context.Context, ref, dir string) (*Result, error) {
	return p.pull(ctx, ref, dir, false)
}

// job is one pull.
type job struct {
	*Puller
	ref    registry.Reference
	img    *registry.Image
	stage  *stage
	meter  *untar.Meter
	window int64 // bytes fetched ahead for each layer
	res    *Result

	dirs     []string        // of the layers, in the stage
	unpacked []*untar.Layer  // by layer; written before its ready is closed
	ready    []chan struct{} // by layer: unpacked and verified
}

func (p *Puller) pull(ctx context.Context, name, dir string, flat bool) (_ *Result, err error) {
	start := time.Now()
	before := p.engine.Stats()
	ref, err := registry.ParseReference(name)
	if err != nil {
		return nil, &Error{Op: "parse", Err: err}
	}
	j := &job{Puller: p, ref: ref, meter: untar.NewMeter(p.opts.Limits.untar())}
	j.stage, err = newStage(dir)
	if err != nil {
		return nil, &Error{Op: "target", Err: marked{err, ErrTarget}}
	}
	defer func() {
		if rerr := j.stage.remove(); rerr != nil {
			left := fmt.Errorf("%w in %s: %w", ErrLeft, j.stage.work, rerr)
			if err != nil {
				left = fmt.Errorf("%w; %w", err, left)
			}
			err = &Error{Op: "clean up", Registry: ref.Host, Repository: ref.Repository, Err: left}
		}
	}()
	if b := p.opts.Budget; b != nil {
		if err := b.Acquire(ctx, p.opts.Memory); err != nil {
			return nil, fail(ctx, "memory", ref, "", err)
		}
		defer b.Release(p.opts.Memory)
	}
	if j.img, err = p.client.Resolve(ctx, p.engine, ref, p.platform); err != nil {
		return nil, fail(ctx, "resolve", ref, ref.Digest.String(), err)
	}
	if err := j.prepare(); err != nil {
		return nil, fail(ctx, "target", ref, "", err)
	}
	tree, err := j.layers(ctx, flat)
	if err != nil {
		return nil, err
	}
	if p.opts.Sync {
		if err := syncFS(tree); err != nil {
			return nil, fail(ctx, "target", ref, "", err)
		}
	}
	// The last chance to be cancelled: after this the tree is there.
	if ctx.Err() != nil {
		return nil, fail(ctx, "target", ref, "", context.Cause(ctx))
	}
	if err := j.stage.commit(tree); err != nil {
		return nil, fail(ctx, "target", ref, "", err)
	}
	j.finish(before, start, flat)
	return j.res, nil
}

// prepare makes a directory for each layer and tells Progress what comes.
func (j *job) prepare() error {
	img := j.img
	j.res = &Result{
		Reference: j.ref.String(),
		Manifest:  img.Manifest.Digest.String(),
		Platform:  platforms.Format(img.Platform),
		Dir:       j.stage.target,
		Layers:    make([]Layer, len(img.Layers)),
		Warnings:  img.Notes,
	}
	j.unpacked = make([]*untar.Layer, len(img.Layers))
	sizes := make([]int64, len(img.Layers))
	var total int64
	if err := os.Mkdir(j.tree(), 0o755); err != nil {
		return err
	}
	for i, l := range img.Layers {
		sizes[i] = l.Size
		total += l.Size
		j.ready = append(j.ready, make(chan struct{}))
		d := fmt.Sprintf("%s/%03d-%.12s", j.tree(), i, l.DiffID.Encoded())
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		j.dirs = append(j.dirs, d)
	}
	// Files take more than their compressed form, so this is the least.
	if have, err := free(j.stage.work); err == nil && have < total {
		return fmt.Errorf("%w: the image has %d bytes compressed, %d are free", syscall.ENOSPC, total, have)
	}
	// What the windows of the layers at work may fill together: the budget less what
	// is spoken for.
	n := int64(min(j.opts.Parallelism, max(1, len(img.Layers))))
	j.window = max(2*j.opts.PartBytes, (j.mem.Limit()-j.writers.Bytes()-n*ringBytes)/n)
	j.opts.Progress.Start(j.res.Reference, sizes)
	return nil
}

// tree is the directory that holds the layers' directories.
func (j *job) tree() string { return j.stage.work + "/layers" }

// layers fetches and unpacks all layers and returns the directory to show.
func (j *job) layers(ctx context.Context, flat bool) (string, error) {
	g, gctx := errgroup.WithContext(ctx)
	work, wctx := errgroup.WithContext(gctx)
	work.SetLimit(j.opts.Parallelism)
	tree := j.tree()
	g.Go(func() (err error) {
		if flat {
			tree, err = j.flatten(gctx)
			return err
		}
		return j.separate(gctx)
	})
	g.Go(func() error {
		// The largest first: it ends last whatever the others do.
		order := make([]int, len(j.img.Layers))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int {
			return cmp.Compare(j.img.Layers[b].Size, j.img.Layers[a].Size)
		})
		for _, i := range order {
			work.Go(func() error {
				if wctx.Err() != nil {
					return context.Cause(wctx)
				}
				return fail(wctx, "layer", j.ref, j.img.Layers[i].Digest.String(), j.layer(wctx, i))
			})
		}
		return work.Wait()
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fail(ctx, "pull", j.ref, "", err)
	}
	return tree, nil
}

// layer fetches and unpacks one layer.
func (j *job) layer(ctx context.Context, i int) error {
	desc := j.img.Layers[i]
	blob, err := j.client.Blob(j.ref, desc.Digest)
	if err != nil {
		return err
	}
	obj := j.engine.Object(blob, ranges.Spec{Name: desc.Digest.String(), Host: blob.Host(), Size: desc.Size})
	defer obj.Close()
	stream := obj.Stream(ctx, 0, -1, ranges.StreamOptions{
		WindowBytes: j.window,
		NoVerify:    true, // the digest is stronger than any CRC
	})
	defer stream.Close()
	p := &pipeline{
		desc:   desc,
		stream: stream,
		ratio:  j.opts.Limits.Ratio,
		notify: func(compressed, tar int64) { j.opts.Progress.Advance(i, compressed, tar) },
	}
	l, err := p.unpack(ctx, j.mem, j.dirs[i], untar.Options{Pool: j.writers, Meter: j.meter})
	if err != nil {
		return err
	}
	j.unpacked[i] = l
	j.res.Layers[i] = Layer{
		Digest:          desc.Digest.String(),
		DiffID:          desc.DiffID.String(),
		Compression:     p.format.String(),
		CompressedBytes: p.received,
		TarBytes:        p.tarBytes,
		FileBytes:       l.Bytes,
		Files:           l.Files,
		Entries:         l.Entries,
		Timing:          p.timing,
	}
	close(j.ready[i])
	j.opts.Progress.Done(i)
	return nil
}

// await waits for a layer.
func (j *job) await(ctx context.Context, i int) (*untar.Layer, error) {
	select {
	case <-j.ready[i]:
		return j.unpacked[i], nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// flatten moves layers onto the lowest one, each as soon as all below it are there.
func (j *job) flatten(ctx context.Context) (string, error) {
	if len(j.dirs) == 0 {
		return j.stage.dir("empty")
	}
	for i, d := range j.img.Layers {
		l, err := j.await(ctx, i)
		if err != nil {
			return "", err
		}
		start := time.Now()
		if i == 0 {
			err = l.Settle()
		} else if err = untar.Merge(ctx, j.dirs[0], l); err == nil {
			err = untar.RemoveAll(j.dirs[i]) // emptied directories
		}
		if err != nil {
			return "", fail(ctx, "merge", j.ref, d.Digest.String(), err)
		}
		j.res.Timing.Merge += time.Since(start)
	}
	return j.dirs[0], nil
}

// separate gives each layer the form of overlayfs.
func (j *job) separate(ctx context.Context) error {
	form := untar.TrustedXattr
	if os.Geteuid() != 0 {
		form = untar.UserXattr
	}
	var lower []*untar.Layer
	for i, d := range j.img.Layers {
		l, err := j.await(ctx, i)
		if err == nil {
			err = l.Overlay(ctx, form, lower)
		}
		if err != nil {
			return fail(ctx, "merge", j.ref, d.Digest.String(), err)
		}
		lower = slices.Insert(lower, 0, l)
	}
	return nil
}

// finish sums up.
func (j *job) finish(before ranges.Stats, start time.Time, flat bool) {
	r := j.res
	for i := range r.Layers {
		l := &r.Layers[i]
		r.CompressedBytes += l.CompressedBytes
		r.TarBytes += l.TarBytes
		r.FileBytes += l.FileBytes
		r.Files += l.Files
		r.Entries += l.Entries
		r.Timing.add(l.Timing)
		if !flat {
			l.Dir = j.stage.target + j.dirs[i][len(j.tree()):]
		}
	}
	for _, n := range untar.Notes(j.unpacked...) {
		r.Warnings = append(r.Warnings, n.String())
	}
	now := j.engine.Stats()
	r.Network = Network{
		Requests: now.Requests - before.Requests,
		Retries:  now.Retries - before.Retries,
		Hedges:   now.Hedges - before.Hedges,
		Bytes:    now.Received - before.Received,
	}
	r.Timing.Wall = time.Since(start)
}
