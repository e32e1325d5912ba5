package soci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/platforms"

	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/stage"
	"github.com/penstock/penstock/soci/internal/untar"
)

// prepare takes over the layers of an earlier pull, creates directories for the
// others, and calls Progress.Start.
func (j *job) prepare(ctx context.Context) error {
	img := j.img
	j.res = &Result{
		Reference: j.ref.String(),
		Manifest:  img.Manifest.Digest.String(),
		Platform:  platforms.Format(img.Platform),
		Dir:       j.stage.Target(),
		Config:    img.RawConfig,
		Layers:    make([]Layer, len(img.Layers)),
		Warnings:  slices.Clone(img.Notes),
	}
	n := len(img.Layers)
	j.unpacked, j.names, j.copies = make([]*untar.Layer, n), make([]string, n), make([][]int, n)
	j.checkpoints = make([]*checkpoint.File, n)
	sizes := make([]int64, n)
	var total int64
	first := make(map[layerKey]int)
	for i, l := range img.Layers {
		key := layerKey{l.Digest, l.DiffID}
		k, again := first[key]
		if again {
			j.copies[k] = append(j.copies[k], i)
		} else {
			k, first[key] = i, i
		}
		j.names[i] = fmt.Sprintf("%.32s-%.32s-%d", l.Digest.Encoded(), l.DiffID.Encoded(), slices.Index(j.copies[k], i)+1)
		switch found, err := j.reuse(ctx, i); {
		case err != nil:
			return err
		case found:
			continue
		case !again:
			sizes[i] = l.Size
			total += l.Size
		}
		if there, err := j.openCheckpoint(i); there || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(j.dir(i), 0o755); err != nil {
			return err
		}
	}
	if err := j.stage.DropUnclaimed(); err != nil {
		return err
	}
	// The files take at least as much room as their compressed form.
	if have, err := stage.Free(j.stage.Dir()); err == nil && have < total {
		return fmt.Errorf("%w: the image has %d bytes compressed, %d are free", syscall.ENOSPC, total, have)
	}
	// The windows of the layers in progress share the budget, less the buffers
	// of the writers and rings.
	w := int64(min(j.opts.Parallelism, max(1, n)))
	j.window = max(2*j.opts.PartBytes, (j.mem.Limit()-j.writers.Bytes()-w*flow.RingBytes)/w)
	j.opts.Progress.Start(j.res.Reference, sizes)
	for i := range j.unpacked {
		if j.unpacked[i] != nil {
			j.opts.Progress.Done(i)
		}
	}
	return nil
}

// reuse takes over a layer that an earlier pull of this target has finished. It
// reports false if the layer must be fetched.
func (j *job) reuse(ctx context.Context, i int) (bool, error) {
	found, ok := j.stage.Finished(j.names[i])
	if !ok {
		return false, nil
	}
	l := j.img.Layers[i]
	var res Layer
	if err := json.Unmarshal(found.Result, &res); err != nil || res.Digest != l.Digest.String() || res.DiffID != l.DiffID.String() || res.CompressedBytes != l.Size {
		return false, nil //nolint:nilerr // another layer's record, or damaged: fetch it again
	}
	if s := j.opts.Store; s != nil {
		if has, err := s.Has(ctx, l.Descriptor); err != nil || !has {
			return false, err
		}
	}
	u, err := untar.Load(j.dir(i), found.State)
	if err != nil {
		return false, nil //nolint:nilerr // another format version: fetch it again
	}
	j.stage.ClaimFinished(j.names[i])
	j.meter.Resume(u)
	res.Timing, res.Resumed = Timing{}, true
	j.unpacked[i], j.res.Layers[i] = u, res
	return true, nil
}

// openCheckpoint opens the checkpoint file of a layer. It reports whether an
// earlier pull of this target has left a usable checkpoint, with the directory
// that belongs to it.
func (j *job) openCheckpoint(i int) (bool, error) {
	name := j.names[i]
	there := j.stage.ClaimUnfinished(name)
	file := checkpoint.NewFile(j.stage.Checkpoint(name), j.opts.CheckpointBytes, j.opts.maxState())
	if there {
		file.Open(j.img.Layers[i])
	}
	// A store that is not a BlobResumer must receive each blob from its start.
	if _, can := j.opts.Store.(BlobResumer); can || j.opts.Store == nil {
		j.checkpoints[i] = file
	} else {
		file.Restart()
	}
	if there && file.Resume() == nil {
		file.Drop()
		return false, untar.RemoveAll(j.dir(i))
	}
	return there, nil
}
