package s3stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// store is where the objects come from. internal/s3 is one; tests may have another.
type store interface {
	// source returns a source for one pinned object and what is known of it.
	source(o *Object) (ranges.Source, ranges.Spec, error)
}

// memory is how one node divides its byte budget.
//
// No deadlock between the ring and the engine: what the ring, the stream that
// is being read and the streams opened ahead may hold together stays below the
// limit, so the engine can always get the part that the ring waits for.
type memory struct {
	limit  int64
	part   int64 // bytes of one ranged GET; a multiple of the block
	window int64 // fetched ahead of the stream that is being read
	ahead  int64 // fetched of objects that come after it
	slots  int   // blocks in the ring
}

const (
	// maxPart is the size of a ranged GET when memory allows: S3's guide says
	// 8 to 16 MiB.
	maxPart = 8 << 20
	// partShare of the budget for one part leaves room for enough of them to
	// run in parallel even in the smallest budget.
	partShare = 32
	// poolWaste is what a pooled buffer may take beyond its length, 1/4, and
	// minBuffer the least that it takes.
	poolWaste = 4
	minBuffer = 16 << 10
)

// minMemory is the smallest budget for a block size: 16 blocks in the ring and
// as much again for the requests.
func minMemory(block int64) int64 { return 64 * block }

func divide(limit, block int64) memory {
	m := memory{limit: limit}
	m.part = max(block, min(int64(maxPart), limit/partShare)/block*block)
	m.window = limit / 4
	m.ahead = limit / 4
	// 3/8 for the ring; 1/8 stays for rounding and the parts at its ends.
	m.slots = int(limit * 3 / 8 / cost(block))
	return m
}

const (
	// besideRing is what a worker needs besides its ring: one block being read,
	// and one being written to each of a few children that were just cut off.
	besideRing = 8
	// minSlots of a ring leave each report interval at least two items.
	minSlots = 16
	// reportShare: see startMsg.Report.
	reportShare = 8
)

// workerSlots is the size of a worker's ring.
func workerSlots(limit, block int64) int { return int(limit/cost(block)) - besideRing }

// cost is what n bytes may take of a budget.
func cost(n int64) int64 { return max(minBuffer, n+n/poolWaste) }

// feeder reads the objects of a job, each once and in order.
type feeder struct {
	items  *items
	store  store
	engine *ranges.Engine
	budget *budget.Budget
	mem    memory

	read   atomic.Int64 // bytes that went out in order
	reread atomic.Int64 // bytes read again for nodes that fell behind the ring

	digests bool // compute SHA-256 of each object

	mu    sync.Mutex // guards what follows
	sums  []wire.ObjectSum
	ended int           // sums[:ended] are known
	news  chan struct{} // closed and replaced when ended grows
}

func newFeeder(it *items, st store, e *ranges.Engine, mem memory) *feeder {
	return &feeder{
		items: it, store: st, engine: e, budget: e.Budget(), mem: mem,
		sums: make([]wire.ObjectSum, len(it.m.Objects)), news: make(chan struct{}),
	}
}

// sumsFrom returns what is known of the objects from next on, at most sumsPerFrame of them, and a channel that
// closes when more is known.
func (f *feeder) sumsFrom(next int) ([]wire.ObjectSum, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sums[next:max(next, min(f.ended, next+sumsPerFrame))], f.news
}

// open starts to read an object from off on. The first requests go out at once.
func (f *feeder) open(ctx context.Context, object int, off, window int64) (*blockReader, error) {
	o := &f.items.m.Objects[object]
	r := &blockReader{b: f.budget, items: f.items, object: object, off: off}
	if off >= o.Size {
		return r, nil
	}
	src, spec, err := f.store.source(o)
	if err != nil {
		return nil, &Error{Op: "read", Object: o.String(), Off: off, Err: err}
	}
	ro := f.engine.Object(src, spec)
	so := ranges.StreamOptions{PartBytes: f.mem.part, WindowBytes: window, Sum: spec.Sum.Algorithm}
	so.NoVerify = off > 0 // nothing to compare a part of an object with
	r.s = ro.Stream(ctx, off, -1, so)
	return r, nil
}

