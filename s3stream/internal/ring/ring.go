package ring

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// ErrGone means that an item is not in the ring any more.
var ErrGone = errors.New("no longer in the ring")

// Item is one thing that is passed on: a block or the end of an object.
type Item struct {
	wire.Frame             // Payload lies in Buf, if there is one
	Buf        *budget.Buf // nil for an item without pooled memory
}

// Release drops one reference to the item's buffer.
func (it Item) Release() {
	if it.Buf != nil {
		it.Buf.Release()
	}
}

func (it Item) retain() {
	if it.Buf != nil {
		it.Buf.Retain()
	}
}

// Ring is the window of items that a node holds. Make one with New.
type Ring struct {
	space chan struct{} // capacity 1: a token when the floor may have risen

	mu       sync.Mutex // guards what follows; a leaf lock
	slots    []Item     // item i is in slots[i % len(slots)]
	oldest   uint64
	head     uint64
	cursors  []*Cursor
	holds    []*hold
	early    []time.Time // orphans that came before we knew of their parent's end
	waiting  bool        // the producer is waiting for space
	finished bool
	err      error // set by Close
}

// hold keeps items for the children of a child that left.
type hold struct {
	low     uint64
	missing int // consumers that are still to come
	timer   *time.Timer
}

// New returns a ring of capacity items; it needs at least 2.
func New(capacity int) *Ring {
	return &Ring{space: make(chan struct{}, 1), slots: make([]Item, max(capacity, 2))}
}

// Head returns the number of the next item to come.
func (r *Ring) Head() uint64 { r.mu.Lock(); defer r.mu.Unlock(); return r.head }

// Oldest returns the number of the oldest item that is still here.
func (r *Ring) Oldest() uint64 { r.mu.Lock(); defer r.mu.Unlock(); return r.oldest }

// floor is the first item that somebody still needs. The caller holds r.mu.
func (r *Ring) floor() uint64 {
	f := r.head
	for _, c := range r.cursors {
		f = min(f, c.low)
	}
	for _, h := range r.holds {
		f = min(f, h.low)
	}
	return f
}

// Put adds an item and takes over the caller's reference to it, also when it
// fails. It waits until the oldest item is needed by nobody.
func (r *Ring) Put(ctx context.Context, it Item) error {
	for {
		if done, err := r.tryPut(it); done {
			return err
		}
		select {
		case <-r.space:
		case <-ctx.Done():
			it.Release()
			return context.Cause(ctx)
		}
	}
}

func (r *Ring) tryPut(it Item) (done bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		it.Release()
		return true, r.err
	}
	n := uint64(len(r.slots))
	if r.head-r.oldest == n {
		if r.oldest >= r.floor() {
			r.waiting = true
			return false, nil
		}
		r.slots[r.oldest%n].Release()
		r.slots[r.oldest%n] = Item{}
		r.oldest++
	}
	r.waiting = false
	r.slots[r.head%n] = it
	r.head++
	for _, c := range r.cursors {
		c.signal()
	}
	return true, nil
}

// Finish says that no more items come.
func (r *Ring) Finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = true
	for _, c := range r.cursors {
		c.signal()
	}
}

// Close drops all items and fails everything that waits or comes with err.
func (r *Ring) Close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	for i := r.oldest; i < r.head; i++ {
		n := uint64(len(r.slots))
		r.slots[i%n].Release()
		r.slots[i%n] = Item{}
	}
	r.oldest = r.head
	for _, h := range r.holds {
		h.timer.Stop()
	}
	r.holds = nil
	for _, c := range r.cursors {
		c.signal()
	}
	r.freed()
}

// freed tells the producer that the floor may have risen.
func (r *Ring) freed() {
	select {
	case r.space <- struct{}{}:
	default:
	}
}

// Children returns how many children are attached and the first item that one
// of them lacks (head when there are none).
func (r *Ring) Children() (n int, have uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have = r.head
	for _, c := range r.cursors {
		if c.child {
			n++
			have = min(have, c.have)
		}
	}
	return n, have
}

// WaitsForChild reports whether the producer is held back by a child, or by a
// hold for the children of one, and not by the sink.
func (r *Ring) WaitsForChild() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.waiting {
		return false
	}
	for _, c := range r.cursors {
		if !c.child && c.low <= r.oldest {
			return false
		}
	}
	return true
}

