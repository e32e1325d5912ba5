package soci

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// The pipeline of one layer. Each arrow is a bounded queue, each box a goroutine:
//
//	ranges -> [fetch: digest] -> [inflate] -> [DiffID]
//	                                      \-> [untar] -> writers of the pool
//
// No deadlock: fetch waits for the engine (which always grants a stream its head)
// or for inflate; inflate waits for fetch or for a free block; a block is free when
// DiffID and untar are done with it; DiffID waits for blocks only, untar for
// blocks and for the writers, who wait for the kernel only.
const (
	// blockBytes is how the tar stream is handed on: small enough for the
	// second-level cache, large enough that a hand-over (about 1 us) is noise.
	blockBytes = 256 << 10
	// ringBlocks for each layer: one being filled, hashed, parsed and written each,
	// and as many again for jitter.
	ringBlocks = 8
	ringBytes  = blockBytes * ringBlocks
)

// pipeline is the state of one layer in work.
type pipeline struct {
	desc   registry.Layer
	stream *ranges.Stream
	notify func(compressed, tar int64)
	ratio  float64 // negative: no limit

	parts  chan ranges.Part // fetch to inflate
	free   chan *block
	hashed chan *block
	parsed chan *block

	// stopped is closed when inflate needs no more parts; fetch then goes on alone
	// so that the digest tells whether the blob itself is to blame.
	stopped  chan struct{}
	stopOnce sync.Once

	format   inflate.Format
	received int64 // compressed bytes; fetch's until it ends
	fed      atomic.Int64
	tarBytes int64 // inflate's until it ends
	timing   Timing
	hashing  atomic.Int64 // nanoseconds

	digest, diffID hash.Hash
}

// block is a piece of the tar stream that two goroutines read.
type block struct {
	buf  *budget.Buf
	n    int
	uses atomic.Int32
}

var (
	// errStopped is what inflate returns when its output is not wanted any more.
	errStopped = errors.New("stopped")
	// errCut ends fetch when the digest could not say more than is known.
	errCut = errors.New("cut")
)

// unpack runs the pipeline into dir and returns only when both digests are right.
func (p *pipeline) unpack(ctx context.Context, mem *budget.Budget, dir string, opts untar.Options) (*untar.Layer, error) {
	start := time.Now()
	p.digest, p.diffID = p.desc.Digest.Algorithm().Hash(), p.desc.DiffID.Algorithm().Hash()
	p.parts = make(chan ranges.Part, 1)
	p.stopped = make(chan struct{})
	p.free = make(chan *block, ringBlocks)
	p.hashed, p.parsed = make(chan *block, ringBlocks), make(chan *block, ringBlocks)
	ring := make([]block, ringBlocks)
	for i := range ring {
		ring[i].buf = mem.MustGet(blockBytes)
		p.free <- &ring[i]
	}
	defer func() {
		for i := range ring {
			ring[i].buf.Release()
		}
	}()
	var fetchErr, inflateErr error
	var wg sync.WaitGroup
	life, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	wg.Go(func() { fetchErr = p.fetch(life) })
	wg.Go(func() { inflateErr = p.inflate(life); p.stop(cut, inflateErr) })
	wg.Go(p.hash)
	out := &blockReader{p: p}
	layer, err := untar.Extract(ctx, out, dir, opts)
	if err == nil {
		err = out.drain() // padding behind the archive belongs to the DiffID
	}
	if err != nil {
		p.stop(cut, err)
	}
	out.abandon()
	wg.Wait()
	p.timing.Hash += time.Duration(p.hashing.Load())
	p.timing.Wall = time.Since(start)
	if err := p.judge(ctx, fetchErr, inflateErr, err); err != nil {
		return nil, err
	}
	p.timing.Write = layer.Write
	return layer, nil
}

// stop ends the consumers of parts for a reason. Damage may come from a wrong blob:
// then fetch goes on alone, and the digest tells. Anything else ends it too.
func (p *pipeline) stop(cut context.CancelCauseFunc, err error) {
	p.stopOnce.Do(func() {
		close(p.stopped)
		if err != nil && !errors.Is(err, inflate.ErrCorrupt) && !errors.Is(err, untar.ErrFormat) {
			cut(errCut)
		}
	})
}

