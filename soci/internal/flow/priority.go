package flow

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// fewCores is the least number of processors with which the largest layer
	// has decoders of its own, so that other layers take no processor from it.
	fewCores = 4
	// maxYield bounds the wait of a smaller layer before each block, so that it
	// makes progress even if the largest layer is held up behind inflate, for
	// example by a slow disk.
	maxYield = 4 * time.Millisecond
)

// priority gives the largest layer in progress the processors first.
//
// A pull ends with its largest layer, whose decoding is sequential. Whenever
// that layer waits for a processor, the pull gets longer, while smaller layers
// fit into any gap. So smaller layers inflate only while the largest one has
// room to continue, that is, while the steps behind its inflate keep up.
//
// An image of 1.8 GB with one layer of 1.1 GB was pulled on two cores. Without
// priority one core was half idle for the last third of the pull; with it both
// cores were busy to the end.
type priority struct {
	mu    sync.Mutex // guards the fields below; a leaf lock
	all   []*pipeline
	first *pipeline
}

// enter adds a pipeline.
func (q *priority) enter(p *pipeline) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = append(q.all, p)
	q.chooseLocked()
}

// leave removes a pipeline.
func (q *priority) leave(p *pipeline) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = slices.DeleteFunc(q.all, func(other *pipeline) bool { return other == p })
	q.chooseLocked()
}

// chooseLocked sets first to the largest pipeline; of equal ones the oldest
// wins. mu must be held.
func (q *priority) chooseLocked() {
	q.first = nil
	for _, p := range q.all {
		if q.first == nil || p.layer.Size > q.first.layer.Size {
			q.first = p
		}
	}
}

func (q *priority) leader() *pipeline {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.first
}

// yield makes a smaller pipeline wait for the largest one before it takes a
// block.
func (q *priority) yield(ctx context.Context, p *pipeline) {
	first := q.leader()
	if first == nil || first == p {
		return
	}
	if !first.ring.hasRoom() {
		first.ring.awaitRoom(ctx)
	}
	runtime.Gosched() // goroutines that are ready on this processor run first
}
