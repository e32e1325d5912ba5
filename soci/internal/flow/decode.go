package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/stage"
)

// decoded is the state of inflate. It belongs to inflate until inflate ends.
type decoded struct {
	format inflate.Format
	fed    atomic.Int64 // compressed bytes given to the decoder
	tar    int64        // bytes of tar

	index      *index.Index    // of the layer, or nil
	indexWrong bool            // the index did not match the layer
	recorder   *index.Recorder // records points, or nil
	learns     bool            // the recorded points will be saved as an index

	// room is the number of bytes that were free on the disk of the first
	// target when tar was roomAsked, or negative if unknown.
	room, roomAsked int64
}

// decoders takes memory for the goroutines that decode one layer, and returns
// their number, or 0 for sequential decoding.
//
// Half of the cores decode: decoding ahead costs a fifth more CPU, and hashing,
// untar and the kernel need as much as a decoder. On two cores, parallel
// decoding made the pull of an image 3 to 10 % slower, and the pull of a single
// layer between 10 % faster and 8 % slower. Decoders take at most a quarter of
// the memory, and only if parts do not need it.
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

// decoder returns the reader of the tar and a function that closes it.
func (p *pipeline) decoder(waits context.Context, in io.Reader, mem *budget.Budget) (io.Reader, func(), error) {
	d := &p.decoded
	if p.checkpoints != nil && d.recorder == nil {
		d.recorder = index.NewRecorder(p.checkpoints.span())
	}
	workers := decoders(mem, runtime.GOMAXPROCS(0), d.index != nil)
	release := func() { mem.Release(int64(workers) * inflate.WorkerMemory) }
	opts := inflate.Options{Workers: workers, Index: d.index, Record: d.recorder}
	if w := p.windows; w != nil {
		opts.MaxWindow = w.most
		opts.Reserve = func(n int64) (func(), error) { return w.reserve(waits, n) }
	}
	r, err := p.newReader(in, opts)
	if err != nil {
		return nil, release, p.explain(err)
	}
	d.format = r.Format()
	end := func() {
		d.indexWrong = r.IndexWrong()
		r.Close()
		release()
	}
	if from := p.resume; from != nil {
		if _, err = io.CopyN(io.Discard, r, from.Tar-from.Point.Out); err == io.EOF {
			err = fmt.Errorf("%w: it ends before the checkpoint", inflate.ErrCorrupt)
		}
	}
	return r, end, err
}

// newReader returns a reader of the tar from the start of the fetched stream.
func (p *pipeline) newReader(in io.Reader, opts inflate.Options) (*inflate.Reader, error) {
	if from := p.resume; from != nil {
		return inflate.Resume(in, from.Format, from.Point.Index(), opts)
	}
	return inflate.NewReader(in, opts)
}

// inflate fills blocks until the stream ends. waits bounds the time it waits
// for memory.
func (p *pipeline) inflate(ctx, waits context.Context, mem *budget.Budget, readers *sync.WaitGroup) error {
	defer func() {
		p.openTargets(readers)
		close(p.hashed)
		for _, s := range p.targets.all {
			close(s.queue)
		}
	}()
	in := &partReader{parts: p.source.parts, fed: &p.decoded.fed}
	defer in.close()
	r, end, err := p.decoder(waits, in, mem)
	defer end()
	if err != nil {
		return err
	}
	if p.priority != nil {
		p.priority.enter(p)
		defer p.priority.leave(p)
	}
	var nextLook int64 // tar offset at which to collect the recorder's points again
	for {
		if p.priority != nil {
			p.priority.yield(ctx, p)
		}
		b, blocked, err := p.ring.take(ctx, p.stop.done)
		p.timing.Blocked += blocked
		if err != nil {
			return err
		}
		start, waited := time.Now(), in.waited
		b.off = p.decoded.tar
		b.n, err = io.ReadFull(r, b.buf.Bytes())
		p.timing.Inflate += time.Since(start) - (in.waited - waited)
		p.timing.Network = in.waited
		if b.n > 0 {
			p.decoded.tar += int64(b.n)
			if p.checkpoints != nil && p.decoded.recorder != nil && p.decoded.tar >= nextLook {
				p.checkpoints.recorded(p.decoded.recorder)
				nextLook = p.decoded.tar + p.checkpoints.span()
			}
			p.openTargets(readers)
			p.handOut(b)
		}
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, inflate.ErrCorrupt):
			return in.drain()
		case err != nil:
			return p.explain(err)
		}
		if err := p.checkExpansion(); err != nil {
			return err
		}
	}
}

// handOut gives a block to DiffID and to every target. It does not block,
// because every queue has room for all blocks.
func (p *pipeline) handOut(b *block) {
	p.onTar(int64(b.n))
	b.uses.Store(int32(1 + len(p.targets.all))) //nolint:gosec // one for each layer of an image at most
	p.hashed <- b
	for _, s := range p.targets.all {
		s.queue <- b
	}
}

// explain adds to a decoder's error the option that would let the layer pass.
func (p *pipeline) explain(err error) error {
	if p.windows == nil {
		return err
	}
	return p.windows.explain(err)
}

// checkExpansion checks the expansion of the layer. It asks for the free disk
// only if the layer is beyond its ratio, and again after each minRatioFree
// bytes of tar.
func (p *pipeline) checkExpansion() error {
	d := &p.decoded
	fed := d.fed.Load()
	if !p.limits.beyondRatio(fed, d.tar) {
		return nil
	}
	if d.roomAsked == 0 || d.tar-d.roomAsked >= minRatioFree {
		d.room, d.roomAsked = -1, d.tar
		if len(p.targets.all) > 0 {
			if n, err := stage.Free(p.targets.all[0].Dir); err == nil {
				d.room = n
			}
		}
	}
	return p.limits.checkExpansion(fed, d.tar, d.room)
}
