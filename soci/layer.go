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
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
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
	desc    registry.Layer
	stream  *ranges.Stream
	limits  Limits
	windows *windows // nil: zstd frames take their memory unasked (tests)
	tee     io.Writer
	// open returns the sinks, once and for all: it is called when the first block is
	// there, or when there will be none.
	open     func() []*sink
	onFetch  func(n int64) // compressed bytes received
	onTar    func(n int64) // tar bytes inflated
	awaits   atomic.Bool   // fetch waits for the network
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
	hurry    context.CancelCauseFunc // of what inflate waits for
	why      error                   // of the first stop

	ckpt *checkpoints // nil: none are made
	from *partial     // nil: the layer begins

	index      *index.Index    // nil: none
	record     *index.Recorder // nil: nothing is recorded
	learns     bool            // an index of the layer is to be made of it
	indexWrong bool            // index was

	format    inflate.Format
	room      int64 // bytes free on the disk of the first sink when it was last asked for; negative if unknown
	roomAsked int64 // tarBytes then

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
	buf   *budget.Buf
	n     int
	off   int64  // in the tar
	state []byte // of the DiffID before it, where checkpoints are made
	uses  atomic.Int32
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
	if p.from != nil {
		if err := p.goOn(); err != nil {
			p.sinks = p.open()
			for _, s := range p.sinks {
				s.err = fmt.Errorf("the state of a digest: %w", err)
			}
			return
		}
	}
	var wg, sinks sync.WaitGroup
	life, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	p.cut = cut
	waits, hurry := context.WithCancelCause(life)
	defer hurry(nil)
	p.hurry = hurry
	// A panic on the bytes of a layer fails the layer: docs/decisions/0005-panics.md.
	wg.Go(func() { fetchErr = contained(func() error { return p.fetch(life) }) })
	wg.Go(func() {
		inflateErr = contained(func() error { return p.inflate(life, waits, mem, &sinks) })
		p.stop(inflateErr)
	})
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

// contained runs a step; a panic becomes its error.
func contained(step func() error) (err error) {
	defer panics.Recover(&err)
	return step()
}

