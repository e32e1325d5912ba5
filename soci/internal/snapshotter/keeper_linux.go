package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/soci"
)

// slotKeeper carries out the decisions of slots. It wakes the layers that get a slot, samples the
// layers in work, and cancels attempts that yield or have stalled.
type slotKeeper struct {
	mu     sync.Mutex // guards the fields below, and slots; a leaf lock
	slots  *slots
	work   map[*ticket]*workingLayer
	timer  *time.Timer // takes the next sample, while layers are in work
	closed bool

	countYield func() // counts layers that yielded
}

// workingLayer is the keeper's state of a ticket.
type workingLayer struct {
	granted chan struct{}
	cancel  context.CancelCauseFunc // of the attempt; nil before it starts
	flow    func() (arrived int64, waiting bool)
	held    func() bool // reports whether the rate of a prefetch holds up the layer
}

// errYield ends an attempt at a layer whose slot others need, or that another
// image may fetch faster. The layer queues again.
var errYield = errors.New("the layer was too slow while others waited")

// errStalled is the error of a layer that received almost no bytes.
func errStalled(d time.Duration) error {
	return fmt.Errorf("%w: less than %d bytes a second arrived for %v", soci.ErrFetch, stallRate, d)
}

// errSlowManifest ends the wait for the manifest or the config of an image.
var errSlowManifest = fmt.Errorf("%w: the manifest or the config did not arrive in time", soci.ErrFetch)

func newSlotKeeper(most int, stall time.Duration, countYield func()) *slotKeeper {
	return &slotKeeper{slots: newSlots(most, stall), work: make(map[*ticket]*workingLayer), countYield: countYield}
}

// enqueue queues a layer for a slot.
func (k *slotKeeper) enqueue(c *ticket, held func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.work[c] = &workingLayer{granted: make(chan struct{}), held: held}
	k.slots.add(c)
	k.pumpLocked(time.Now())
}

// await waits for a slot. The attempt runs under the returned context and
// cancels it at its end.
func (k *slotKeeper) await(ctx context.Context, c *ticket) (context.Context, context.CancelCauseFunc, error) {
	k.mu.Lock()
	w := k.work[c]
	k.mu.Unlock()
	select {
	case <-w.granted:
	case <-ctx.Done():
		k.release(c)
		return nil, nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	w.cancel = cancel
	if c.yielded {
		cancel(errYield)
	}
	return ctx, cancel, nil
}

// release returns a slot, or removes a ticket from the queue. It may be called
// repeatedly.
func (k *slotKeeper) release(c *ticket) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work[c] == nil {
		return
	}
	k.slots.remove(c)
	delete(k.work, c)
	k.pumpLocked(time.Now())
}

// want records whether a caller waits for the layer, and the images through
// which callers wait for it.
func (k *slotKeeper) want(c *ticket, wanted bool, sharers []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work[c] != nil && (c.wanted != wanted || !slices.Equal(c.sharers, sharers)) {
		c.wanted, c.sharers = wanted, sharers
		k.pumpLocked(time.Now())
	}
}

// watch records the function that reports the progress of a layer.
func (k *slotKeeper) watch(c *ticket, flow func() (arrived int64, waiting bool)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.work[c]; w != nil {
		w.flow = flow
	}
}

// pumpLocked carries out the decisions of slots. mu must be held.
func (k *slotKeeper) pumpLocked(now time.Time) {
	if k.closed {
		return
	}
	granted, yields := k.slots.next(now)
	for _, c := range granted {
		close(k.work[c].granted)
	}
	if yields != nil {
		k.countYield()
		if w := k.work[yields]; w.cancel != nil {
			w.cancel(errYield)
		}
	}
	if k.timer == nil && len(k.slots.running) > 0 {
		k.timer = time.AfterFunc(samplePeriod/2, k.sample)
	}
}

// sample samples the layers in work.
func (k *slotKeeper) sample() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = nil
	now := time.Now()
	for _, c := range k.slots.running {
		w := k.work[c]
		if w.flow == nil || w.cancel == nil {
			continue
		}
		is := sample{held: w.held()}
		is.bytes, is.waiting = w.flow()
		if k.slots.record(c, now, is) {
			w.cancel(errStalled(k.slots.stall))
		} else if c.handsOver(now) {
			k.countYield()
			w.cancel(errYield)
		}
	}
	k.pumpLocked(now)
}

// queued returns the number of layers that wait for a slot.
func (k *slotKeeper) queued() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.slots.waiting)
}

// close ends the sampling. Layers in work end through their contexts.
func (k *slotKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
}
