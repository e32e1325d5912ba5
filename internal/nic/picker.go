//penstock:pure

package nic

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/penstock/penstock/internal/invariants"
)

const (
	// firstBackoff is how long a pair is set aside after one failure. It is longer
	// than a SYN retransmission, and short enough for a flapping link.
	firstBackoff = time.Second
	// maxBackoff is the longest time for which a pair is set aside, so that a
	// repaired link is used again within half a minute.
	maxBackoff = 30 * time.Second
	// maxPairs bounds the remembered pairs, because storage services rotate through
	// thousands of addresses.
	maxPairs = 4096
)

// pickLocal is a local as the picker knows it, with the families it can send to.
type pickLocal struct {
	name   string
	v4, v6 bool
}

// pair is an index into the locals, and a remote.
type pair struct {
	local  int
	remote netip.AddrPort
}

// pairState is the history of a pair.
type pairState struct {
	active   int       // open connections and running attempts; >= 0
	failures int       // consecutive; 0 after a success
	until    time.Time // set aside until then; zero if failures == 0
	used     uint64    // value of picker.ticks at the last use; 0 if never
}

// A picker chooses the pair of each new connection. Its caller serializes the calls.
//
// Invariants: localActive[i] = sum of active over pairs of local i;
// remoteActive[r] = sum of active over pairs of remote r, no zero entries.
type picker struct {
	locals       []pickLocal
	pairs        map[pair]*pairState
	localActive  []int
	remoteActive map[netip.AddrPort]int
	ticks        uint64 // number of uses so far; pairState.used holds its values
}

func newPicker(locals []pickLocal) *picker {
	return &picker{
		locals:       locals,
		pairs:        map[pair]*pairState{},
		localActive:  make([]int, len(locals)),
		remoteActive: map[netip.AddrPort]int{},
	}
}

// fits reports whether a local can reach an address of this family.
func (l pickLocal) fits(a netip.Addr) bool {
	if a.Unmap().Is4() {
		return l.v4
	}
	return l.v6
}

// candidate is a pair with its sort keys, in the order of importance.
type candidate struct {
	pair
	class         int       // 0 healthy, 1 its remote fails from another local, 2 set aside
	until         time.Time // end of the time in class 2
	local, remote int       // active connections of each
	active        int       // of the pair
	used          uint64
}

func (a candidate) compare(b candidate) int {
	return cmp.Or(
		cmp.Compare(a.class, b.class),
		a.until.Compare(b.until),
		cmp.Compare(a.local, b.local),
		cmp.Compare(a.remote, b.remote),
		cmp.Compare(a.active, b.active),
		cmp.Compare(a.used, b.used),
	)
}

// next returns the best pair that is not in tried and counts it as active; the
// caller must call done once for it. It returns false if no pair remains. Equal
// candidates keep the order of locals and remotes, which the resolver sorted.
func (p *picker) next(now time.Time, remotes []netip.AddrPort, tried []pair) (pair, bool) {
	var best candidate
	found := false
	for _, remote := range remotes {
		failing := p.remoteFails(now, remote)
		for i, l := range p.locals {
			c := candidate{pair: pair{i, remote}, local: p.localActive[i], remote: p.remoteActive[remote]}
			if !l.fits(remote.Addr()) || slices.Contains(tried, c.pair) {
				continue
			}
			if s := p.pairs[c.pair]; s != nil {
				c.active, c.used = s.active, s.used
				if s.until.After(now) {
					c.class, c.until = 2, s.until
				}
			}
			if c.class == 0 && failing {
				c.class = 1
			}
			if !found || c.compare(best) < 0 {
				best, found = c, true
			}
		}
	}
	if found {
		p.begin(now, best.pair)
	}
	return best.pair, found
}

// remoteFails reports whether the remote is set aside from any local.
func (p *picker) remoteFails(now time.Time, remote netip.AddrPort) bool {
	for i := range p.locals {
		if s := p.pairs[pair{i, remote}]; s != nil && s.until.After(now) {
			return true
		}
	}
	return false
}

// begin counts a use of a pair.
func (p *picker) begin(now time.Time, c pair) {
	s := p.pairs[c]
	if s == nil {
		if len(p.pairs) >= maxPairs {
			p.forget(now)
		}
		s = &pairState{}
		p.pairs[c] = s
	}
	p.ticks++
	s.used = p.ticks
	s.active++
	p.localActive[c.local]++
	p.remoteActive[c.remote]++
}

// done ends a use of a pair: its connection is closed, or was never made.
func (p *picker) done(c pair) {
	s := p.pairs[c]
	if invariants.Enabled {
		invariants.Check(s != nil && s.active > 0, "nic: done without next on %v", c)
		sum := 0
		for q, t := range p.pairs {
			if q.local == c.local {
				sum += t.active
			}
		}
		invariants.Check(sum == p.localActive[c.local], "nic: local %d has %d active, its pairs %d", c.local, p.localActive[c.local], sum)
	}
	s.active--
	p.localActive[c.local]--
	if p.remoteActive[c.remote]--; p.remoteActive[c.remote] == 0 {
		delete(p.remoteActive, c.remote)
	}
}

// succeeded clears the failures of a pair.
func (p *picker) succeeded(c pair) {
	s := p.pairs[c]
	s.failures, s.until = 0, time.Time{}
}

// failed sets a pair aside. It must still be active.
func (p *picker) failed(now time.Time, c pair) {
	s := p.pairs[c]
	s.failures++
	backoff := maxBackoff
	if s.failures < 6 { // 1, 2, 4, 8, 16 s, then the maximum
		backoff = firstBackoff << (s.failures - 1)
	}
	s.until = now.Add(backoff)
}

// forget drops the unused pairs that aren't set aside, and all unused pairs if that
// is not enough. Active pairs stay; open connections bound their number.
func (p *picker) forget(now time.Time) {
	for c, s := range p.pairs {
		if s.active == 0 && !s.until.After(now) {
			delete(p.pairs, c)
		}
	}
	if len(p.pairs) < maxPairs {
		return
	}
	for c, s := range p.pairs {
		if s.active == 0 {
			delete(p.pairs, c)
		}
	}
}
