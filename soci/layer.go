package soci

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// The pipeline of one layer. Each arrow is a bounded queue, each box a goroutine:
//
//	ranges -> [fetch: digest, tee] -> [inflate] -> [DiffID]
//	                                           \-> [untar] -> writers of the pool
//
// There is one untar for each directory that wants the layer, see sink.
//
// No deadlock: fetch waits for the engine (which always grants a stream its head)
// or for inflate; inflate waits for fetch or for a free block; a block is free when
// DiffID and every untar are done with it; DiffID waits for blocks only, untar for
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

// pipeline is the state of one layer in work. It runs once.
type pipeline struct {
	desc   registry.Layer
	stream *ranges.Stream
	ratio  float64 // negative: no limit
	tee    io.Writer
	// open returns the sinks, once and for all: it is called when the first block is
	// there, or when there will be none.
	open     func() []*sink
	onFetch  func(n int64) // compressed bytes received
	onTar    func(n int64) // tar bytes inflated
	sinks    []*sink       // after open
	sinksOut atomic.Int32  // sinks that still want blocks, after open

	parts  chan ranges.Part // fetch to inflate
	free   chan *block
	hashed chan *block

	lineup *lineup       // nil: nobody goes first
	eased  chan struct{} // see lineup.yield

	// stopped is closed when inflate needs no more parts; fetch then goes on alone
	// so that the digest tells whether the blob itself is to blame.
	stopped  chan struct{}
	stopOnce sync.Once
	cut      context.CancelCauseFunc // of fetch and inflate

	index      *index.Index    // nil: none
	record     *index.Recorder // nil: nothing is recorded
	indexWrong bool            // index was

	format   inflate.Format
	received int64 // compressed bytes; fetch's until it ends
	fed      atomic.Int64
	tarBytes int64 // inflate's until it ends
	timing   Timing
	hashing  atomic.Int64 // nanoseconds
	lastHash atomic.Int64 // blocks that only DiffID still held in the end
	lastTar  atomic.Int64 // blocks that only an untar still held

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

// run runs the pipeline. The outcome is the sinks': see judge.
func (p *pipeline) run(ctx context.Context, mem *budget.Budget) {
	start := time.Now()
	p.digest, p.diffID = p.desc.Digest.Algorithm().Hash(), p.desc.DiffID.Algorithm().Hash()
	p.parts = make(chan ranges.Part, 1)
	p.stopped = make(chan struct{})
	p.free = make(chan *block, ringBlocks)
	p.hashed = make(chan *block, ringBlocks)
	p.eased = make(chan struct{}, 1)
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
	var wg, sinks sync.WaitGroup
	life, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	p.cut = cut
	wg.Go(func() { fetchErr = p.fetch(life) })
	wg.Go(func() { inflateErr = p.inflate(life, mem, &sinks); p.stop(inflateErr) })
	wg.Go(p.hash)
	wg.Wait()
	sinks.Wait()
	p.timing.Hash += time.Duration(p.hashing.Load())
	p.timing.Wall = time.Since(start)
	if h, t := p.lastHash.Load(), p.lastTar.Load(); h+t > 0 {
		p.timing.lastHash = float64(h) / float64(h+t)
	}
	for _, s := range p.sinks {
		s.err = p.judge(ctx, s.ctx, fetchErr, inflateErr, s.err)
	}
}

// feed starts a sink.
func (p *pipeline) feed(s *sink, wg *sync.WaitGroup) {
	s.queue = make(chan *block, ringBlocks)
	wg.Go(func() {
		s.extract(p)
		if p.sinksOut.Add(-1) == 0 && s.err != nil {
			p.stop(s.err)
		}
		for b := range s.queue { // until inflate has noticed
			p.done(b, &p.lastTar)
		}
	})
}

// stop ends the consumers of parts for a reason. Damage may come from a wrong blob:
// then fetch goes on alone, and the digest tells. Anything else ends it too.
func (p *pipeline) stop(err error) {
	p.stopOnce.Do(func() {
		close(p.stopped)
		if err != nil && !errors.Is(err, inflate.ErrCorrupt) && !errors.Is(err, untar.ErrFormat) {
			p.cut(errCut)
		}
	})
}

// judge finds a sink's outcome among the failures of the goroutines: the network
// first, then a wrong blob, then what was found in it.
func (p *pipeline) judge(ctx, sink context.Context, fetch, inflated, untarred error) error {
	if sink.Err() != nil {
		return context.Cause(sink)
	}
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
		p.onFetch(int64(len(data)))
		if p.tee != nil {
			if _, err := p.tee.Write(data); err != nil {
				part.Buf.Release()
				return err
			}
		}
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

// decoders takes memory for the goroutines that decode one layer, and returns how many
// there may be. Half of the cores: decoding ahead costs a fifth more CPU, and hashing,
// untar and the kernel want as much as a decoder. With two cores an image came 3 to 10 %
// later by it, a layer alone 0 to 10 % sooner (measured). Memory is taken only where
// parts don't need it: at most a quarter.
func decoders(mem *budget.Budget, cores int, indexed bool) int {
	n := cores / 2
	if indexed {
		n = cores
	}
	n = min(n, int(mem.Limit()/4/inflate.WorkerMemory))
	for ; n > 1; n-- {
		if mem.TryAcquire(int64(n) * inflate.WorkerMemory) {
			return n
		}
	}
	return 0
}

// inflate fills blocks until the stream ends.
func (p *pipeline) inflate(ctx context.Context, mem *budget.Budget, sinks *sync.WaitGroup) error {
	defer func() {
		p.start(sinks)
		close(p.hashed)
		for _, s := range p.sinks {
			close(s.queue)
		}
	}()
	in := &partReader{p: p}
	defer in.close()
	workers := decoders(mem, runtime.GOMAXPROCS(0), p.index != nil)
	defer func() { mem.Release(int64(workers) * inflate.WorkerMemory) }()
	r, err := inflate.NewReader(in, inflate.Options{Workers: workers, Index: p.index, Record: p.record})
	if err != nil {
		return err
	}
	defer func() {
		p.indexWrong = r.IndexWrong()
		r.Close()
	}()
	p.format = r.Format()
	if p.lineup != nil {
		p.lineup.enter(p)
		defer p.lineup.leave(p)
	}
	for {
		if p.lineup != nil {
			p.lineup.yield(ctx, p)
		}
		b, err := p.take(ctx)
		if err != nil {
			return err
		}
		start, waited := time.Now(), in.waited
		b.n, err = io.ReadFull(r, b.buf.Bytes())
		p.timing.Inflate += time.Since(start) - (in.waited - waited)
		p.timing.Network = in.waited
		if b.n > 0 {
			p.tarBytes += int64(b.n)
			p.start(sinks)
			p.onTar(int64(b.n))
			b.uses.Store(int32(1 + len(p.sinks))) //nolint:gosec // one for each layer of an image at most
			p.hashed <- b                         // all queues hold all blocks: never blocks
			for _, s := range p.sinks {
				s.queue <- b
			}
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

// start opens the pipeline to its sinks.
func (p *pipeline) start(wg *sync.WaitGroup) {
	if p.sinks != nil {
		return
	}
	p.sinks = p.open()
	p.sinksOut.Store(int32(len(p.sinks))) //nolint:gosec // see above
	for _, s := range p.sinks {
		p.feed(s, wg)
	}
}

// take waits for a free block.
func (p *pipeline) take(ctx context.Context) (*block, error) {
	select {
	case b := <-p.free:
		return b, nil
	default:
	}
	start := time.Now()
	defer func() { p.timing.blocked += time.Since(start) }()
	select {
	case b := <-p.free:
		return b, nil
	case <-p.stopped:
		return nil, errStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
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
		p.done(b, &p.lastHash)
	}
}

// done gives a block back; whoever is the last counts it in last.
func (p *pipeline) done(b *block, last *atomic.Int64) {
	if b.uses.Add(-1) == 0 {
		last.Add(1)
		p.free <- b
		p.ease()
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

// sink is one directory that wants a layer.
type sink struct {
	ctx    context.Context //nolint:containedctx // of the caller who waits for the sink
	dir    string          // empty when the layer begins
	opts   untar.Options
	notify func(compressed, tar int64)

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
	s.layer, s.err = untar.Extract(s.ctx, r, s.dir, s.opts)
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
	p *pipeline
	s *sink
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
		return untar.Block{Data: b.buf.Bytes()[:b.n], Release: func() { r.p.done(b, &r.p.lastTar) }}, nil
	case <-ctx.Done():
		return untar.Block{}, context.Cause(ctx)
	}
}
