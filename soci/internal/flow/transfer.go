package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
)

// transfer is one layer being fetched for any number of targets. Targets may
// join until the first block is out; later ones start another transfer. A
// transfer ends when its last target leaves.
type transfer struct {
	f   *Fetcher
	req Request

	ctx    context.Context //nolint:containedctx // of the transfer, which outlives the requests that leave it
	cancel context.CancelCauseFunc
	ended  chan struct{}

	// mu guards the fields below. No other mutex is taken and no function of a
	// target is called while it is held.
	mu      sync.Mutex
	targets []*Target // whose callers still wait; replaced, never changed in place
	sealed  bool      // no target may join any more
	// flow reports the progress of the fetch, see Target.Watch; nil before it
	// starts.
	flow     func() (arrived int64, waiting bool)
	received int64

	// joining counts the calls of catchUp that have not returned. It grows only
	// until the transfer is sealed.
	joining sync.WaitGroup

	// Written before ended is closed.
	pipeline *pipeline // the last one
	warnings []string
}

// errAbandoned ends a transfer that all targets have left.
var errAbandoned = errors.New("no caller waits for this layer")

func (t *transfer) digest() string { return t.req.Layer.Digest.String() }

// add adds targets, unless the transfer has started to hand out blocks or all
// targets have left it. If the targets are added, the caller must call catchUp,
// without a lock; otherwise catchUp is nil.
func (t *transfer) add(targets []*Target) (catchUp func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sealed || len(t.targets) == 0 {
		return nil
	}
	t.targets = append(slices.Clip(t.targets), targets...)
	t.joining.Add(1)
	received, flow := t.received, t.flow
	return func() {
		defer t.joining.Done()
		for _, s := range targets {
			s.watch(flow)
			s.Notify(received, 0) // may block to limit the rate
		}
	}
}

// seal keeps further targets out and returns the final list.
func (t *transfer) seal() []*Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sealed = true
	return t.targets
}

// wait waits for the outcome, or leaves the transfer when ctx ends.
func (t *transfer) wait(ctx context.Context, targets []*Target) error {
	select {
	case <-t.ended:
		for _, s := range targets {
			if s.err != nil {
				return s.err
			}
		}
		return nil
	case <-ctx.Done():
		t.leave(targets)
		return context.Cause(ctx)
	}
}

// leave removes targets. When it returns their directories belong to the
// caller.
func (t *transfer) leave(targets []*Target) {
	t.mu.Lock()
	t.targets = slices.DeleteFunc(slices.Clone(t.targets), func(s *Target) bool { return slices.Contains(targets, s) })
	last := len(t.targets) == 0
	t.mu.Unlock()
	for _, s := range targets {
		s.use.Lock() // soon, because their context has ended
		s.left = true
		s.use.Unlock()
	}
	if last {
		t.cancel(errAbandoned)
		<-t.ended
	}
}

// run fetches the layer. After wrong bytes it repeats the fetch from another
// host, and after an unusable checkpoint from the start of the layer.
func (t *transfer) run() {
	blob, err := t.f.opts.Client.Layer(t.req.Ref, t.req.Layer)
	if err != nil {
		t.fail(err)
		return
	}
	for {
		err := t.attempt(blob)
		if t.checkpointFailed() {
			t.f.opts.Log.Warn("checkpoint unusable, restarting the layer", "digest", t.digest(), "err", t.pipeline.targets.all[0].err)
			if err := t.reset(); err != nil {
				t.fail(err)
				return
			}
			continue
		}
		if err == nil || !errors.Is(err, ErrDigest) || t.ctx.Err() != nil {
			return
		}
		t.f.wrong.Add(1)
		from, next := blob.WrongBytes()
		if from != "" {
			t.warnings = append(t.warnings, fmt.Sprintf("%s sent wrong bytes for %s", from, t.digest()))
			t.f.opts.Log.Warn("wrong bytes", "from", from, "digest", t.digest(), "retry", next != nil)
		}
		if next == nil {
			if from != "" {
				t.fail(fmt.Errorf("%s: %w", from, err))
			}
			return
		}
		if err := t.reset(); err != nil {
			t.fail(err)
			return
		}
		blob = next
	}
}

