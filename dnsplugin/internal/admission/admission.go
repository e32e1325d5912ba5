//penstock:pure

package admission

import (
	"encoding/binary"
	"time"
)

// A query that is answered within milliseconds costs almost nothing, but a query
// to a silent source holds a goroutine for seconds. So queries are counted in two
// pools: as quick ones at first, and as long ones once they have run for
// LongAfter. A fast answer never queues behind slow ones, because these leave the
// first pool.
//
// Names share the second pool. Each query belongs to a group for the zone of its
// server block, and to a group for each of the next three labels (org.,
// example.org., ...). At every level a group may hold a multiple of the free
// places (the dynamic thresholds of shared-memory switches, Choudhury and Hahne
// 1998). So a single silent name below com. holds at most half of the pool, all
// of com. two thirds, a server block four fifths, and another group always finds
// a place. This needs no list of zones, and random names below one zone are one
// group.
//
// If a wide group is full, because an upstream for everything is silent, a group
// inside of it may still try one query. If that is answered quickly, the group
// may send more: it may hold the cluster's own names, which another plugin of the
// same block answers. Quick answers from before the pool filled up prove nothing,
// because they may come from the upstream that is silent now. But half of the
// room for trying is reserved for groups that were quick, so that unknown names
// cannot use it up.

// Limits bound the queries that a Control lets in.
type Limits struct {
	Quick   int // queries that have run for less than LongAfter
	Long    int // other queries, except in groups that have proved to be quick
	Reserve int // beyond both, for groups that are trying
	Queued  int // queries that wait
	Groups  int // idle groups that are remembered

	LongAfter time.Duration // from then on a query counts as long
	Wait      time.Duration // a query waits for no longer
}

const (
	// maxLevels counts the zone and up to three labels below it.
	maxLevels = 4
	// maxScore bounds the worth of quick answers. An attacker that answers
	// quickly at first gets maxScore / longCost long queries.
	maxScore = 1024
	// longCost is how many quick answers one long one outweighs.
	longCost = 8
	// maxTries is how many groups may try at a time when the reserve is used up.
	// In the worst case all tries take long, which adds 80 of them a second.
	maxTries = 8
	// pressureGap is how long no group must be full for the pressure to end. With
	// the next pressure, groups must prove again that they are quick.
	pressureGap = time.Second
	// Probes is how many groups are examined to find one to run or to forget.
	Probes = 16
)

// groupShares are the multiples of the free places that a group may hold, by
// level. A group alone in the pool can hold four fifths, two thirds, half and half
// of it.
var groupShares = [maxLevels]int{4, 2, 1, 1}

// group is the state of the names below a suffix.
//
// Invariants: quick and long are the numbers of places of this group in these
// states; refs >= quick + long + queue.len().
type group struct {
	key         string
	refs        int // places whose path contains the group
	quick, long int
	queue       placeQueue
	waiting     bool // in Control.waiting

	// Quick answers minus longCost for each long one, from 0 to maxScore, since
	// the pressure with this number began.
	score, pressure int
	known           bool // the latest answer was quick
}

// part returns how much of n the group may use for trying. Half of n is reserved
// for known groups.
func (g *group) part(n int) int {
	if g.known {
		return n
	}
	return n / 2
}

// State is the state of a place.
type State uint8

const (
	Idle State = iota
	Queued
	Quick
	Long
)

// Place is the place of one query.
type Place struct {
	path  [maxLevels]*group
	n     int // length of path; 0 outside of Assign and Leave
	State State
	tries bool      // counted in Control.tries
	since time.Time // start of running or, if it is queued, of waiting
	Owner any       // set and used by the caller only

	before, after *Place // in the list of quick places, in the order of since
}

// Known reports whether p is assigned to groups.
func (p *Place) Known() bool { return p.n > 0 }

// Control lets queries in. Its methods must not be called concurrently.
//
// Invariants: Quick <= Limits.Quick; Quick + Long < 2*(Limits.Long +
// Limits.Reserve) + Limits.Quick; tries <= maxTries; Queued is the sum of the
// groups' queues and <= Limits.Queued.
type Control struct {
	Limits      Limits
	groups      map[string]*group
	Quick, Long int
	Queued      int
	idle        int       // groups without places
	tries       int       // quick places that were let in beyond the reserve
	pressure    int       // number of times that groups became full
	fullSince   time.Time // the latest time that a group was full
	first, last *Place    // of the quick places
	waiting     []*group  // groups with a queue, in no order
	nextGroup   int       // index in waiting to examine next
	dropped     []*Place  // removed from the queues since TakeDropped
	scratch     []byte
}

