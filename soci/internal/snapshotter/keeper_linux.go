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

// slotKeeper runs slots: it wakes the layers that get a slot, looks at those in work, and ends those
// that yield or have stalled.
type slotKeeper struct {
	mu    sync.Mutex // guards what follows, and slots; a leaf lock
	slots *slots
	work  map[*ticket]*workingLayer
	timer *time.Timer // to the next look, while layers are in work
	ended bool

	yields func() // counts layers that yielded
}

// workingLayer is what the keeper knows of a ticket.
type workingLayer struct {
	granted chan struct{}
	cancel  context.CancelCauseFunc // of the attempt; nil before it begins
	flow    func() (arrived int64, waiting bool)
	held    func() bool // its bytes come at the rate of a prefetch
}

// errYield ends an attempt at a layer whose slot others need, or that another image may bring faster; the
// layer waits in line again.
var errYield = errors.New("the layer brought too little and others waited")

// errStalled ends a layer that brings next to nothing.
func errStalled(d time.Duration) error {
	return fmt.Errorf("%w: less than %d bytes a second came for %v", soci.ErrFetch, crawlRate, d)
}

// errSlowManifest ends the wait for the manifest or the config of an image.
var errSlowManifest = fmt.Errorf("%w: the manifest or the config did not come in time", soci.ErrFetch)

func newSlotKeeper(most int, stall time.Duration, yields func()) *slotKeeper {
	return &slotKeeper{slots: newSlots(most, stall), work: make(map[*ticket]*workingLayer), yields: yields}
}

// enqueue puts a layer in line.
func (k *slotKeeper) enqueue(c *ticket, held func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.work[c] = &workingLayer{granted: make(chan struct{}), held: held}
	k.slots.add(c)
	k.pumpLocked(time.Now())
}

// await waits for a slot. The attempt that follows runs under the context it returns, and cancels it
// at its end.
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

// release gives a slot back, or takes a ticket out of line. It may be called more than once.
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

// want notes whether a caller waits for the layer, and for which images that have it.
func (k *slotKeeper) want(c *ticket, wanted bool, sharers []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work[c] != nil && (c.wanted != wanted || !slices.Equal(c.sharers, sharers)) {
		c.wanted, c.sharers = wanted, sharers
		k.pumpLocked(time.Now())
	}
}

// watch notes how the bytes of a layer can be watched.
func (k *slotKeeper) watch(c *ticket, flow func() (arrived int64, waiting bool)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.work[c]; w != nil {
		w.flow = flow
	}
}

// pumpLocked hands out what slots decides. mu must be held.
func (k *slotKeeper) pumpLocked(now time.Time) {
	if k.ended {
		return
	}
	granted, yields := k.slots.next(now)
	for _, c := range granted {
		close(k.work[c].granted)
	}
	if yields != nil {
		k.yields()
		if w := k.work[yields]; w.cancel != nil {
			w.cancel(errYield)
		}
	}
	if k.timer == nil && len(k.slots.running) > 0 {
		k.timer = time.AfterFunc(lookAt/2, k.look)
	}
}

// look samples the layers in work.
func (k *slotKeeper) look() {
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
		if k.slots.look(c, now, is) {
			w.cancel(errStalled(k.slots.stall))
		} else if c.handsOver(now) {
			k.yields()
			w.cancel(errYield)
		}
	}
	k.pumpLocked(now)
}

// queued is how many layers wait for a slot.
func (k *slotKeeper) queued() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.slots.waiting)
}

// close ends the looks. Layers in work end by their contexts.
func (k *slotKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
}
