package soci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/indexdir"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Puller pulls images. It is made by [New] and must be closed.
type Puller struct {
	opts     Options
	platform registry.Platform
	mem      *budget.Budget
	engine   *ranges.Engine
	client   *registry.Client
	writers  *untar.Pool
	names    *untar.Memory
	fetcher  *flow.Fetcher
	pulls    atomic.Int64 // in progress
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
	p.engine, err = ranges.New(ranges.Options{Budget: p.mem, PartBytes: opts.PartBytes, MaxConns: opts.MaxConns, Retry: ranges.RetryPolicy{Outage: opts.Outage}, Log: opts.Log})
	if err != nil {
		return nil, err
	}
	if p.client, err = registry.New(opts.registry()); err != nil {
		return nil, errors.Join(err, p.engine.Close())
	}
	// The writers need no buffers, because files are written from the blocks of
	// the rings.
	p.writers = untar.NewPool(opts.Writers, 0)
	p.mem.Force(p.writers.Bytes())
	p.names = untar.NewMemory(opts.Limits.Metadata, func(delta int64) {
		if delta > 0 {
			p.mem.Force(delta)
		} else {
			p.mem.Release(-delta)
		}
	})
	fo := flow.Options{Client: p.client, Engine: p.engine, Memory: p.mem, Limits: opts.Limits.flow(), Log: opts.Log}
	if opts.IndexDir != "" {
		fo.Indexes = indexdir.Open(opts.IndexDir, opts.Log)
	}
	p.fetcher = flow.New(fo)
	return p, nil
}

// Close ends the Puller's goroutines and connections. All pulls must have
// returned.
func (p *Puller) Close() error {
	p.fetcher.Close()
	err := p.engine.Close()
	p.client.Close()
	p.writers.Close()
	p.mem.Release(p.writers.Bytes())
	return err
}

// Pull writes the root file system of an image to dir: all layers applied, all
// digests verified. dir must not exist or must be empty.
func (p *Puller) Pull(ctx context.Context, ref, dir string) (_ *Result, err error) {
	defer recoverPull(&err)
	return p.pull(ctx, ref, dir, true)
}

// PullLayers writes each layer to a directory of its own inside dir, in the
// form that overlayfs takes as lowerdir. The names sort from the lowest layer
// up.
func (p *Puller) PullLayers(ctx context.Context, ref, dir string) (_ *Result, err error) {
	defer recoverPull(&err)
	return p.pull(ctx, ref, dir, false)
}

// recoverPull, when deferred, turns a panic into the error of the pull.
func recoverPull(err *error) {
	if why := recover(); why != nil {
		*err = &Error{Op: "pull", Err: marked{&panics.Error{Value: why, Stack: debug.Stack()}, ErrInternal}}
	}
}

// job is one pull.
type job struct {
	*Puller
	ref    registry.Reference
	img    *registry.Image
	stage  *stage.Stage
	meter  *untar.Meter
	window int64 // bytes fetched ahead for each layer
	res    *Result

	names       []string           // of the layers' directories in the stage
	unpacked    []*untar.Layer     // by layer; nil until it is unpacked and verified
	checkpoints []*checkpoint.File // by layer; nil without checkpoints
	copies      [][]int            // by layer: the indexes of equal layers above it; nil for those layers

	mu sync.Mutex // guards the stage and Result.Warnings
}