// New returns a Control that lets queries in up to l.
func New(l Limits) *Control {
	return &Control{Limits: l, groups: map[string]*group{}}
}

// Assign makes p the place of a query for name, in wire form and lower case. zone
// is the index of the listener's zone that holds it, and zoneLen the length of
// the zone's name in bytes.
func (a *Control) Assign(p *Place, zone int, name []byte, zoneLen int) {
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
		// The names directly below a zone share one group.
		a.join(p, append(head, 0))
	}
	// The full name makes no group, or random names would make one each.
	for i := labels - 1; i >= 1 && p.n < maxLevels; i-- {
		a.join(p, append(head, name[starts[i]:]...))
	}
	a.scratch = head
}

// join adds the group of key to the path of p.
func (a *Control) join(p *Place, key []byte) {
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

// forget removes the group with the lowest score among some idle groups.
func (a *Control) forget() {
	var least *group
	n := 0
	for _, g := range a.groups { // in random order
		if g.refs == 0 && (least == nil || g.score < least.score) {
			least = g
		}
		if n++; n == Probes {
			break
		}
	}
	if least != nil {
		delete(a.groups, least.key)
		a.idle--
	}
}

// Leave removes p from its groups. It forgets groups that become idle, except for
// known ones.
func (a *Control) Leave(p *Place) {
	for _, g := range p.path[:p.n] {
		if g.refs--; g.refs > 0 {
			continue
		}
		if !g.known {
			delete(a.groups, g.key)
			continue
		}
		if a.idle++; a.idle > a.Limits.Groups {
			a.forget()
		}
	}
	p.n, p.State = 0, Idle
}

// admitted is the verdict on a place. The zero value lets its query start.
type admitted struct {
	full    bool // one of its groups has used up its share
	at      int  // the level of the narrowest such group, if full
	pressed bool // a group has used up its share, even if a group inside of it may start more
	tries   bool // it starts beyond the reserve
}

// judge decides whether the query of p may start.
func (a *Control) judge(p *Place) admitted {
	v := admitted{full: true, pressed: true}
	most := a.Limits.Long + a.Limits.Reserve
	if a.Quick >= a.Limits.Quick || a.Long >= 2*most {
		return v
	}
	free := max(0, a.Limits.Long-a.Quick-a.Long)
	v = admitted{}
	for level, g := range p.path[:p.n] {
		// As in a slow start, each quick answer lets two more try.
		proved := g.pressure == a.pressure && g.score > 0 && g.quick < 2*g.score
		held, share := g.quick+g.long, groupShares[level]*free
		if proved {
			// Its quick answers outweigh this number of long ones.
			held, share = g.long, max(share, (g.score+longCost-1)/longCost)
		}
		switch {
		case g.quick >= groupShares[level]*(a.Limits.Quick-a.Quick), held > 0 && held >= share:
			v.full, v.at, v.pressed = true, level, true
		case proved:
			v.full, v.tries = false, false
		case !v.full, held > 0:
		case a.Quick+a.Long < a.Limits.Long+g.part(a.Limits.Reserve):
			v.full = false
		case a.tries < g.part(maxTries):
			v.full, v.tries = false, true
		}
	}
	return v
}

// Begin starts the query of p if it may, and reports whether it did.
func (a *Control) Begin(p *Place, now time.Time) bool {
	a.Age(now)
	v := a.judge(p)
	if v.pressed {
		if now.Sub(a.fullSince) > pressureGap {
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

// BeginAtOnce is Begin for a query that will not wait for a source. It only fails
// if the reserve is used up as well.
func (a *Control) BeginAtOnce(p *Place, now time.Time) bool {
	a.Age(now)
	if a.Quick >= a.Limits.Quick || a.Long >= 2*(a.Limits.Long+a.Limits.Reserve) {
		return false
	}
	a.start(p, now)
	return true
}

func (a *Control) start(p *Place, now time.Time) {
	p.State, p.since = Quick, now
	a.Quick++
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

// End releases the place of a query that ran.
func (a *Control) End(p *Place, now time.Time) {
	a.Age(now)
	switch p.State {
	case Quick:
		a.unlink(p)
		a.Quick--
		for _, g := range p.path[:p.n] {
			g.quick--
			a.judged(g, 1)
		}
	case Long:
		a.Long--
		for _, g := range p.path[:p.n] {
			g.long--
		}
	case Idle, Queued:
		return
	}
	a.Leave(p)
}

// Age moves the queries that have run for LongAfter to the long ones.
func (a *Control) Age(now time.Time) {
	for p := a.first; p != nil && now.Sub(p.since) >= a.Limits.LongAfter; p = a.first {
		a.unlink(p)
		p.State = Long
		a.Quick--
		a.Long++
		for _, g := range p.path[:p.n] {
			g.quick--
			g.long++
			a.judged(g, -longCost)
		}
	}
}

// judged adds to the score of g under the current pressure.
func (a *Control) judged(g *group, by int) {
	if g.pressure != a.pressure {
		g.pressure, g.score = a.pressure, 0
	}
	g.score, g.known = min(maxScore, max(0, g.score+by)), by > 0
}

// unlink removes p from the list of quick places.
func (a *Control) unlink(p *Place) {
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

// Wait queues p, which may not start. The queue belongs to p's group just below
// the full one, so that the groups inside of a full group take turns. If that
// group has used up its share of the queue, Wait drops its oldest query, whose
// client is nearest to giving up.
func (a *Control) Wait(p *Place, now time.Time) {
	g := p.path[min(a.judge(p).at+1, p.n-1)]
	if g.queue.len() >= groupShares[0]*(a.Limits.Queued-a.Queued) {
		if g.queue.len() == 0 {
			a.drop(p)
			return
		}
		a.Queued--
		a.drop(g.queue.pop())
	}
	p.State, p.since = Queued, now
	g.queue.push(p)
	a.Queued++
	if !g.waiting {
		g.waiting = true
		a.waiting = append(a.waiting, g)
	}
}

// drop gives up on p, which must not be in a queue.
func (a *Control) drop(p *Place) {
	a.Leave(p)
	a.dropped = append(a.dropped, p)
}

// StartNext starts a queued query and returns its place, or nil if none may start.
// The groups with a queue take turns; it examines at most most of them. It drops
// queries that have waited for too long.
func (a *Control) StartNext(now time.Time, most int) *Place {
	a.Age(now)
	for range min(most, len(a.waiting)) {
		a.nextGroup %= len(a.waiting)
		g := a.waiting[a.nextGroup]
		for g.queue.len() > 0 && now.Sub(g.queue.peek().since) >= a.Limits.Wait {
			a.Queued--
			a.drop(g.queue.pop())
		}
		var p *Place
		if g.queue.len() > 0 && a.Begin(g.queue.peek(), now) {
			p = g.queue.pop()
			a.Queued--
		}
		if g.queue.len() == 0 {
			g.waiting, g.queue = false, placeQueue{}
			end := len(a.waiting) - 1
			a.waiting[a.nextGroup], a.waiting[end] = a.waiting[end], nil
			a.waiting = a.waiting[:end]
		} else {
			a.nextGroup++
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

// TakeDropped returns the places dropped since the last call. The slice is valid
// until the next call.
func (a *Control) TakeDropped() []*Place {
	d := a.dropped
	a.dropped = a.dropped[:0]
	return d
}

// placeQueue is a queue of places. It does not shrink.
type placeQueue struct {
	places []*Place
	first  int
	n      int
}

func (q *placeQueue) len() int { return q.n }

// peek returns the oldest place. The queue must not be empty.
func (q *placeQueue) peek() *Place { return q.places[q.first] }

func (q *placeQueue) push(p *Place) {
	if q.n == len(q.places) {
		grown := make([]*Place, max(16, 2*len(q.places)))
		for i := range q.n {
			grown[i] = q.places[(q.first+i)%len(q.places)]
		}
		q.places, q.first = grown, 0
	}
	q.places[(q.first+q.n)%len(q.places)] = p
	q.n++
}

// pop removes and returns the oldest place. The queue must not be empty.
func (q *placeQueue) pop() *Place {
	p := q.places[q.first]
	q.places[q.first] = nil
	q.first = (q.first + 1) % len(q.places)
	q.n--
	return p
}