// judge finds the cause among the failures of the goroutines: the network first,
// then a wrong blob, then what was found in it.
func (p *pipeline) judge(ctx context.Context, fetch, inflated, untarred error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	isCut := errors.Is(fetch, errCut)
	if fetch != nil && !isCut {
		if re, ok := errors.AsType[*ranges.Error](fetch); ok && errors.Is(fetch, ranges.ErrChanged) {
			// Blobs do not change: the size in the manifest is a lie.
			lie := *re
			lie.Err = marked{fmt.Errorf("the manifest says %d bytes: %w", p.desc.Size, re.Err), ErrDigest}
			return &lie
		}
		return fetch
	}
	if got := digest.NewDigest(p.desc.Digest.Algorithm(), p.digest); !isCut && (got != p.desc.Digest || p.received != p.desc.Size) {
		return marked{fmt.Errorf("digest mismatch: expected %s (%d bytes), got %s (%d bytes)", p.desc.Digest, p.desc.Size, got, p.received), ErrDigest}
	}
	if untarred != nil && (inflated == nil || errors.Is(inflated, errStopped) || errors.Is(inflated, errCut)) {
		return untarred
	}
	if inflated != nil && !errors.Is(inflated, errCut) {
		return inflated
	}
	if isCut {
		return untarred
	}
	if got := digest.NewDigest(p.desc.DiffID.Algorithm(), p.diffID); got != p.desc.DiffID {
		return marked{fmt.Errorf("digest mismatch: expected DiffID %s, got %s", p.desc.DiffID, got), ErrDigest}
	}
	return nil
}

// fetch takes parts from the engine, hashes them and hands them on.
func (p *pipeline) fetch(ctx context.Context) error {
	defer close(p.parts)
	for {
		part, err := p.stream.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		data := part.Buf.Bytes()
		start := time.Now()
		p.digest.Write(data)
		p.hashing.Add(int64(time.Since(start)))
		p.received += int64(len(data))
		p.notify(int64(len(data)), 0)
		select {
		case p.parts <- part:
		case <-p.stopped:
			part.Buf.Release()
		case <-ctx.Done():
			part.Buf.Release()
			return context.Cause(ctx)
		}
	}
}

// inflate fills blocks until the stream ends.
func (p *pipeline) inflate(ctx context.Context) error {
	defer close(p.hashed)
	defer close(p.parsed)
	in := &partReader{p: p}
	defer in.close()
	r, err := inflate.NewReader(in, inflate.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	p.format = r.Format()
	for {
		var b *block
		select {
		case b = <-p.free:
		case <-p.stopped:
			return errStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		start, waited := time.Now(), in.waited
		b.n, err = io.ReadFull(r, b.buf.Bytes())
		p.timing.Inflate += time.Since(start) - (in.waited - waited)
		p.timing.Network = in.waited
		if b.n > 0 {
			p.tarBytes += int64(b.n)
			p.notify(0, int64(b.n))
			b.uses.Store(2)
			p.hashed <- b // both queues hold all blocks: never blocks
			p.parsed <- b
		}
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, inflate.ErrCorrupt):
			return in.rest()
		case err != nil:
			return err
		case p.bomb():
			return fmt.Errorf("%w: layer expands more than %g times", untar.ErrLimit, p.ratio)
		}
	}
}

// bomb reports whether the layer expands beyond its ratio.
func (p *pipeline) bomb() bool {
	return p.ratio >= 0 && p.tarBytes > ratioFree && float64(p.tarBytes) > p.ratio*float64(p.fed.Load())
}

// hash computes the DiffID.
func (p *pipeline) hash() {
	for b := range p.hashed {
		start := time.Now()
		p.diffID.Write(b.buf.Bytes()[:b.n])
		p.hashing.Add(int64(time.Since(start)))
		p.done(b)
	}
}

func (p *pipeline) done(b *block) {
	if b.uses.Add(-1) == 0 {
		p.free <- b
	}
}

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

// blockReader is the tar stream as untar reads it.
type blockReader struct {
	p    *pipeline
	b    *block
	left []byte
}

// Read implements io.Reader. A failed inflate looks like an early end, as above.
func (r *blockReader) Read(dst []byte) (int, error) {
	for len(r.left) == 0 {
		if !r.next() {
			return 0, io.EOF
		}
	}
	n := copy(dst, r.left)
	r.left = r.left[n:]
	return n, nil
}

// NextBlock implements untar.BlockReader: files are written from the block itself.
func (r *blockReader) NextBlock(context.Context) (untar.Block, error) {
	b, ok := <-r.p.parsed
	if !ok {
		return untar.Block{}, io.EOF
	}
	return untar.Block{Data: b.buf.Bytes()[:b.n], Release: func() { r.p.done(b) }}, nil
}

func (r *blockReader) next() bool {
	r.release()
	b, ok := <-r.p.parsed
	if ok {
		r.b, r.left = b, b.buf.Bytes()[:b.n]
	}
	return ok
}

func (r *blockReader) release() {
	if r.b != nil {
		r.p.done(r.b)
		r.b, r.left = nil, nil
	}
}

// drain reads to the end.
func (r *blockReader) drain() error {
	for r.next() {
	}
	return nil
}

// abandon gives blocks back until inflate has noticed that it should end.
func (r *blockReader) abandon() {
	r.release()
	for b := range r.p.parsed {
		r.p.done(b)
	}
}
