package soci

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/platforms"

	"github.com/penstock/penstock/soci/internal/untar"
)

// prepare finds out which layers are there already, makes a directory for each of the
// others, and tells Progress what comes.
func (j *job) prepare(ctx context.Context) error {
	img := j.img
	j.res = &Result{
		Reference: j.ref.String(),
		Manifest:  img.Manifest.Digest.String(),
		Platform:  platforms.Format(img.Platform),
		Dir:       j.stage.target,
		Config:    img.RawConfig,
		Layers:    make([]Layer, len(img.Layers)),
		Warnings:  slices.Clone(img.Notes),
	}
	n := len(img.Layers)
	j.unpacked, j.names, j.copies = make([]*untar.Layer, n), make([]string, n), make([][]int, n)
	j.parts = make([]*partFile, n)
	sizes := make([]int64, n)
	var total int64
	first := make(map[flightKey]int)
	for i, l := range img.Layers {
		key := flightKey{digest: l.Digest, diffID: l.DiffID}
		k, again := first[key]
		if again {
			j.copies[k] = append(j.copies[k], i)
		} else {
			k, first[key] = i, i
		}
		j.names[i] = fmt.Sprintf("%.32s-%.32s-%d", l.Digest.Encoded(), l.DiffID.Encoded(), slices.Index(j.copies[k], i)+1)
		switch found, err := j.resume(ctx, i); {
		case err != nil:
			return err
		case found:
			continue
		case !again:
			sizes[i] = l.Size
			total += l.Size
		}
		if begun, err := j.begun(i); begun || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(j.dir(i), 0o755); err != nil {
			return err
		}
	}
	if err := j.stage.dropFound(); err != nil {
		return err
	}
	// Files take more than their compressed form, so this is the least.
	if have, err := free(j.stage.work); err == nil && have < total {
		return fmt.Errorf("%w: the image has %d bytes compressed, %d are free", syscall.ENOSPC, total, have)
	}
	// What the windows of the layers at work may fill together: the budget less what
	// is spoken for.
	w := int64(min(j.opts.Parallelism, max(1, n)))
	j.window = max(2*j.opts.PartBytes, (j.mem.Limit()-j.writers.Bytes()-w*ringBytes)/w)
	j.opts.Progress.Start(j.res.Reference, sizes)
	for i := range j.unpacked {
		if j.unpacked[i] != nil {
			j.opts.Progress.Done(i)
		}
	}
	return nil
}

// resume takes a layer over that an earlier pull of this target has finished.
func (j *job) resume(ctx context.Context, i int) (bool, error) {
	e, ok := j.stage.found[j.names[i]]
	l := j.img.Layers[i]
	if !ok || e.Layer.Digest != l.Digest.String() || e.Layer.DiffID != l.DiffID.String() || e.Layer.CompressedBytes != l.Size {
		return false, nil
	}
	if s := j.opts.Store; s != nil {
		if has, err := s.Has(ctx, l.Descriptor); err != nil || !has {
			return false, err
		}
	}
	u, err := untar.Load(j.dir(i), e.State)
	if err != nil {
		return false, nil //nolint:nilerr // of another version: fetch it again
	}
	delete(j.stage.found, j.names[i])
	j.meter.Resume(u)
	j.unpacked[i], j.res.Layers[i] = u, *e.Layer
	j.res.Layers[i].Timing, j.res.Layers[i].Resumed = Timing{}, true
	return true, nil
}

// begun reports whether an earlier pull of this target has begun a layer, so that there
// is something to go on from.
func (j *job) begun(i int) (bool, error) {
	name := j.names[i]
	there := j.stage.begun[name]
	delete(j.stage.begun, name)
	part := &partFile{path: j.stage.partPath(name), boot: j.stage.journal.boot, every: j.opts.CheckpointBytes, most: j.opts.maxState()}
	if there {
		part.open(j.img.Layers[i])
	}
	if _, can := j.opts.Store.(BlobResumer); can || j.opts.Store == nil { // it wants the whole blob
		j.parts[i] = part
	} else {
		part.from = nil
	}
	if there && part.from == nil {
		part.drop()
		return false, untar.RemoveAll(j.dir(i))
	}
	return there, nil
}
