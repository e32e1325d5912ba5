package flow

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/budget"
)

const (
	// blockBytes is the size of a block: small enough for the second-level
	// cache, and large enough that handing it over (about 1 us) costs little.
	blockBytes = 256 << 10
	// ringBlocks per layer: one each for inflate, DiffID, untar and the
	// writers, and as many again for jitter.
	ringBlocks = 8
	// RingBytes is the size of the ring of one layer.
	RingBytes = blockBytes * ringBlocks
)

// block is a piece of the tar, which DiffID and every untar read.
type block struct {
	buf   *budget.Buf
	n     int          // bytes in buf
	off   int64        // in the tar
	state []byte       // of the DiffID's hash before the block, if checkpoints are made
	uses  atomic.Int32 // readers that have not released the block
}

// ring holds the blocks of one layer.
type ring struct {
	free  chan *block
	freed chan struct{} // signals room to a waiting pipeline, see priority.yield

	lastHash, lastTar atomic.Int64 // blocks that DiffID, or an untar, released last
}

// allocate makes the blocks. release returns their memory.
func (r *ring) allocate(mem *budget.Budget) (release func()) {
	r.free = make(chan *block, ringBlocks)
	r.freed = make(chan struct{}, 1)
	blocks := make([]block, ringBlocks)
	for i := range blocks {
		blocks[i].buf = mem.MustGet(blockBytes)
		r.free <- &blocks[i]
	}
	return func() {
		for i := range blocks {
			blocks[i].buf.Release()
		}
	}
}

// take returns a free block. It waits until there is one, stopped is closed, or
// ctx ends, and returns the time that it waited.
func (r *ring) take(ctx context.Context, stopped <-chan struct{}) (*block, time.Duration, error) {
	select {
	case b := <-r.free:
		return b, 0, nil
	default:
	}
	start := time.Now()
	select {
	case b := <-r.free:
		return b, time.Since(start), nil
	case <-stopped:
		return nil, time.Since(start), errStopped
	case <-ctx.Done():
		return nil, time.Since(start), context.Cause(ctx)
	}
}

// release gives a block back. The last reader of a block increments last.
func (r *ring) release(b *block, last *atomic.Int64) {
	if b.uses.Add(-1) != 0 {
		return
	}
	last.Add(1)
	r.free <- b
	if r.hasRoom() {
		select {
		case r.freed <- struct{}{}:
		default:
		}
	}
}

// hasRoom reports whether half of the blocks are free.
func (r *ring) hasRoom() bool { return len(r.free) >= ringBlocks/2 }

// awaitRoom waits until hasRoom reports true, for maxYield at most.
func (r *ring) awaitRoom(ctx context.Context) {
	limit := time.NewTimer(maxYield)
	defer limit.Stop()
	for !r.hasRoom() {
		select {
		case <-r.freed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