func (p *Puller) pull(ctx context.Context, name, dir string, flat bool) (_ *Result, err error) {
	start := time.Now()
	before := p.engine.Stats()
	ref, err := registry.ParseReference(name)
	if err != nil {
		return nil, &Error{Op: "parse", Err: err}
	}
	p.pulls.Add(1)
	defer p.pulls.Add(-1)
	j := &job{Puller: p, ref: ref, meter: p.names.Meter(p.opts.Limits.untar())}
	defer func() {
		for _, l := range j.unpacked {
			l.Release()
		}
	}()
	j.stage, err = stage.Open(dir, p.opts.Sync)
	if err != nil {
		return nil, &Error{Op: "target", Err: marked{err, ErrTarget}}
	}
	defer func() {
		keep := keepsStage(err, p.opts.KeepFailed) && j.stage.Reusable()
		if e, ok := errors.AsType[*Error](err); ok && keep {
			e.Kept = j.stage.Dir()
		}
		if rerr := j.stage.Close(keep); rerr != nil {
			left := fmt.Errorf("%w in %s: %w", ErrLeft, j.stage.Dir(), rerr)
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
	if err := j.prepare(ctx); err != nil {
		return nil, fail(ctx, "target", ref, "", err)
	}
	if err := j.layers(ctx); err != nil {
		return nil, err
	}
	tree, err := j.tree(ctx, flat)
	if err != nil {
		return nil, err
	}
	if err := j.store(ctx); err != nil {
		return nil, fail(ctx, "store", ref, "", err)
	}
	if p.opts.Sync {
		if err := untar.SyncFS(tree); err != nil {
			return nil, fail(ctx, "target", ref, "", err)
		}
	}
	// After this the tree is visible, and a cancellation no longer counts.
	if ctx.Err() != nil {
		return nil, fail(ctx, "target", ref, "", context.Cause(ctx))
	}
	if err := j.stage.Commit(tree); err != nil {
		return nil, fail(ctx, "target", ref, "", err)
	}
	j.finish(before, start, flat)
	return j.res, nil
}

// keepsStage decides whether a pull that ended with err leaves its finished
// layers for the next attempt. On a full disk it does not, to free the room.
func keepsStage(err error, keepFailed bool) bool {
	return err != nil && keepFailed && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT)
}

// dir returns the directory that layer i is unpacked into.
func (j *job) dir(i int) string { return j.stage.Layer(j.names[i]) }

// layers fetches and unpacks all missing layers.
func (j *job) layers(ctx context.Context) error {
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(j.opts.Parallelism)
	// The largest layer starts first, because it ends last in any order.
	order := make([]int, len(j.img.Layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(j.img.Layers[b].Size, j.img.Layers[a].Size)
	})
	done := make(map[layerKey]bool)
	for _, i := range order {
		l := j.img.Layers[i]
		key := layerKey{l.Digest, l.DiffID}
		if done[key] {
			continue
		}
		done[key] = true
		want := j.missing(key)
		if len(want) == 0 {
			continue
		}
		work.Go(func() error {
			if wctx.Err() != nil {
				return context.Cause(wctx)
			}
			return fail(wctx, "layer", j.ref, l.Digest.String(), j.recoveredLayer(wctx, want))
		})
	}
	if err := work.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fail(ctx, "pull", j.ref, "", err)
	}
	return nil
}

// layerKey identifies equal layers of an image.
type layerKey struct{ digest, diffID digest.Digest }

// missing returns the indexes of all layers with this key that are not unpacked
// yet.
func (j *job) missing(key layerKey) []int {
	var want []int
	for i, l := range j.img.Layers {
		if l.Digest == key.digest && l.DiffID == key.diffID && j.unpacked[i] == nil {
			want = append(want, i)
		}
	}
	return want
}

// recoveredLayer calls layer and turns a panic into an error.
func (j *job) recoveredLayer(ctx context.Context, equal []int) (err error) {
	defer panics.Recover(&err)
	return j.layer(ctx, equal)
}

