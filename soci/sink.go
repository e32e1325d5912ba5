package soci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/untar"
)

// partReader is the compressed stream as inflate reads it.
type partReader struct {
	p      *pipeline
	part   ranges.Part
	left   []byte
	waited time.Duration
}

// Read implements io.Reader. A fetch that failed looks like an early end: judge
// looks at fetch first.
func (r *partReader) Read(dst []byte) (int, error) {
	for len(r.left) == 0 {
		r.close()
		start := time.Now()
		part, ok := <-r.p.parts
		r.waited += time.Since(start)
		if !ok {
			return 0, io.EOF
		}
		r.part, r.left = part, part.Buf.Bytes()
	}
	n := copy(dst, r.left)
	r.left = r.left[n:]
	r.p.fed.Add(int64(n))
	return n, nil
}

// rest takes what the decoder left.
func (r *partReader) rest() error {
	var extra int64
	buf := make([]byte, 4<<10) // bytes; there is nothing to read but in a strange blob
	for {
		n, err := r.Read(buf)
		extra += int64(n)
		if err == io.EOF {
			break
		}
	}
	if extra > 0 {
		return fmt.Errorf("%w: %d bytes after the end of the compressed stream", inflate.ErrCorrupt, extra)
	}
	return nil
}

func (r *partReader) close() {
	if r.part.Buf != nil {
		r.part.Buf.Release()
		r.part, r.left = ranges.Part{}, nil
	}
}

// sink is one directory that wants a layer.
type sink struct {
	ctx    context.Context //nolint:containedctx // of the caller who waits for the sink
	dir    string          // empty when the layer begins
	opts   untar.Options
	notify func(compressed, tar int64)
	// resumed is told of bytes that were received, and inflated, by an earlier attempt.
	resumed func(compressed, tar int64)

	// watch gets a function that tells how the fetch goes on; nil if nobody wants to know.
	watch func(flow func() (arrived int64, waiting bool))

	part *partFile // where checkpoints are kept; nil: nowhere

	queue chan *block

	use  sync.Mutex // held while the flight writes to dir; guards what follows
	left bool       // the caller has taken dir back
	// The outcome, the caller's when the flight has ended.
	layer *untar.Layer
	err   error
}

// extract unpacks what comes in the queue.
func (s *sink) extract(p *pipeline) {
	s.use.Lock()
	defer s.use.Unlock()
	if s.left {
		s.err = errStopped
		return
	}
	r := &blockReader{p: p, s: s}
	opts := s.opts
	if c := p.ckpt; c != nil && len(p.sinks) == 1 && s.part == c.file {
		r.ckpt, opts.Checkpoints = c, c.untar()
	}
	s.layer, s.err = untar.Extract(s.ctx, r, s.dir, opts)
	for s.err == nil { // padding behind the archive belongs to the DiffID
		var b untar.Block
		if b, s.err = r.NextBlock(s.ctx); s.err == nil {
			b.Release()
		}
	}
	if s.err == io.EOF {
		s.err = nil
	}
}

// blockReader is the tar stream as untar reads it.
type blockReader struct {
	p    *pipeline
	s    *sink
	ckpt *checkpoints // of this sink; nil: none
}

// Read is there to be an io.Reader: untar takes blocks.
func (*blockReader) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// NextBlock implements untar.BlockReader: files are written from the block itself. A
// failed inflate looks like an early end, as above.
func (r *blockReader) NextBlock(ctx context.Context) (untar.Block, error) {
	select {
	case b, ok := <-r.s.queue:
		if !ok {
			return untar.Block{}, io.EOF
		}
		if r.ckpt != nil {
			r.ckpt.cur = b
		}
		return untar.Block{Data: b.buf.Bytes()[:b.n], Release: func() { r.p.done(b, &r.p.lastTar) }}, nil
	case <-ctx.Done():
		return untar.Block{}, context.Cause(ctx)
	}
}
