package s3stream

import "slices"

const (
	// maxUnproven bounds the connections to a listener that have not yet passed the handshake: some 10 KiB and a
	// descriptor each.
	maxUnproven = 256
	// maxUnprovenOfHost is a host's share of them, so that the connections of one host do not keep others out. A
	// handshake takes a round trip; a node with 64 workers that join in the same round trip has room.
	maxUnprovenOfHost = maxUnproven / 4
)

// unproven decides which connections a listener keeps while their peers have not proven that they share the token.
// A new connection always gets in: when there are too many, the one that has waited longest makes room, first of the
// same host, then of the host that has the most. Connections that never say anything, such as port scans and health
// checks, thus leave first, and a peer that answers the challenge at once gets through a flood.
//
// Invariant: len(waiting) <= maxUnproven, and at most maxUnprovenOfHost of them have the same host.
type unproven struct {
	last    uint64    // the newest number given out
	waiting []waiting // in order of arrival
}

// waiting is a connection by its number.
type waiting struct {
	id   uint64
	host string
}

// add takes in a connection from the host. It returns its number, and that of the connection to close for it; 0 for none.
func (u *unproven) add(host string) (id, evicted uint64) {
	switch of := u.perHost(); {
	case of[host] >= maxUnprovenOfHost:
		evicted = u.evict(host)
	case len(u.waiting) >= maxUnproven:
		most := host
		for _, w := range u.waiting { // in order of arrival, so that equal inputs give equal results
			if of[w.host] > of[most] {
				most = w.host
			}
		}
		if of[most] == 0 {
			most = u.waiting[0].host
		}
		evicted = u.evict(most)
	}
	u.last++
	u.waiting = append(u.waiting, waiting{u.last, host})
	return u.last, evicted
}

// remove forgets a connection: its peer has proven itself, or it is closed.
func (u *unproven) remove(id uint64) {
	u.waiting = slices.DeleteFunc(u.waiting, func(w waiting) bool { return w.id == id })
}

// oldest returns the connection to close when the process is out of descriptors; 0 when there is none.
func (u *unproven) oldest() uint64 {
	if len(u.waiting) == 0 {
		return 0
	}
	return u.evict(u.waiting[0].host)
}

func (u *unproven) perHost() map[string]int {
	of := make(map[string]int, len(u.waiting))
	for _, w := range u.waiting {
		of[w.host]++
	}
	return of
}

// evict removes the longest waiting connection of the host and returns its number.
func (u *unproven) evict(host string) uint64 {
	i := slices.IndexFunc(u.waiting, func(w waiting) bool { return w.host == host })
	id := u.waiting[i].id
	u.waiting = slices.Delete(u.waiting, i, i+1)
	return id
}