// count adds the outcome to the counters of the Fetcher.
func (t *transfer) count() {
	ok := t.pipeline != nil && slices.ContainsFunc(t.pipeline.targets.all, func(s *Target) bool { return s.err == nil })
	switch {
	case ok:
		t.f.layers.Add(1)
		t.f.tar.Add(t.pipeline.decoded.tar)
	case t.ctx.Err() == nil:
		t.f.failed.Add(1)
	}
}

// result describes the layer after a transfer without error.
func (t *transfer) result() *Result {
	p := t.pipeline
	return &Result{
		Compression: p.decoded.format.String(),
		ResumedAt:   p.resumedAt(),
		Received:    p.source.received,
		Tar:         p.decoded.tar,
		Timing:      p.timing,
		Warnings:    t.warnings,
	}
}

// attempt runs one pipeline and returns the error that all targets share.
func (t *transfer) attempt(blob *registry.Blob) error {
	file := t.checkpointFile()
	tee, err := t.openCopy(file)
	if err != nil {
		t.fail(err)
		return err
	}
	if tee != nil {
		defer tee.Close()
	}
	obj := t.f.opts.Engine.Object(blob, ranges.Spec{Name: t.digest(), Host: blob.Host(), Size: t.req.Layer.Size})
	resume := file.Resume()
	var start int64
	if resume != nil {
		start = resume.Point.Bits / 8
	}
	stream := obj.Stream(t.ctx, start, -1, ranges.StreamOptions{
		WindowBytes: t.req.Window,
		NoVerify:    true, // the digest is stronger than any CRC
	})
	defer stream.Close()
	p := &pipeline{
		layer: t.req.Layer, limits: t.f.opts.Limits, windows: t.f.windows, priority: t.f.priority,
		resume:  resume,
		open:    t.seal,
		onFetch: func(n int64) { t.progress(n, 0) },
		onTar:   func(n int64) { t.progress(0, n) },
	}
	t.pipeline = p
	p.source.stream = stream
	if tee != nil {
		p.source.tee = tee
	}
	t.publishFlow(func() (int64, bool) { return obj.Arrived(), p.source.waiting.Load() })
	if file != nil && file.Every() > 0 {
		p.checkpoints = newCheckpoints(p, file, t.f.opts.Log)
	}
	if resume != nil {
		t.reportResumed(resume)
	} else if x := t.f.opts.Indexes; x != nil {
		if p.decoded.index = x.Load(t.req.Layer); p.decoded.index == nil {
			p.decoded.recorder, p.decoded.learns = index.NewRecorder(0), true
		}
	}
	p.run(t.ctx, t.f.opts.Memory)
	t.keepCheckpoint(file)
	t.logPanic()
	for _, s := range p.targets.all {
		if errors.Is(s.err, ErrDigest) {
			return s.err
		}
	}
	if !slices.ContainsFunc(p.targets.all, func(s *Target) bool { return s.err == nil }) {
		return nil
	}
	t.saveIndex()
	if tee != nil {
		if err := tee.Commit(); err != nil {
			t.fail(err)
			return err
		}
	}
	return nil
}

// logPanic logs the first panic among the errors of the targets, with its
// stack.
func (t *transfer) logPanic() {
	for _, s := range t.pipeline.targets.all {
		if bad, ok := errors.AsType[*panics.Error](s.err); ok {
			t.f.opts.Log.Error("a layer made the decoder panic; only this layer has failed", "digest", t.digest(),
				"panic", fmt.Sprint(bad.Value), "stack", string(bad.Stack))
			return
		}
	}
}

// checkpointFile returns the checkpoint file of the only target. It returns nil
// if several targets want the layer.
func (t *transfer) checkpointFile() *checkpoint.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.targets) != 1 {
		return nil
	}
	return t.targets[0].Checkpoint
}

// openCopy returns the writer that receives a copy of the blob, or nil. A
// resumed layer needs a copy that already holds the earlier bytes; without it,
// openCopy resets the targets, so that the layer restarts.
func (t *transfer) openCopy(file *checkpoint.File) (BlobWriter, error) {
	if t.req.Blobs == nil {
		return nil, nil
	}
	if from := file.Resume(); from != nil {
		w, err := t.resumeCopy(from)
		if err == nil {
			return w, nil
		}
		t.f.opts.Log.Debug("refetching blob from the start", "digest", t.digest(), "err", err)
		for _, s := range t.seal() {
			if err := s.reset(); err != nil {
				return nil, err
			}
		}
	}
	return t.req.Blobs.Create(t.ctx, t.req.Layer.Descriptor)
}

