package flow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/soci/internal/registry"
)

// entered returns a pipeline of a layer with size bytes, none of whose blocks
// are free, that has entered q.
func entered(q *priority, size int64) *pipeline {
	p := &pipeline{priority: q, ring: ring{free: make(chan *block, ringBlocks), freed: make(chan struct{}, 1)}}
	p.layer = registry.Layer{}
	p.layer.Size = size
	q.enter(p)
	return p
}

func TestLargestLayerLeads(t *testing.T) {
	t.Parallel()
	q := new(priority)
	small, large, equal := entered(q, 10), entered(q, 30), entered(q, 30)
	for _, want := range []*pipeline{large, equal, small, nil} {
		if got := q.leader(); got != want {
			t.Fatalf("leader is %p, want %p", got, want)
		}
		if want != nil {
			q.leave(want)
		}
	}
}

// TestSmallerLayerYields checks that a smaller layer waits while the leader has
// no room, continues as soon as it has, and never waits longer than maxYield.
func TestSmallerLayerYields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := new(priority)
		lead, other := entered(q, 2), entered(q, 1)
		waits := func(ctx context.Context, p *pipeline) time.Duration {
			start := time.Now()
			q.yield(ctx, p)
			return time.Since(start)
		}
		if d := waits(t.Context(), lead); d != 0 {
			t.Errorf("the leader waited %v", d)
		}
		if d := waits(t.Context(), other); d != maxYield {
			t.Errorf("waited %v for a leader that is stuck, want %v", d, maxYield)
		}
		ctx, cancel := context.WithTimeout(t.Context(), maxYield/4)
		defer cancel()
		if d := waits(ctx, other); d != maxYield/4 {
			t.Errorf("waited %v, the context ended after %v", d, maxYield/4)
		}
		go func() {
			time.Sleep(maxYield / 2) // in fake time
			for range ringBlocks / 2 {
				b := &block{}
				b.uses.Store(1)
				lead.ring.release(b, &lead.ring.lastTar)
			}
		}()
		if d := waits(t.Context(), other); d != maxYield/2 {
			t.Errorf("waited %v, there was room after %v", d, maxYield/2)
		}
		if d := waits(t.Context(), other); d != 0 {
			t.Errorf("waited %v for a leader with room", d)
		}
	})
}
