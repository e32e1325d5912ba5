package dnsplugin

import (
	"encoding/binary"
	"time"
)

// This file decides which queries may enter the plugin chain. It is pure: it
// has no clock, goroutine or lock, and admission_test.go plays scripts on it.
//
// A query that is answered within milliseconds costs next to nothing; one
// whose source is silent holds a goroutine for seconds. So queries are counted
// in two pools: as quick ones from their start, and as long ones once they have
// run for longAfter. A fast answer never queues behind slow ones, because slow
// ones leave the first pool.
//
// The second pool is shared by names: each query belongs to a group for its
// server block's zone, and to one for each of the next three labels (org.,
// example.org., ...). At every level a group may hold a multiple of what is
// still free (the dynamic thresholds of shared-memory switches, Choudhury and
// Hahne 1998). So a single silent name below com. holds half of the pool at
// most, all of com. two thirds, a server block four fifths, and there is always
// room for another group. No list of zones is needed, and random names below
// one zone are one group.
//
// Where a wide level is full (an upstream for everything is silent), a group
// inside of it may still try one query. If that is answered quickly, the group
// goes on: the cluster's own names, say, which another plugin of the same block
// answers. What was quick before the pool filled up proves nothing, as it may
// have come from the upstream that is silent now; but half of the room for
// trying is for groups that were quick, so that names which nobody has ever
// asked for can't take it all.

// admissionLimits bound what an admission lets in.
type admissionLimits struct {
	quick   int // queries that have run for less than longAfter
	long    int // others, as far as groups have no proof of being quick
	reserve int // beyond both, for groups that try whether they are quick
	queued  int // queries that wait
	groups  int // groups that are remembered though nothing of theirs runs

	longAfter time.Duration // from then on a query counts as long
	wait      time.Duration // a query waits for no longer
}

const (
	// levels is the zone and up to three labels below it.
	levels = 4
	// maxScore bounds what quick answers are worth: an attacker who answers
	// quickly at first gets so many long queries divided by longCost.
	maxScore = 1024
	// longCost is how many quick answers one long one outweighs.
	longCost = 8
	// maxTries is how many groups may try at a time when the reserve is used
	// up: at worst, with tries that all take long, 80 more of them a second.
	maxTries = 8
	// relief is how long no group must have been full for the next time to count
	// as another one, in which proofs are made anew.
	relief = time.Second
	// probes is how many groups are looked at to find one to run or to forget.
	probes = 16
)

// shares are the multiples of the free places that a group may hold, by level:
// four fifths, two thirds, half and half of a pool that nobody else uses.
var shares = [levels]int{4, 2, 1, 1}

// group is what is known about the names below a suffix.
//
// Invariants: quick and long are the places of this group that are in these
// states; refs >= quick + long + queue.len().
type group struct {
	key         string
	refs        int // places that point here
	quick, long int
	queue       placeQueue
	waiting     bool // in admission.waiting

	// Quick answers less longCost for each long one, from 0 to maxScore, since
	// the pressure of that number began.
	score, pressure int
	known           bool // the latest answer was quick
}

// part is how much of n groups may take for trying: half is kept for those that
// are known.
func (g *group) part(n int) int {
	if g.known {
		return n
	}
	return n / 2
}

// placeState says what a place stands for.
type placeState uint8

const (
	placeIdle placeState = iota
	placeQueued
	placeQuick
	placeLong
)

// place is one query's part in an admission.
type place struct {
	path  [levels]*group
	n     int // of path; 0: not known to the admission
	state placeState
	tries bool      // counted in admission.tries
	since time.Time // when it began to run or, if it is queued, to wait
	owner any       // set by the caller; the admission does not look at it

	before, after *place // of the list of quick ones, in the order of since
}

// known reports whether p is in its groups.
func (p *place) known() bool { return p.n > 0 }

// admission lets queries in. Its methods must not be called concurrently.
//
// Invariants: quick <= limits.quick; quick + long < 2*(limits.long +
// limits.reserve) + limits.quick; tries <= maxTries; queued is the sum of the
// groups' queues and <= limits.queued.
type admission struct {
	limits      admissionLimits
	groups      map[string]*group
	quick, long int
	queued      int
	idle        int       // groups that are not in use
	tries       int       // quick ones that were let in beyond the reserve
	pressure    int       // how often groups became full
	fullSince   time.Time // the latest time that one was
	first, last *place    // of the quick ones
	waiting     []*group  // with a queue, in no order
	turn        int       // where in waiting to look next
	dropped     []*place  // taken off the queues since takeDropped
	scratch     []byte
}

func newAdmission(l admissionLimits) *admission {
	return &admission{limits: l, groups: map[string]*group{}}
}