// Attach adds a consumer that needs the items from number from on. A child
// reports its progress by Ack; a sink acknowledges what it has consumed.
func (r *Ring) Attach(from uint64, child bool) (*Cursor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if from < r.oldest {
		return nil, ErrGone
	}
	c := &Cursor{r: r, child: child, next: from, low: from, have: from, wake: make(chan struct{}, 1)}
	r.cursors = append(r.cursors, c)
	if child {
		r.arrived()
	}
	return c, nil
}

// arrived counts one consumer off the holds. Which hold it belongs to is not
// known, so it counts for all, or for the next one: when two children leave at
// once a hold may end early, and the late orphan then finds what it needs
// elsewhere.
func (r *Ring) arrived() {
	if len(r.holds) == 0 {
		if r.head > 0 && len(r.early) < maxEarly { // before the first item it is no orphan
			r.early = append(r.early, time.Now())
		}
		return
	}
	kept := r.holds[:0]
	for _, h := range r.holds {
		if h.missing--; h.missing > 0 {
			kept = append(kept, h)
			continue
		}
		h.timer.Stop()
	}
	clear(r.holds[len(kept):])
	if len(kept) < len(r.holds) {
		r.freed()
	}
	r.holds = kept
}

// maxEarly is far more children than one node has.
const maxEarly = 256

// Cursor is one consumer's place in the ring.
type Cursor struct {
	r     *Ring
	child bool
	wake  chan struct{} // capacity 1: a token when there may be something new

	// Guarded by r.mu. have <= next; oldest <= low while attached. low <= have,
	// unless the child has just told of an orphan so late that its items are gone.
	next uint64 // the next item to hand out
	have uint64 // what the consumer says it has received
	low  uint64 // what must be kept for it and its children
	// orphans is the number of its children, as it last said.
	orphans int
	gone    bool
}

func (c *Cursor) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Next fills batch with the next items, at least one and at most maxBytes of
// payload (but always one), and gives the caller a reference to each. It
// returns io.EOF after the last item of a finished ring.
func (c *Cursor) Next(ctx context.Context, batch []Item, maxBytes int) (int, error) {
	for {
		if n, err := c.take(batch, maxBytes); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (c *Cursor) take(batch []Item, maxBytes int) (int, error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	switch {
	case c.r.err != nil:
		return 0, c.r.err
	case c.gone:
		return 0, ErrGone
	}
	n, bytes := 0, 0
	for n < len(batch) && c.next < c.r.head {
		it := c.r.slots[c.next%uint64(len(c.r.slots))]
		if bytes += len(it.Payload); n > 0 && bytes > maxBytes {
			break
		}
		it.retain()
		batch[n] = it
		n++
		c.next++
	}
	if n == 0 && c.r.finished && c.next >= c.r.head {
		return 0, io.EOF
	}
	return n, nil
}

// Ack records what the consumer says of itself. To have more than was handed
// out is a lie, and reported as false; less than before is old news, from a
// consumer that was served by other means until it attached. The low mark may
// fall: an orphan that lags has attached to the child. children is how many
// consumers will come here when this one leaves. moved tells whether the
// consumer has gone on.
func (c *Cursor) Ack(have, low uint64, children int) (ok, moved bool) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if have > c.next || low > have {
		return false, false
	}
	if have < c.have {
		return true, true
	}
	raised := low > c.low
	moved = raised || have > c.have
	c.have, c.low = have, max(low, c.r.oldest) // what is gone can't be kept
	c.orphans = children
	if raised && !c.gone {
		c.r.freed()
	}
	return true, moved
}

// Blocks reports whether the producer waits for this consumer.
func (c *Cursor) Blocks() bool {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return c.r.waiting && !c.gone && c.low <= c.r.oldest
}

// Leave removes the cursor. If it had children, what they need is kept until
// as many consumers have attached, at most for grace.
func (c *Cursor) Leave(grace time.Duration) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	for i, o := range r.cursors {
		if o == c {
			r.cursors = append(r.cursors[:i:i], r.cursors[i+1:]...)
			break
		}
	}
	missing := c.orphans
	for _, t := range r.early {
		if time.Since(t) < grace {
			missing--
		}
	}
	r.early = r.early[:0]
	if missing > 0 && grace > 0 && r.err == nil {
		h := &hold{low: c.low, missing: missing}
		h.timer = time.AfterFunc(grace, func() { r.expire(h) })
		r.holds = append(r.holds, h)
	}
	c.signal()
	r.freed()
}

func (r *Ring) expire(h *hold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.holds {
		if o == h {
			r.holds = append(r.holds[:i:i], r.holds[i+1:]...)
			break
		}
	}
	r.freed()
}
