package soci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// flightKey names what is the same for everybody who wants it. Another repository may be slow, refuse
// the layer or send wrong bytes, so nobody waits for it who did not name it.
type flightKey struct {
	digest, diffID   digest.Digest
	host, repository string
}

// flight is one layer being fetched, for any number of sinks. Sinks may join until
// the first block is out; who comes later makes a flight of its own. A flight ends
// with its last sink.
type flight struct {
	p      *Puller
	ref    registry.Reference
	desc   registry.Layer
	window int64
	store  BlobStore

	ctx    context.Context //nolint:containedctx // of the flight, which outlives those who leave it
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu     sync.Mutex // guards what follows; a leaf lock
	sinks  []*sink    // whose callers still wait; replaced, not changed
	sealed bool       // nobody joins any more
	// flow tells how the fetch goes on, see UnpackOptions.Watch; nil before it begins.
	flow     func() (arrived int64, waiting bool)
	received int64

	// Written before ended is closed.
	pl    *pipeline // the last one
	notes []string
}

// request is what a caller of fly wants.
type request struct {
	ref    registry.Reference
	desc   registry.Layer
	window int64     // bytes fetched ahead
	store  BlobStore // nil: no copy of the blob
}

// errNobody ends a flight that all have left.
var errNobody = errors.New("nobody waits for this layer")

// fly fetches a layer into all sinks, together with whoever else wants it now from the same repository. It
// returns the flight when it has ended, or the first error of the sinks.
func (p *Puller) fly(ctx context.Context, r request, sinks ...*sink) (*flight, error) {
	f := p.board(r, sinks)
	err := f.wait(ctx, sinks)
	if err == nil {
		return f, nil
	}
	for _, s := range sinks {
		s.forget()
	}
	return nil, err
}

// board joins the flight of a layer or starts one.
func (p *Puller) board(r request, sinks []*sink) *flight {
	key := flightKey{r.desc.Digest, r.desc.DiffID, r.ref.Host, r.ref.Repository}
	// Who goes on from a checkpoint goes alone: others would miss the beginning.
	alone := slices.ContainsFunc(sinks, func(s *sink) bool { return s.part != nil && s.part.from != nil })
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.flights[key]
	if before != nil && r.store == nil && !alone && before.join(sinks) {
		return before
	}
	f := &flight{p: p, ref: r.ref, desc: r.desc, window: r.window, store: r.store, ended: make(chan struct{}), sinks: sinks}
	f.sealed = alone
	f.ctx, f.cancel = context.WithCancelCause(p.life)
	if before == nil || !alone {
		p.flights[key] = f
	}
	p.wg.Go(func() {
		f.run()
		f.count()
		p.mu.Lock()
		if p.flights[key] == f {
			delete(p.flights, key)
		}
		p.mu.Unlock()
		f.cancel(nil)
		close(f.ended)
	})
	return f
}

// join adds sinks if the flight has not begun to give blocks out.
func (f *flight) join(sinks []*sink) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed || len(f.sinks) == 0 {
		return false
	}
	f.sinks = append(slices.Clip(f.sinks), sinks...)
	for _, s := range sinks {
		s.notify(f.received, 0)
		s.watches(f.flow)
	}
	return true
}

// seal returns the sinks, for good.
func (f *flight) seal() []*sink {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = true
	return f.sinks
}

// wait waits for the outcome, or leaves the flight when ctx ends.
func (f *flight) wait(ctx context.Context, sinks []*sink) error {
	select {
	case <-f.ended:
		for _, s := range sinks {
			if s.err != nil {
				return s.err
			}
		}
		return nil
	case <-ctx.Done():
		f.leave(sinks)
		return context.Cause(ctx)
	}
}

// leave takes sinks out. When it returns their directories are the caller's again.
func (f *flight) leave(sinks []*sink) {
	f.mu.Lock()
	f.sinks = slices.DeleteFunc(slices.Clone(f.sinks), func(s *sink) bool { return slices.Contains(sinks, s) })
	last := len(f.sinks) == 0
	f.mu.Unlock()
	for _, s := range sinks {
		s.use.Lock() // their context has ended, so this is soon
		s.left = true
		s.use.Unlock()
	}
	if last {
		f.cancel(errNobody)
		<-f.ended
	}
}