// place makes p the place of a query for name, in wire form and lower case,
// in a zone of the listener whose suffix has zoneLen bytes of it.
func (a *admission) place(p *place, zone int, name []byte, zoneLen int) {
	head := binary.BigEndian.AppendUint16(a.scratch[:0], uint16(zone))
	p.n = 0
	a.join(p, head)
	var starts [128]uint8
	labels := 0
	for off := 0; off < len(name)-zoneLen; off += 1 + int(name[off]) {
		starts[labels] = uint8(off)
		labels++
	}
	if labels <= 1 {
		// The names directly below a zone have a group in common.
		a.join(p, append(head, 0))
	}
	// The full name is no group: random names would be one each.
	for i := labels - 1; i >= 1 && p.n < levels; i-- {
		a.join(p, append(head, name[starts[i]:]...))
	}
	a.scratch = head
}

// join adds the group of key to the path of p.
func (a *admission) join(p *place, key []byte) {
	g := a.groups[string(key)]
	if g == nil {
		g = &group{key: string(key)}
		a.groups[g.key] = g
	} else if g.refs == 0 {
		a.idle--
	}
	g.refs++
	p.path[p.n] = g
	p.n++
}

// forget removes the group with the lowest score of some that are not in use.
func (a *admission) forget() {
	var least *group
	n := 0
	for _, g := range a.groups { // starts anywhere
		if g.refs == 0 && (least == nil || g.score < least.score) {
			least = g
		}
		if n++; n == probes {
			break
		}
	}
	if least != nil {
		delete(a.groups, least.key)
		a.idle--
	}
}

// leave takes p out of its groups. Of groups that are not in use only known ones
// say anything.
func (a *admission) leave(p *place) {
	for _, g := range p.path[:p.n] {
		if g.refs--; g.refs > 0 {
			continue
		}
		if !g.known {
			delete(a.groups, g.key)
			continue
		}
		if a.idle++; a.idle > a.limits.groups {
			a.forget()
		}
	}
	p.n, p.state = 0, placeIdle
}

// admitted is the verdict on a place. The zero value lets it begin.
type admitted struct {
	full    bool // a group of it has its share
	at      int  // the level of the narrowest such group, if full
	pressed bool // some group has its share, but one inside of it may go on
	tries   bool // it begins beyond the reserve
}

// judge says whether p may begin.
func (a *admission) judge(p *place) admitted {
	v := admitted{full: true, pressed: true}
	most := a.limits.long + a.limits.reserve
	if a.quick >= a.limits.quick || a.long >= 2*most {
		return v
	}
	free := max(0, a.limits.long-a.quick-a.long)
	v = admitted{}
	for level, g := range p.path[:p.n] {
		// As in a slow start, each quick answer lets two more try.
		proved := g.pressure == a.pressure && g.score > 0 && g.quick < 2*g.score
		held, share := g.quick+g.long, shares[level]*free
		if proved {
			// As many may turn out to be long as its quick answers outweigh.
			held, share = g.long, max(share, (g.score+longCost-1)/longCost)
		}
		switch {
		case g.quick >= shares[level]*(a.limits.quick-a.quick), held > 0 && held >= share:
			v.full, v.at, v.pressed = true, level, true
		case proved:
			v.full, v.tries = false, false
		case !v.full, held > 0:
		case a.quick+a.long < a.limits.long+g.part(a.limits.reserve):
			v.full = false
		case a.tries < g.part(maxTries):
			v.full, v.tries = false, true
		}
	}
	return v
}

// begin lets p run, if it may.
func (a *admission) begin(p *place, now time.Time) bool {
	a.age(now)
	v := a.judge(p)
	if v.pressed {
		if now.Sub(a.fullSince) > relief {
			a.pressure++
		}
		a.fullSince = now
	}
	if v.full {
		return false
	}
	a.start(p, now)
	if v.tries {
		p.tries = true
		a.tries++
	}
	return true
}

// beginAtOnce is begin for a query that will not wait for a source. It is let
// in unless even the reserve is used up.
func (a *admission) beginAtOnce(p *place, now time.Time) bool {
	a.age(now)
	if a.quick >= a.limits.quick || a.long >= 2*(a.limits.long+a.limits.reserve) {
		return false
	}
	a.start(p, now)
	return true
}

func (a *admission) start(p *place, now time.Time) {
	p.state, p.since = placeQuick, now
	a.quick++
	for _, g := range p.path[:p.n] {
		g.quick++
	}
	p.before, p.after = a.last, nil
	if a.last != nil {
		a.last.after = p
	} else {
		a.first = p
	}
	a.last = p
}

