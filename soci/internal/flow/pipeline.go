package flow

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// pipeline fetches and unpacks one layer. It runs once.
type pipeline struct {
	layer    registry.Layer
	limits   Limits
	windows  *windows          // nil in tests, where zstd frames take memory freely
	priority *priority         // nil if all layers are equal
	resume   *checkpoint.State // nil if the layer starts at the beginning

	// open returns the final targets. It is called once: when the first block is
	// decoded, or when the pipeline ends before that.
	open    func() []*Target
	onFetch func(n int64) // compressed bytes received
	onTar   func(n int64) // tar bytes inflated

	source      source  // owned by fetch until it ends
	decoded     decoded // owned by inflate until it ends
	ring        ring
	targets     targets
	stop        stop
	checkpoints *checkpoints // nil without a checkpoint file

	hashed   chan *block // from inflate to hashTar
	diffID   hash.Hash
	hashTime atomic.Int64 // nanoseconds of both digests
	timing   Timing
}

// targets are the readers of a pipeline.
type targets struct {
	all    []*Target    // set when the pipeline is opened
	active atomic.Int32 // number of targets whose extraction has not ended
}

// stop ends the steps of a pipeline early.
type stop struct {
	once  sync.Once
	cause error // of the first call of pipeline.end
	// done is closed when inflate needs no more parts. fetch may continue
	// alone, so that the digest shows whether the blob itself is at fault.
	done     chan struct{}
	cut      context.CancelCauseFunc // ends fetch and inflate
	endWaits context.CancelCauseFunc // ends the waits of inflate for memory
}

var (
	// errStopped is returned by inflate when its output is no longer wanted.
	errStopped = errors.New("stopped")
	// errCut ends fetch after a failure that a wrong blob cannot have caused,
	// so that its digest is not needed.
	errCut = errors.New("cut")
)

// run runs the pipeline and sets the outcome of its targets.
func (p *pipeline) run(ctx context.Context, mem *budget.Budget) {
	start := time.Now()
	p.source.digest, p.diffID = p.layer.Digest.Algorithm().Hash(), p.layer.DiffID.Algorithm().Hash()
	p.source.parts = make(chan ranges.Part, 1)
	p.stop.done = make(chan struct{})
	p.hashed = make(chan *block, ringBlocks)
	releaseRing := p.ring.allocate(mem)
	defer releaseRing()
	if p.resume != nil {
		if err := p.restore(); err != nil {
			p.targets.all = p.open()
			for _, s := range p.targets.all {
				s.err = fmt.Errorf("restore the state of a digest: %w", err)
			}
			return
		}
	}
	var fetchErr, inflateErr error
	var steps, readers sync.WaitGroup
	life, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	waits, endWaits := context.WithCancelCause(life)
	defer endWaits(nil)
	p.stop.cut, p.stop.endWaits = cut, endWaits
	steps.Go(func() { fetchErr = recovered(func() error { return p.fetch(life) }) })
	steps.Go(func() {
		inflateErr = recovered(func() error { return p.inflate(life, waits, mem, &readers) })
		p.end(inflateErr)
	})
	steps.Go(p.hashTar)
	steps.Wait()
	readers.Wait()
	p.timing.Hash += time.Duration(p.hashTime.Load())
	p.timing.Wall = time.Since(start)
	if h, t := p.ring.lastHash.Load(), p.ring.lastTar.Load(); h+t > 0 {
		p.timing.LastHash = float64(h) / float64(h+t)
	}
	for _, s := range p.targets.all {
		s.err = p.outcome(ctx, s.Ctx, fetchErr, inflateErr, s.err)
	}
}

// recovered runs a step and turns a panic into its error.
func recovered(step func() error) (err error) {
	defer panics.Recover(&err)
	return step()
}

// openTargets starts the targets, unless they have been started.
func (p *pipeline) openTargets(readers *sync.WaitGroup) {
	if p.targets.all != nil {
		return
	}
	p.targets.all = p.open()
	p.targets.active.Store(int32(len(p.targets.all))) //nolint:gosec // one for each layer of an image at most
	for _, s := range p.targets.all {
		p.feed(s, readers)
	}
}

