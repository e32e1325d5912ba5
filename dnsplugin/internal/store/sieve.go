package store

import "sync/atomic"

// The queue of a shard, in order of arrival:
//
//	newest <-> ... <-> hand ... <-> oldest        older ->
//
// The hand walks from oldest to newest and starts over at oldest.
// All methods need shard.mu.

// push links n as the newest and charges for it.
func (sh *shard) push(n *node) {
	n.older = sh.newest
	if sh.newest != nil {
		sh.newest.newer = n
	} else {
		sh.oldest = n
	}
	sh.newest = n
	sh.bytes.Add(int64(n.cost))
	sh.entries.Add(1)
}

// remove unlinks n from its bucket, where before comes before it (nil: it is
// the head), and from the queue. n.next stays as it is for readers on n.
func (sh *shard) remove(head *atomic.Pointer[node], before, n *node) {
	if before == nil {
		head.Store(n.next.Load())
	} else {
		before.next.Store(n.next.Load())
	}
	if sh.hand == n {
		sh.hand = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		sh.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		sh.oldest = n.newer
	}
	n.newer, n.older = nil, nil
	sh.bytes.Add(-int64(n.cost))
	sh.entries.Add(-1)
}

// victim moves the hand to the next entry that may go: a dead one, or one
// that nobody asked for since the hand last passed. The queue is not empty.
// It ends within two rounds, since the first clears every mark that it meets;
// a reader that keeps setting marks can't prolong it beyond the bound.
func (sh *shard) victim(now Instant) *node {
	n := sh.hand
	for range 2*sh.entries.Load() + 1 {
		if n == nil {
			n = sh.oldest
		}
		if n.entry.Dead <= now || !n.visited.Load() {
			break
		}
		n.visited.Store(false)
		n = n.newer
	}
	if n == nil {
		n = sh.oldest
	}
	sh.hand = n
	return n
}
