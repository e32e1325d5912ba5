package soci

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/soci/internal/registry"
)

// lined returns a pipeline of a layer of so many bytes with so many free blocks.
func lined(l *lineup, size int64, free int) *pipeline {
	p := &pipeline{lineup: l, free: make(chan *block, ringBlocks), eased: make(chan struct{}, 1)}
	p.desc = registry.Layer{}
	p.desc.Size = size
	for range free {
		p.free <- &block{}
	}
	l.enter(p)
	return p
}

func TestLargestLayerLeads(t *testing.T) {
	t.Parallel()
	l := new(lineup)
	small, large, equal := lined(l, 10, 0), lined(l, 30, 0), lined(l, 30, 0)
	for _, want := range []*pipeline{large, equal, small, nil} {
		if got := l.leader(); got != want {
			t.Fatalf("leader is %p, want %p", got, want)
		}
		if want != nil {
			l.leave(want)
		}
	}
}

// A smaller layer waits while the leader has no room, goes on at once when it has, and
// waits for nobody longer than maxYield.
func TestYieldToTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := new(lineup)
		lead, other := lined(l, 2, 0), lined(l, 1, 0)
		waits := func(ctx context.Context, p *pipeline) time.Duration {
			start := time.Now()
			l.yield(ctx, p)
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
				lead.done(b, &lead.lastTar)
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