// end takes back the place of a query that ran.
func (a *admission) end(p *place, now time.Time) {
	a.age(now)
	switch p.state {
	case placeQuick:
		a.unlink(p)
		a.quick--
		for _, g := range p.path[:p.n] {
			g.quick--
			a.judged(g, 1)
		}
	case placeLong:
		a.long--
		for _, g := range p.path[:p.n] {
			g.long--
		}
	case placeIdle, placeQueued:
		return
	}
	a.leave(p)
}

// age counts those as long that have run for longAfter.
func (a *admission) age(now time.Time) {
	for p := a.first; p != nil && now.Sub(p.since) >= a.limits.longAfter; p = a.first {
		a.unlink(p)
		p.state = placeLong
		a.quick--
		a.long++
		for _, g := range p.path[:p.n] {
			g.quick--
			g.long++
			a.judged(g, -longCost)
		}
	}
}

// judged adds to the score of g in the pressure of now.
func (a *admission) judged(g *group, by int) {
	if g.pressure != a.pressure {
		g.pressure, g.score = a.pressure, 0
	}
	g.score, g.known = min(maxScore, max(0, g.score+by)), by > 0
}

// unlink takes p out of the quick ones.
func (a *admission) unlink(p *place) {
	if p.tries {
		p.tries = false
		a.tries--
	}
	if p.before != nil {
		p.before.after = p.after
	} else {
		a.first = p.after
	}
	if p.after != nil {
		p.after.before = p.before
	} else {
		a.last = p.before
	}
	p.before, p.after = nil, nil
}

// wait queues p, which may not begin, behind the others of its group just below
// the one that is full: those inside of a full group take turns. The oldest of
// the group makes room for it, if the group has its share of the queue: its
// client is the nearest to giving up.
func (a *admission) wait(p *place, now time.Time) {
	g := p.path[min(a.judge(p).at+1, p.n-1)]
	if g.queue.len() >= shares[0]*(a.limits.queued-a.queued) {
		if g.queue.len() == 0 {
			a.drop(p)
			return
		}
		a.queued--
		a.drop(g.queue.pop())
	}
	p.state, p.since = placeQueued, now
	g.queue.push(p)
	a.queued++
	if !g.waiting {
		g.waiting = true
		a.waiting = append(a.waiting, g)
	}
}

// drop gives up on p, which is in no queue any more.
func (a *admission) drop(p *place) {
	a.leave(p)
	a.dropped = append(a.dropped, p)
}

// next starts a query that has waited, nil if none may begin. The groups with
// a queue take turns; up to most of them are looked at. Queries that have waited
// for too long are dropped.
func (a *admission) next(now time.Time, most int) *place {
	a.age(now)
	for range min(most, len(a.waiting)) {
		a.turn %= len(a.waiting)
		g := a.waiting[a.turn]
		for g.queue.len() > 0 && now.Sub(g.queue.peek().since) >= a.limits.wait {
			a.queued--
			a.drop(g.queue.pop())
		}
		var p *place
		if g.queue.len() > 0 && a.begin(g.queue.peek(), now) {
			p = g.queue.pop()
			a.queued--
		}
		if g.queue.len() == 0 {
			g.waiting, g.queue = false, placeQueue{}
			end := len(a.waiting) - 1
			a.waiting[a.turn], a.waiting[end] = a.waiting[end], nil
			a.waiting = a.waiting[:end]
		} else {
			a.turn++
		}
		if p != nil {
			return p
		}
		if len(a.waiting) == 0 {
			break
		}
	}
	return nil
}

// takeDropped returns those that were given up since the last call. The slice
// is used again.
func (a *admission) takeDropped() []*place {
	d := a.dropped
	a.dropped = a.dropped[:0]
	return d
}

// placeQueue is a queue that grows up to the most that was ever in it.
type placeQueue struct {
	places []*place
	first  int
	n      int
}

func (q *placeQueue) len() int { return q.n }

// peek returns the oldest; there must be one.
func (q *placeQueue) peek() *place { return q.places[q.first] }

func (q *placeQueue) push(p *place) {
	if q.n == len(q.places) {
		grown := make([]*place, max(16, 2*len(q.places)))
		for i := range q.n {
			grown[i] = q.places[(q.first+i)%len(q.places)]
		}
		q.places, q.first = grown, 0
	}
	q.places[(q.first+q.n)%len(q.places)] = p
	q.n++
}

// pop returns the oldest; there must be one.
func (q *placeQueue) pop() *place {
	p := q.places[q.first]
	q.places[q.first] = nil
	q.first = (q.first + 1) % len(q.places)
	q.n--
	return p
}
