package soci

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// The order in which layers get processors. A pull ends with its largest layer, whose
// inflate is one chain: every moment in which it waits for a processor is lost, while
// the smaller layers fill any gap. So the largest layer at work leads, and the others
// let it go first: with two cores they inflate only while the leader has room to go
// on, that is, while what comes behind its inflate has kept up.
//
// Measured on two cores, an image of 1.8 GB with one layer of 1.1 GB: without this one
// core is half idle for the last third of the pull; with it both are busy to the end.

const (
	// fewCores is from where on the leader has workers of its own and the others
	// cores that they take from nobody.
	fewCores = 4
	// maxYield bounds what another layer waits before each block, so that it gets on
	// however long the leader is held up behind inflate, by a slow disk for example.
	maxYield = 4 * time.Millisecond
)

// lineup is the pipelines at work.
type lineup struct {
	mu    sync.Mutex // guards what follows; a leaf lock
	all   []*pipeline
	first *pipeline
}

// enter adds a pipeline.
func (l *lineup) enter(p *pipeline) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p)
	l.choose()
}

// leave takes it out.
func (l *lineup) leave(p *pipeline) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(q *pipeline) bool { return q == p })
	l.choose()
}

// choose finds the largest; of equal ones the first leads.
func (l *lineup) choose() {
	l.first = nil
	for _, p := range l.all {
		if l.first == nil || p.desc.Size > l.first.desc.Size {
			l.first = p
		}
	}
}

func (l *lineup) leader() *pipeline {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// yield lets the leader go first, before p takes a block. The leader does not wait.
func (l *lineup) yield(ctx context.Context, p *pipeline) {
	lead := l.leader()
	if lead == nil || lead == p {
		return
	}
	if !lead.roomy() {
		lead.await(ctx)
	}
	runtime.Gosched() // whoever is ready to run on this processor runs first
}

// await waits until p has room, or for maxYield.
func (p *pipeline) await(ctx context.Context) {
	late := time.NewTimer(maxYield)
	defer late.Stop()
	for !p.roomy() {
		select {
		case <-p.eased:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// roomy reports whether half of the blocks wait for p's inflate.
func (p *pipeline) roomy() bool { return len(p.free) >= ringBlocks/2 }

// ease wakes one of those who wait for p, if there is reason to.
func (p *pipeline) ease() {
	if p.roomy() {
		select {
		case p.eased <- struct{}{}:
		default:
		}
	}
}