// layer fetches a layer once and unpacks it for each of the equal layers of the
// image, which it receives as indexes.
func (j *job) layer(ctx context.Context, equal []int) error {
	targets := make([]*flow.Target, len(equal))
	for k, i := range equal {
		targets[k] = &flow.Target{Ctx: ctx, Dir: j.dir(i), Untar: untar.Options{Pool: j.writers, Meter: j.meter}, Notify: ignoreBytes, Resumed: ignoreBytes}
	}
	main := equal[0]
	if len(equal) == 1 {
		targets[0].Checkpoint = j.checkpoints[main]
	}
	targets[0].Notify = func(compressed, tar int64) { j.opts.Progress.Advance(main, compressed, tar) }
	targets[0].Resumed = targets[0].Notify
	req := flow.Request{Ref: j.ref, Layer: j.img.Layers[main], Window: j.window}
	if j.opts.Store != nil {
		req.Blobs = blobs{j.opts.Store}
	}
	f, err := j.fetcher.Fetch(ctx, req, targets...)
	if err != nil {
		return err
	}
	if j.opts.Sync { // before the journal records the layer
		if err := untar.SyncFS(j.stage.Dir()); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.res.Warnings = append(j.res.Warnings, f.Warnings...)
	for k, i := range equal {
		j.unpacked[i] = targets[k].Layer
		j.res.Layers[i] = layerOf(req.Layer, f, targets[k].Layer)
		if k > 0 {
			j.res.Layers[i].Copy, j.res.Layers[i].Timing = true, Timing{}
		}
		err := j.stage.Finish(j.names[i], &j.res.Layers[i], targets[k].Layer)
		if errors.Is(err, untar.ErrTooLarge) {
			j.opts.Log.Debug("layer not kept for a later attempt", "digest", j.res.Layers[i].Digest, "err", err)
		} else if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.opts.Progress.Done(i)
	}
	return nil
}

// ignoreBytes discards progress in bytes.
func ignoreBytes(int64, int64) {}

// layerOf describes a layer that was fetched and unpacked.
func layerOf(l registry.Layer, f *flow.Result, u *untar.Layer) Layer {
	return Layer{
		Digest:          l.Digest.String(),
		DiffID:          l.DiffID.String(),
		MediaType:       l.MediaType,
		Compression:     f.Compression,
		Special:         special(l.Descriptor),
		ResumedAt:       f.ResumedAt,
		CompressedBytes: f.Received,
		TarBytes:        f.Tar,
		FileBytes:       u.Bytes,
		Files:           u.Files,
		Entries:         u.Entries,
		Timing: Timing{
			Network: f.Timing.Network, Inflate: f.Timing.Inflate, Hash: f.Timing.Hash, Write: u.Write, Wall: f.Timing.Wall,
			blocked: f.Timing.Blocked, lastHash: f.Timing.LastHash,
		},
	}
}

// tree arranges the layers as the caller wants them, and returns the directory
// to publish.
func (j *job) tree(ctx context.Context, flat bool) (string, error) {
	if len(j.names) == 0 {
		return j.stage.Layer(""), nil
	}
	// From here on the directories no longer match the journal. Merging is
	// quick compared with fetching, so an interrupted merge is not resumed.
	if len(j.names) > 1 || !flat {
		if err := j.stage.BeginMerge(); err != nil {
			return "", fail(ctx, "merge", j.ref, "", err)
		}
	}
	start := time.Now()
	defer func() { j.res.Timing.Merge = time.Since(start) }()
	if flat {
		return j.dir(0), j.flatten(ctx)
	}
	return j.stage.Layer(""), j.separate(ctx)
}

// flatten merges all layers into the lowest one.
func (j *job) flatten(ctx context.Context) error {
	for i, d := range j.img.Layers {
		var err error
		if i == 0 {
			err = j.unpacked[i].Settle()
		} else {
			err = untar.Merge(ctx, j.dir(0), j.unpacked[i])
		}
		if err != nil {
			return fail(ctx, "merge", j.ref, d.Digest.String(), err)
		}
	}
	return nil
}

// separate converts each layer to the form of overlayfs and renames its
// directory, so that the names sort from the lowest layer up.
func (j *job) separate(ctx context.Context) error {
	form := untar.TrustedXattr
	if os.Geteuid() != 0 {
		form = untar.UserXattr
	}
	var lower []*untar.Layer
	for i, d := range j.img.Layers {
		l := j.unpacked[i]
		if err := l.Overlay(ctx, form, lower); err != nil {
			return fail(ctx, "merge", j.ref, d.Digest.String(), err)
		}
		lower = slices.Insert(lower, 0, l)
	}
	for i, d := range j.img.Layers {
		name := fmt.Sprintf("%03d-%.12s", i, d.DiffID.Encoded())
		if err := os.Rename(j.dir(i), j.stage.Layer(name)); err != nil {
			return fail(ctx, "merge", j.ref, d.Digest.String(), err)
		}
		j.names[i] = name
	}
	return nil
}

// store adds the config and the manifest to the BlobStore, which has all layers
// by now.
func (j *job) store(ctx context.Context) error {
	s := j.opts.Store
	if s == nil {
		return nil
	}
	manifest := j.img.Manifest
	if err := putBlob(ctx, s, j.img.ConfigDescriptor, j.img.RawConfig); err != nil {
		return err
	}
	if err := putBlob(ctx, s, manifest, j.img.RawManifest); err != nil {
		return err
	}
	return s.Image(ctx, j.res.Reference, manifest)
}

// finish completes the result with sums over the layers.
func (j *job) finish(before ranges.Stats, start time.Time, flat bool) {
	r := j.res
	for i := range r.Layers {
		l := &r.Layers[i]
		if !l.Copy {
			r.CompressedBytes += l.CompressedBytes
			r.TarBytes += l.TarBytes
		}
		r.FileBytes += l.FileBytes
		r.Files += l.Files
		r.Entries += l.Entries
		r.Timing.add(l.Timing)
		if !flat {
			l.Dir = filepath.Join(j.stage.Target(), j.names[i])
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
	r.Limit = r.Timing.limit()
}
