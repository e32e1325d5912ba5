package fastpath

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file decides how the kernel should distribute packets or connections in
// a group of sockets. It makes no system calls; steering does.

// dealing is the way in which the kernel distributes packets.
type dealing int

const (
	// evenly is the kernel's default: it chooses among all sockets of the group
	// by a hash of the addresses. It is correct whatever sockets are in the
	// group.
	evenly dealing = iota
	// toAll chooses at random among all sockets of the group, which are all
	// ours.
	toAll
	// toOurs chooses at random among our sockets, whose places must be known.
	toOurs
)

// The reasons why packets are not steered. They appear in the log and in the
// label "why".
var (
	errShared    = errors.New("sockets of another process are bound to the address too")
	errUnlocated = errors.New("the places of our sockets in the kernel's group could not be found")
	errNotAsked  = errors.New("not asked for")
)

// deal returns how the kernel should distribute. members are the inodes of the
// sockets in a group, own the inodes of all sockets of this process, and ours
// the inodes of the fast path's sockets in the group.
//
// A socket of another process must get its share. It may be there on purpose (a
// migration, an overlapping restart), and this process cannot tell which of the
// two works. A process that hangs then loses no more than its share.
func deal(members []uint64, own map[uint64]bool, ours []uint64) (dealing, error) {
	for _, o := range ours {
		if !slices.Contains(members, o) {
			return evenly, fmt.Errorf("%w: the kernel does not list them", errUnlocated)
		}
	}
	how := toAll
	for _, m := range members {
		switch {
		case slices.Contains(ours, m):
		case own[m]:
			how = toOurs
		default:
			return evenly, errShared
		}
	}
	return how, nil
}

// run is a range of adjacent places in a group.
type run struct{ first, n int }

// runs sorts places and joins adjacent ones.
func runs(places []int) (all []run) {
	slices.Sort(places)
	for _, p := range places {
		if n := len(all); n > 0 && all[n-1].first+all[n-1].n == p {
			all[n-1].n++
			continue
		}
		all = append(all, run{p, 1})
	}
	return all
}

// placesExcept returns the places of a group of n sockets that are not in
// places.
func placesExcept(places []int, n int) (rest []int) {
	for p := range n {
		if !slices.Contains(places, p) {
			rest = append(rest, p)
		}
	}
	return rest
}

const (
	// lookSoon is the pause before the members of groups are read again after a
	// change, lookEvery the longest pause without a change.
	lookSoon  = 5 * time.Millisecond
	lookEvery = time.Second
	// lookShare bounds the time spent on reading to 1/lookShare. That matters
	// on a node with tens of thousands of sockets.
	lookShare = 100
	// lookMost is the longest pause, however long reading takes.
	lookMost = 5 * time.Second
)

// nextLook returns the next pause. The latest read followed pause and took
// cost. After a change the next one is soon, because a reload makes several.
func nextLook(pause, cost time.Duration, changed bool) time.Duration {
	if changed {
		return lookSoon
	}
	return max(min(2*pause, lookEvery), min(lookShare*cost, lookMost))
}