// run fetches the layer, more than once if a mirror sent wrong bytes.
func (f *flight) run() {
	blob, err := f.p.client.Layer(f.ref, f.desc)
	if err != nil {
		f.fail(err)
		return
	}
	for {
		err := f.once(blob)
		if f.misled() {
			f.p.opts.Log.Warn("a checkpoint was of no use", "digest", f.desc.Digest.String(), "err", f.pl.sinks[0].err)
			if err := f.again(); err != nil {
				f.fail(err)
				return
			}
			continue
		}
		if err == nil || !errors.Is(err, ErrDigest) || f.ctx.Err() != nil {
			return
		}
		f.p.counts.wrong.Add(1)
		said, next := blob.Elsewhere()
		if said != "" {
			f.notes = append(f.notes, fmt.Sprintf("%s sent wrong bytes for %s", said, f.desc.Digest))
			f.p.opts.Log.Warn("wrong bytes", "from", said, "digest", f.desc.Digest.String(), "again", next != nil)
		}
		if next == nil {
			if said != "" {
				f.fail(marked{fmt.Errorf("%s: %w", said, err), ErrDigest})
			}
			return
		}
		if err := f.again(); err != nil {
			f.fail(err)
			return
		}
		blob = next
	}
}

// count adds the outcome to the Puller's counters.
func (f *flight) count() {
	ok := f.pl != nil && slices.ContainsFunc(f.pl.sinks, func(s *sink) bool { return s.err == nil })
	switch {
	case ok:
		f.p.counts.layers.Add(1)
		f.p.counts.tar.Add(f.pl.tarBytes)
	case f.ctx.Err() == nil:
		f.p.counts.failed.Add(1)
	}
}

// once runs one pipeline and returns the error that all sinks share.
func (f *flight) once(blob *registry.Blob) error {
	part := f.part()
	tee, err := f.tee(part)
	if err != nil {
		f.seal()
		f.fail(err)
		return err
	}
	if tee != nil {
		defer tee.Close()
	}
	obj := f.p.engine.Object(blob, ranges.Spec{Name: f.desc.Digest.String(), Host: blob.Host(), Size: f.desc.Size})
	var from *partial
	var begin int64
	if part != nil && part.from != nil {
		from, begin = part.from, part.from.Point.Bits/8
	}
	stream := obj.Stream(f.ctx, begin, -1, ranges.StreamOptions{
		WindowBytes: f.window,
		NoVerify:    true, // the digest is stronger than any CRC
	})
	defer stream.Close()
	f.pl = &pipeline{
		lineup: f.p.lineup, windows: f.p.windows,
		desc: f.desc, stream: stream, limits: f.p.opts.Limits, open: f.seal,
		onFetch: func(n int64) { f.tell(n, 0) },
		onTar:   func(n int64) { f.tell(0, n) },
	}
	if tee != nil {
		f.pl.tee = tee
	}
	pl := f.pl
	f.watched(func() (int64, bool) { return obj.Arrived(), pl.awaits.Load() })
	if part != nil && part.every > 0 {
		f.pl.from = from
		f.pl.ckpt = newCheckpoints(f.pl, part, f.p.opts.Log)
	}
	if from != nil {
		f.takeUp(from)
	} else if x := f.p.indexes; x != nil {
		if f.pl.index = x.load(f.desc); f.pl.index == nil {
			f.pl.record, f.pl.learns = index.NewRecorder(0), true
		}
	}
	f.pl.run(f.ctx, f.p.mem)
	f.keepPart(part)
	for _, s := range f.pl.sinks {
		if bad, ok := errors.AsType[*panics.Error](s.err); ok {
			f.p.opts.Log.Error("a layer made the decoder panic; only this layer has failed", "digest", f.desc.Digest.String(),
				"panic", fmt.Sprint(bad.Value), "stack", string(bad.Stack))
			break
		}
	}
	for _, s := range f.pl.sinks {
		if errors.Is(s.err, ErrDigest) {
			return s.err
		}
	}
	good := slices.ContainsFunc(f.pl.sinks, func(s *sink) bool { return s.err == nil })
	if good {
		f.learn()
	}
	if tee != nil && good {
		if err := tee.Commit(); err != nil {
			f.fail(err)
			return err
		}
	}
	return nil
}

// part is where checkpoints of the layer are kept; nil when several want it.
func (f *flight) part() *partFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sinks) != 1 {
		return nil
	}
	return f.sinks[0].part
}

// tee returns who gets a copy of the blob; nil: nobody wants one. Who goes on from a checkpoint
// needs one that holds what came before it; else the layer begins anew.
func (f *flight) tee(part *partFile) (BlobWriter, error) {
	if f.store == nil {
		return nil, nil
	}
	if part != nil && part.from != nil {
		w, err := f.resumeBlob(part.from)
		if err == nil {
			return w, nil
		}
		f.p.opts.Log.Debug("a blob is begun anew", "digest", f.desc.Digest.String(), "err", err)
		for _, s := range f.seal() {
			if err := s.reset(); err != nil {
				return nil, err
			}
		}
	}
	return f.store.Create(f.ctx, f.desc.Descriptor)
}