// resumeCopy continues the copy of a blob if its first bytes match the
// checkpoint.
func (t *transfer) resumeCopy(from *checkpoint.State) (BlobWriter, error) {
	h := t.req.Layer.Digest.Algorithm().Hash()
	w, err := t.req.Blobs.Resume(t.ctx, t.req.Layer.Descriptor, from.Received, h)
	if err != nil || w == nil {
		return w, err
	}
	state, err := checkpoint.AppendHash(nil, h)
	if err == nil && !bytes.Equal(state, from.BlobHash) {
		err = fmt.Errorf("its first %d bytes differ from the received ones", from.Received)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// keepCheckpoint keeps the checkpoint of a layer after a network failure, or
// when the pull was cancelled, so that a later pull resumes from it. Otherwise
// it deletes the checkpoint.
func (t *transfer) keepCheckpoint(file *checkpoint.File) {
	if file == nil {
		return
	}
	all := t.pipeline.targets.all
	if len(all) == 0 || all[0].Checkpoint != file {
		return // its target has left, and may resume from the saved state
	}
	s := all[0]
	_, network := errors.AsType[*ranges.Error](s.err)
	if s.err == nil || !network && t.ctx.Err() == nil && s.Ctx.Err() == nil {
		file.Drop()
	}
}

// checkpointFailed reports whether a resumed layer failed in a way that the
// checkpoint may have caused, so that restarting could succeed.
func (t *transfer) checkpointFailed() bool {
	p := t.pipeline
	if p == nil || p.resume == nil || t.ctx.Err() != nil || len(p.targets.all) == 0 {
		return false
	}
	s := p.targets.all[0]
	_, network := errors.AsType[*ranges.Error](s.err)
	full := errors.Is(s.err, syscall.ENOSPC) || errors.Is(s.err, syscall.EDQUOT)
	return s.err != nil && !network && !full && s.Ctx.Err() == nil
}

// saveIndex saves the index that a successful pipeline recorded, and removes
// one that proved wrong.
func (t *transfer) saveIndex() {
	d := &t.pipeline.decoded
	switch x := t.f.opts.Indexes; {
	case x == nil:
	case d.indexWrong:
		x.Remove(t.req.Layer, "it does not match the layer")
	case d.learns && d.format == inflate.Gzip:
		x.Save(t.req.Layer, d.recorder, d.tar)
	}
}

// reportResumed reports the bytes of an earlier attempt to the only target.
func (t *transfer) reportResumed(from *checkpoint.State) {
	t.mu.Lock()
	t.received += from.Received
	targets := t.targets
	t.mu.Unlock()
	for _, s := range targets {
		s.Resumed(from.Received, from.Tar)
	}
}

// progress reports bytes to all targets.
func (t *transfer) progress(compressed, tar int64) {
	t.mu.Lock()
	t.received += compressed
	targets := t.targets
	t.mu.Unlock()
	for _, s := range targets {
		s.Notify(compressed, tar)
	}
}

// publishFlow gives all targets the function that reports the progress of the
// fetch.
func (t *transfer) publishFlow(flow func() (arrived int64, waiting bool)) {
	t.mu.Lock()
	t.flow = flow
	targets := t.targets
	t.mu.Unlock()
	for _, s := range targets {
		s.watch(flow)
	}
}

// fail sets the error of all targets whose context has not ended.
func (t *transfer) fail(err error) {
	for _, s := range t.seal() {
		if s.Ctx.Err() == nil {
			s.err = err
		}
	}
}

// reset undoes a failed attempt before the next one. It waits until all targets
// have received the bytes that it takes back.
func (t *transfer) reset() error {
	t.seal()
	t.joining.Wait()
	t.progress(-t.pipeline.source.received, -t.pipeline.decoded.tar)
	var errs error
	for _, s := range t.seal() {
		errs = errors.Join(errs, s.reset())
	}
	return errs
}