// run reads everything and gives it to emit in order. emit takes over the
// item's reference.
func (f *feeder) run(ctx context.Context, emit func(context.Context, ring.Item) error) error {
	var line []*blockReader // line[0] is being read, the others are ahead
	defer func() {
		for _, r := range line {
			r.close()
		}
	}()
	next, ahead := 0, int64(0)
	share := func(i int) int64 { return min(cost(f.items.m.Objects[i].Size), f.mem.window) }
	for done := range f.items.m.Objects {
		// Small objects would each cost a round trip if they were asked for
		// one after the other.
		for next < len(f.items.m.Objects) && (next == done || (next < done+maxAhead && ahead+share(next) <= f.mem.ahead)) {
			r, err := f.open(ctx, next, 0, f.mem.window)
			if err != nil {
				return err
			}
			line = append(line, r)
			ahead += share(next)
			next++
		}
		ahead -= share(done)
		if err := f.object(ctx, line[0], emit); err != nil {
			return err
		}
		line[0].close()
		line = line[1:]
	}
	return nil
}

// maxAhead bounds how many objects are open at once; the engine bounds how many
// of their requests run.
const maxAhead = 256

func (f *feeder) object(ctx context.Context, r *blockReader, emit func(context.Context, ring.Item) error) error {
	o := &f.items.m.Objects[r.object]
	var digest hash.Hash
	if f.digests {
		digest = sha256.New()
	}
	for {
		it, err := r.next(ctx)
		if errors.Is(err, io.EOF) && r.off == o.Size {
			break
		}
		if err != nil {
			return readError(o, r.off, err)
		}
		n := int64(len(it.Payload))
		if digest != nil {
			digest.Write(it.Payload)
		}
		if err := emit(ctx, it); err != nil {
			return err
		}
		f.read.Add(n)
	}
	t := wire.Trailer{Size: o.Size, Sum: r.sum}
	if c, err := parseChecksum(o.Checksum); err == nil {
		t.Algorithm, t.Full = uint8(c.Algorithm), c.Value
	}
	sum := wire.ObjectSum{Trailer: t}
	if digest != nil {
		digest.Sum(sum.Digest[:0])
	}
	f.mu.Lock()
	f.sums[r.object] = sum
	f.ended = r.object + 1
	close(f.news)
	f.news = make(chan struct{})
	f.mu.Unlock()
	return emit(ctx, endItem(r.object, t))
}

// readError names the object, unless the engine or the cause already does.
func readError(o *Object, off int64, err error) error {
	if re := (*ranges.Error)(nil); errors.As(err, &re) {
		return re
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &Error{Op: "read", Object: o.String(), Off: off, Err: err}
}

// hash returns the digest of the objects read so far.
func (f *feeder) hash() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := newDigest()
	for i := range f.ended {
		d.add(&f.items.m.Objects[i], f.sums[i].Sum)
	}
	return d.String()
}

// again reads items that the ring no longer has, for one node that needs them.
type again struct {
	f    *feeder
	next uint64
	r    *blockReader // nil between objects
}

// item returns the next item. It must not be called for an item that the
// feeder itself has not yet passed: the ring has that one, or will.
func (a *again) item(ctx context.Context) (ring.Item, error) {
	p := a.f.items.at(a.next)
	o := &a.f.items.m.Objects[p.object]
	if p.end {
		a.close()
		a.f.mu.Lock()
		t, known := a.f.sums[p.object].Trailer, p.object < a.f.ended
		a.f.mu.Unlock()
		if !known {
			return ring.Item{}, &Error{Op: "read", Object: o.String(), Off: p.off, Err: errors.New("its end is not known yet")}
		}
		a.next++
		return endItem(p.object, t), nil
	}
	if a.r == nil {
		r, err := a.f.open(ctx, p.object, p.off, 2*a.f.mem.part)
		if err != nil {
			return ring.Item{}, err
		}
		a.r = r
	}
	it, err := a.r.next(ctx)
	if err != nil {
		return ring.Item{}, readError(o, p.off, err)
	}
	a.f.reread.Add(p.n)
	a.next++
	return it, nil
}

func (a *again) close() {
	if a.r != nil {
		a.r.close()
		a.r = nil
	}
}