// resumeBlob goes on with the copy of a blob whose digest had a state.
func (f *flight) resumeBlob(from *partial) (BlobWriter, error) {
	store, ok := f.store.(BlobResumer)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	h := f.desc.Digest.Algorithm().Hash()
	w, err := store.Resume(f.ctx, f.desc.Descriptor, from.Received, h)
	if err != nil || w == nil { // nil: it has the blob
		return w, err
	}
	state, err := stateOf(nil, h)
	if err == nil && !bytes.Equal(state, from.Blob) {
		err = fmt.Errorf("its first %d bytes are not those that were received", from.Received)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// keepPart drops the checkpoint of a layer unless it may be gone on with: after a failure
// of the network, or when the pull was ended.
func (f *flight) keepPart(part *partFile) {
	if part == nil {
		return
	}
	if len(f.pl.sinks) == 0 || f.pl.sinks[0].part != part {
		return // its owner has left, and may come back to what was saved
	}
	s := f.pl.sinks[0]
	_, network := errors.AsType[*ranges.Error](s.err)
	if s.err == nil || !network && f.ctx.Err() == nil && s.ctx.Err() == nil {
		part.drop()
	}
}

// misled reports whether a layer that was gone on with failed in a way that may come from
// its checkpoint, and may be had from its beginning.
func (f *flight) misled() bool {
	if f.pl == nil || f.pl.from == nil || f.ctx.Err() != nil || len(f.pl.sinks) == 0 {
		return false
	}
	s := f.pl.sinks[0]
	_, network := errors.AsType[*ranges.Error](s.err)
	full := errors.Is(s.err, syscall.ENOSPC) || errors.Is(s.err, syscall.EDQUOT)
	return s.err != nil && !network && !full && s.ctx.Err() == nil
}

// learn keeps what a pipeline that has ended well found out about where its layer can be
// decoded from.
func (f *flight) learn() {
	switch x := f.p.indexes; {
	case x == nil:
	case f.pl.indexWrong:
		x.remove(f.desc, "what it says is not so")
	case f.pl.learns && f.pl.format == inflate.Gzip:
		x.save(f.desc, f.pl.record, f.pl.tarBytes)
	}
}

// takeUp tells the only sink what is there from an earlier attempt.
func (f *flight) takeUp(from *partial) {
	f.mu.Lock()
	f.received += from.Received
	sinks := f.sinks
	f.mu.Unlock()
	for _, s := range sinks {
		s.resumed(from.Received, from.Tar)
	}
}

// tell passes progress on.
func (f *flight) tell(compressed, tar int64) {
	f.mu.Lock()
	f.received += compressed
	sinks := f.sinks
	f.mu.Unlock()
	for _, s := range sinks {
		s.notify(compressed, tar)
	}
}

// watched passes on how the fetch can be watched.
func (f *flight) watched(flow func() (arrived int64, waiting bool)) {
	f.mu.Lock()
	f.flow = flow
	sinks := f.sinks
	f.mu.Unlock()
	for _, s := range sinks {
		s.watches(flow)
	}
}

func (s *sink) watches(flow func() (arrived int64, waiting bool)) {
	if s.watch != nil && flow != nil {
		s.watch(flow)
	}
}

// fail gives all sinks that have no worse one an error.
func (f *flight) fail(err error) {
	for _, s := range f.seal() {
		if s.ctx.Err() == nil {
			s.err = err
		}
	}
}

// again takes back what a wrong attempt did.
func (f *flight) again() error {
	f.tell(-f.pl.received, -f.pl.tarBytes)
	var errs error
	for _, s := range f.seal() {
		errs = errors.Join(errs, s.reset())
	}
	return errs
}

// forget drops what a sink got, when its caller does not want it.
func (s *sink) forget() {
	s.use.Lock()
	defer s.use.Unlock()
	s.layer.Release()
	s.layer = nil
}

// reset empties the directory of a sink.
func (s *sink) reset() error {
	s.use.Lock()
	defer s.use.Unlock()
	if s.left {
		return nil
	}
	s.layer.Release()
	s.layer, s.err = nil, nil
	s.part.drop()
	if err := untar.RemoveAll(s.dir); err != nil {
		return err
	}
	return os.Mkdir(s.dir, 0o755)
}