// feed starts the extraction of a target.
func (p *pipeline) feed(s *Target, readers *sync.WaitGroup) {
	s.queue = make(chan *block, ringBlocks)
	readers.Go(func() {
		if bad := panics.Guard(func() { s.extract(p) }); bad != nil {
			s.err = bad
		}
		if p.targets.active.Add(-1) == 0 && s.err != nil {
			p.end(s.err)
		}
		for b := range s.queue { // until inflate stops and closes the queue
			p.ring.release(b, &p.ring.lastTar)
		}
	})
}

// end stops inflate. err is the reason, or nil if inflate is complete. If the
// content is damaged, fetch continues alone, because the digest then shows
// whether the blob is wrong. Any other error ends fetch as well.
func (p *pipeline) end(err error) {
	p.stop.once.Do(func() {
		p.stop.cause = err
		close(p.stop.done)
		p.stop.endWaits(errStopped)
		if err != nil && !errors.Is(err, inflate.ErrCorrupt) && !errors.Is(err, untar.ErrFormat) {
			p.stop.cut(errCut)
		}
	})
}

// outcome finds the cause of a target's failure among the errors of the steps.
// The network comes first, then a wrong blob, then errors in its content.
func (p *pipeline) outcome(ctx, target context.Context, fetched, inflated, untarred error) error {
	switch {
	case target.Err() != nil:
		return context.Cause(target)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	cut := errors.Is(fetched, errCut)
	if !cut {
		if err := p.checkBlob(fetched); err != nil {
			return err
		}
	}
	if err := p.contentError(inflated, untarred); err != nil {
		return err
	}
	if cut {
		return untarred
	}
	if got := digest.NewDigest(p.layer.DiffID.Algorithm(), p.diffID); got != p.layer.DiffID {
		return digestError{fmt.Errorf("digest mismatch: expected DiffID %s, got %s", p.layer.DiffID, got)}
	}
	return nil
}

// checkBlob returns the error of a fetch that was not cut. If there is no error,
// it checks the digest and the size of the blob.
func (p *pipeline) checkBlob(fetched error) error {
	if fetched != nil {
		re, ok := errors.AsType[*ranges.Error](fetched)
		if ok && (errors.Is(fetched, ranges.ErrSize) || errors.Is(fetched, ranges.ErrChanged)) {
			// Blobs do not change, so the manifest states the wrong size.
			wrong := *re
			wrong.Err = digestError{fmt.Errorf("the manifest says %d bytes: %w", p.layer.Size, re.Err)}
			return &wrong
		}
		return fetched
	}
	got := digest.NewDigest(p.layer.Digest.Algorithm(), p.source.digest)
	if got != p.layer.Digest || p.source.received != p.layer.Size {
		return digestError{fmt.Errorf("digest mismatch: expected %s (%d bytes), got %s (%d bytes)", p.layer.Digest, p.layer.Size, got, p.source.received)}
	}
	return nil
}

// contentError returns the error of inflate or of a target, whichever came
// first.
func (p *pipeline) contentError(inflated, untarred error) error {
	// After another failure the remaining parts are dropped, so that inflate
	// sees a truncated stream.
	truncated := errors.Is(inflated, inflate.ErrCorrupt) && p.stop.cause != nil && !errors.Is(p.stop.cause, inflate.ErrCorrupt)
	stopped := inflated == nil || errors.Is(inflated, errStopped) || errors.Is(inflated, errCut)
	if untarred != nil && (stopped || truncated) {
		return untarred
	}
	if errors.Is(inflated, errCut) {
		return nil
	}
	return inflated
}

// resumedAt returns the offset in the blob at which the fetch starts.
func (p *pipeline) resumedAt() int64 {
	if p.resume == nil {
		return 0
	}
	return p.resume.Point.Bits / 8
}

// restore sets the counters and digests to the state of the checkpoint.
func (p *pipeline) restore() error {
	p.source.received, p.decoded.tar = p.resume.Received, p.resume.Tar
	p.decoded.fed.Store(p.resume.Point.Bits / 8)
	return errors.Join(checkpoint.RestoreHash(p.source.digest, p.resume.BlobHash), checkpoint.RestoreHash(p.diffID, p.resume.DiffHash))
}

// hashTar computes the DiffID.
func (p *pipeline) hashTar() {
	for b := range p.hashed {
		if p.checkpoints != nil {
			p.checkpoints.hashing(p.diffID, b)
		}
		start := time.Now()
		p.diffID.Write(b.buf.Bytes()[:b.n])
		p.hashTime.Add(int64(time.Since(start)))
		p.ring.release(b, &p.ring.lastHash)
	}
}
