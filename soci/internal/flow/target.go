package flow

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Target is one directory that a layer is unpacked into. Notify and Resumed
// must be set.
type Target struct {
	Ctx   context.Context //nolint:containedctx // of the caller that waits for the target
	Dir   string          // an empty directory, unless the layer is resumed
	Untar untar.Options
	// Notify receives the bytes received and inflated. They are negative if the
	// bytes were wrong. A call may block to limit the rate. It is called from
	// several goroutines, and never with a lock of the Fetcher held.
	Notify func(compressed, tar int64)
	// Resumed receives the bytes received and inflated by an earlier attempt.
	Resumed func(compressed, tar int64)
	// Watch, if set, receives a function that reports the progress of the
	// fetch.
	Watch func(flow func() (arrived int64, waiting bool))
	// Checkpoint keeps the checkpoints of the layer, or is nil.
	Checkpoint *checkpoint.File

	// Layer is the unpacked layer after a successful Fetch.
	Layer *untar.Layer

	queue chan *block

	use  sync.Mutex // held while the transfer writes to Dir; guards left
	left bool       // Dir belongs to the caller again
	err  error      // the outcome, valid when the transfer has ended
}

// watch gives the target the function that reports the progress of the fetch.
func (s *Target) watch(flow func() (arrived int64, waiting bool)) {
	if s.Watch != nil && flow != nil {
		s.Watch(flow)
	}
}

// release drops the layer of a failed Fetch.
func (s *Target) release() {
	s.use.Lock()
	defer s.use.Unlock()
	s.Layer.Release()
	s.Layer = nil
}

// reset empties the directory and drops the checkpoint, unless the directory
// belongs to the caller again.
func (s *Target) reset() error {
	s.use.Lock()
	defer s.use.Unlock()
	if s.left {
		return nil
	}
	s.Layer.Release()
	s.Layer, s.err = nil, nil
	s.Checkpoint.Drop()
	if err := untar.RemoveAll(s.Dir); err != nil {
		return err
	}
	return os.Mkdir(s.Dir, 0o755)
}

// extract unpacks the blocks of the queue.
func (s *Target) extract(p *pipeline) {
	s.use.Lock()
	defer s.use.Unlock()
	if s.left {
		s.err = errStopped
		return
	}
	r := &blockReader{ring: &p.ring, queue: s.queue}
	opts := s.Untar
	if c := p.checkpoints; c != nil && len(p.targets.all) == 1 && s.Checkpoint == c.file {
		r.checkpoints, opts.Checkpoints = c, c.untar()
	}
	s.Layer, s.err = untar.Extract(s.Ctx, r, s.Dir, opts)
	for s.err == nil { // the DiffID covers the padding behind the archive
		var b untar.Block
		if b, s.err = r.NextBlock(s.Ctx); s.err == nil {
			b.Release()
		}
	}
	if s.err == io.EOF {
		s.err = nil
	}
}

// blockReader reads the tar of one target. It implements untar.BlockReader, so
// that files are written from the blocks without a copy.
type blockReader struct {
	ring        *ring
	queue       chan *block
	checkpoints *checkpoints // of this target, or nil
}

// Read makes blockReader an io.Reader. untar calls NextBlock instead.
func (*blockReader) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// NextBlock implements untar.BlockReader. It returns io.EOF after a failed
// inflate as well; see pipeline.outcome.
func (r *blockReader) NextBlock(ctx context.Context) (untar.Block, error) {
	select {
	case b, ok := <-r.queue:
		if !ok {
			return untar.Block{}, io.EOF
		}
		if r.checkpoints != nil {
			r.checkpoints.current = b
		}
		return untar.Block{Data: b.buf.Bytes()[:b.n], Release: func() { r.ring.release(b, &r.ring.lastTar) }}, nil
	case <-ctx.Done():
		return untar.Block{}, context.Cause(ctx)
	}
}
