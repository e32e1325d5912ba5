package fastpath

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// What a group of the kernel should do with packets or connections is decided
// here, without looking at anything: see steering for who looks and acts.

// dealing is what the kernel is told to do.
type dealing int

const (
	// evenly: the kernel's own way, to every socket of the group by a hash of
	// the addresses. It is right whoever is in the group.
	evenly dealing = iota
	// toAll: at random to every socket of the group; all are ours.
	toAll
	// toOurs: at random to our sockets, whose places must be found first.
	toOurs
)

// Why packets are not steered. They are seen in the log and as the label "why".
var (
	errShared    = errors.New("sockets of another process are bound to the address too")
	errUnlocated = errors.New("the places of our sockets in the kernel's group could not be found")
	errNotAsked  = errors.New("not asked for")
)

// deal decides from the inodes of a group's members, those of all sockets of
// this process, and our seats in the group.
//
// A socket of another process must get its share: it may be of another user's
// choice (a migration, an overlapping restart), and nobody can tell which one
// of the two is in trouble. With its own share, a process that hangs loses no more than that.
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

// run is places of a group that follow one another.
type run struct{ first, n int }

// runs sorts places and puts those together that follow one another.
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

// others returns the places of a group of n that are not in places.
func others(places []int, n int) (rest []int) {
	for p := range n {
		if !slices.Contains(places, p) {
			rest = append(rest, p)
		}
	}
	return rest
}

const (
	// lookSoon and lookEvery are how long after a change, and at most, the
	// members of groups are looked at again.
	lookSoon  = 5 * time.Millisecond
	lookEvery = time.Second
	// lookShare bounds the time spent on looking: one part in so many. It
	// counts where a node has tens of thousands of sockets.
	lookShare = 100
	// lookMost is how late a change is noticed at most, whatever looking costs.
	lookMost = 5 * time.Second
)

// nextLook returns the pause after a look that followed a pause and took cost.
// A change may be the first of several, as on a reload.
func nextLook(pause, cost time.Duration, changed bool) time.Duration {
	if changed {
		return lookSoon
	}
	return max(min(2*pause, lookEvery), min(lookShare*cost, lookMost))
}