// feed starts a sink.
func (p *pipeline) feed(s *sink, wg *sync.WaitGroup) {
	s.queue = make(chan *block, ringBlocks)
	wg.Go(func() {
		if bad := panics.Guard(func() { s.extract(p) }); bad != nil {
			s.err = bad
		}
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
		p.why = err
		close(p.stopped)
		p.hurry(errStopped)
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
		if re, ok := errors.AsType[*ranges.Error](fetch); ok && (errors.Is(fetch, ranges.ErrSize) || errors.Is(fetch, ranges.ErrChanged)) {
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
	// After another failure parts are thrown away, and inflate sees a short stream.
	cutShort := errors.Is(inflated, inflate.ErrCorrupt) && p.why != nil && !errors.Is(p.why, inflate.ErrCorrupt)
	if untarred != nil && (inflated == nil || errors.Is(inflated, errStopped) || errors.Is(inflated, errCut) || cutShort) {
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
	var old int64
	if p.from != nil {
		old = p.from.Received - p.from.Point.Bits/8
	}
	for {
		p.awaits.Store(true)
		part, err := p.stream.Next(ctx)
		p.awaits.Store(false)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		data := part.Buf.Bytes()
		fresh := data[min(old, int64(len(data))):] // the rest is in the digest
		old -= int64(len(data) - len(fresh))
		start := time.Now()
		p.digest.Write(fresh)
		p.hashing.Add(int64(time.Since(start)))
		p.received += int64(len(fresh))
		p.onFetch(int64(len(fresh)))
		if p.tee != nil {
			if _, err := p.tee.Write(fresh); err != nil {
				part.Buf.Release()
				return err
			}
		}
		if p.ckpt != nil { // what it counts the tee has
			p.ckpt.fetched(p.digest, p.received)
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
// later by it, a layer alone from 10 % sooner to 8 % later (measured). Memory is taken
// only where parts don't need it: at most a quarter.
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

// decoder returns the reader of the tar and a function that ends it.
func (p *pipeline) decoder(waits context.Context, in io.Reader, mem *budget.Budget) (io.Reader, func(), error) {
	if p.ckpt != nil && p.record == nil {
		p.record = index.NewRecorder(p.ckpt.span())
	}
	workers := decoders(mem, runtime.GOMAXPROCS(0), p.index != nil)
	release := func() { mem.Release(int64(workers) * inflate.WorkerMemory) }
	opts := inflate.Options{Workers: workers, Index: p.index, Record: p.record}
	if w := p.windows; w != nil {
		opts.MaxWindow = w.most
		opts.Reserve = func(n int64) (func(), error) { return w.reserve(waits, n) }
	}
	r, err := p.reader(in, opts)
	if err != nil {
		return nil, release, p.explain(err)
	}
	p.format = r.Format()
	end := func() {
		p.indexWrong = r.IndexWrong()
		r.Close()
		release()
	}
	if from := p.from; from != nil {
		if _, err = io.CopyN(io.Discard, r, from.Tar-from.Point.Out); err == io.EOF {
			err = fmt.Errorf("%w: it ends before the checkpoint", inflate.ErrCorrupt)
		}
	}
	return r, end, err
}

// reader returns the reader of the tar from where the stream begins.
func (p *pipeline) reader(in io.Reader, opts inflate.Options) (*inflate.Reader, error) {
	if from := p.from; from != nil {
		return inflate.Resume(in, from.Format, from.Point.index(), opts)
	}
	return inflate.NewReader(in, opts)
}

// resumedAt is the first byte that was fetched.
func (p *pipeline) resumedAt() int64 {
	if p.from == nil {
		return 0
	}
	return p.from.Point.Bits / 8
}

// goOn takes over what an earlier pipeline knew.
func (p *pipeline) goOn() error {
	p.received, p.tarBytes = p.from.Received, p.from.Tar
	p.fed.Store(p.from.Point.Bits / 8)
	return errors.Join(setState(p.digest, p.from.Blob), setState(p.diffID, p.from.Diff))
}

// inflate fills blocks until the stream ends. waits ends when nobody wants them any more.
func (p *pipeline) inflate(ctx, waits context.Context, mem *budget.Budget, sinks *sync.WaitGroup) error {
	defer func() {
		p.start(sinks)
		close(p.hashed)
		for _, s := range p.sinks {
			close(s.queue)
		}
	}()
	in := &partReader{p: p}
	defer in.close()
	r, end, err := p.decoder(waits, in, mem)
	defer end()
	if err != nil {
		return err
	}
	if p.lineup != nil {
		p.lineup.enter(p)
		defer p.lineup.leave(p)
	}
	var look int64 // when to look at what the recorder has
	for {
		if p.lineup != nil {
			p.lineup.yield(ctx, p)
		}
		b, err := p.take(ctx)
		if err != nil {
			return err
		}
		start, waited := time.Now(), in.waited
		b.off = p.tarBytes
		b.n, err = io.ReadFull(r, b.buf.Bytes())
		p.timing.Inflate += time.Since(start) - (in.waited - waited)
		p.timing.Network = in.waited
		if b.n > 0 {
			p.tarBytes += int64(b.n)
			if p.ckpt != nil && p.record != nil && p.tarBytes >= look {
				p.ckpt.recorded(p.record)
				look = p.tarBytes + p.ckpt.span()
			}
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
			return p.explain(err)
		}
		if err := p.expansion(); err != nil {
			return err
		}
	}
}

// explain says of an error of the decoder which option it is about.
func (p *pipeline) explain(err error) error {
	if p.windows == nil {
		return err
	}
	return p.windows.explain(err)
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

// expansion judges how far the layer expands. It asks for the room on the disk again
// after each minRatioFree of tar, and only when the layer is beyond its ratio.
func (p *pipeline) expansion() error {
	fed := p.fed.Load()
	if !p.limits.beyondRatio(fed, p.tarBytes) {
		return nil
	}
	if p.roomAsked == 0 || p.tarBytes-p.roomAsked >= minRatioFree {
		p.room, p.roomAsked = -1, p.tarBytes
		if len(p.sinks) > 0 {
			if n, err := stage.Free(p.sinks[0].dir); err == nil {
				p.room = n
			}
		}
	}
	return p.limits.expansion(fed, p.tarBytes, p.room)
}

// hash computes the DiffID.
func (p *pipeline) hash() {
	for b := range p.hashed {
		if p.ckpt != nil {
			p.ckpt.hashing(p.diffID, b)
		}
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
