package admission

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

// Limits bound what an admission lets in.
type Limits struct {
	Quick   int // queries that have run for less than longAfter
	Long    int // others, as far as groups have no proof of being quick
	Reserve int // beyond both, for groups that try whether they are quick
	Queued  int // queries that wait
	Groups  int // groups that are remembered though nothing of theirs runs

	LongAfter time.Duration // from then on a query counts as long
	Wait      time.Duration // a query waits for no longer
}

const (
	// maxLevels is the zone and up to three labels below it.
	maxLevels = 4
	// maxScore bounds what quick answers are worth: an attacker who answers
	// quickly at first gets so many long queries divided by longCost.
	maxScore = 1024
	// longCost is how many quick answers one long one outweighs.
	longCost = 8
	// maxTries is how many groups may try at a time when the reserve is used
	// up: at worst, with tries that all take long, 80 more of them a second.
	maxTries = 8
	// pressureGap is how long no group must have been full for the next time to count
	// as another one, in which proofs are made anew.
	pressureGap = time.Second
	// Probes is how many groups are looked at to find one to run or to forget.
	Probes = 16
)

// groupShares are the multiples of the free places that a group may hold, by level:
// four fifths, two thirds, half and half of a pool that nobody else uses.
var groupShares = [maxLevels]int{4, 2, 1, 1}

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

// State says what a place stands for.
type State uint8

const (
	Idle State = iota
	Queued
	Quick
	Long
)

// Place is one query's part in an admission.
type Place struct {
	path  [maxLevels]*group
	n     int // of path; 0: not known to the admission
	State State
	tries bool      // counted in admission.tries
	since time.Time // when it began to run or, if it is queued, to wait
	Owner any       // set by the caller; the admission does not look at it

	before, after *Place // of the list of quick ones, in the order of since
}

// Known reports whether p is in its groups.
func (p *Place) Known() bool { return p.n > 0 }

// Control lets queries in. Its methods must not be called concurrently.
//
// Invariants: quick <= limits.quick; quick + long < 2*(limits.long +
// limits.reserve) + limits.quick; tries <= maxTries; queued is the sum of the
// groups' queues and <= limits.queued.
type Control struct {
	Limits      Limits
	groups      map[string]*group
	Quick, Long int
	Queued      int
	idle        int       // groups that are not in use
	tries       int       // quick ones that were let in beyond the reserve
	pressure    int       // how often groups became full
	fullSince   time.Time // the latest time that one was
	first, last *Place    // of the quick ones
	waiting     []*group  // with a queue, in no order
	nextGroup   int       // where in waiting to look next
	dropped     []*Place  // taken off the queues since takeDropped
	scratch     []byte
}

// New returns a Control that lets queries in up to l.
func New(l Limits) *Control {
	return &Control{Limits: l, groups: map[string]*group{}}
}

// Assign makes p the place of a query for name, in wire form and lower case,
// in a zone of the listener whose suffix has zoneLen bytes of it.
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
		// The names directly below a zone have a group in common.
		a.join(p, append(head, 0))
	}
	// The full name is no group: random names would be one each.
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

// forget removes the group with the lowest score of some that are not in use.
func (a *Control) forget() {
	var least *group
	n := 0
	for _, g := range a.groups { // starts anywhere
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

// Leave takes p out of its groups. Of groups that are not in use only known ones
// say anything.
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

// admitted is the verdict on a place. The zero value lets it begin.
type admitted struct {
	full    bool // a group of it has its share
	at      int  // the level of the narrowest such group, if full
	pressed bool // some group has its share, but one inside of it may go on
	tries   bool // it begins beyond the reserve
}

// judge says whether p may begin.
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
			// As many may turn out to be long as its quick answers outweigh.
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

// Begin lets p run, if it may.
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

// BeginAtOnce is begin for a query that will not wait for a source. It is let
// in unless even the reserve is used up.
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

// End takes back the place of a query that ran.
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

// Age counts those as long that have run for longAfter.
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

// judged adds to the score of g in the pressure of now.
func (a *Control) judged(g *group, by int) {
	if g.pressure != a.pressure {
		g.pressure, g.score = a.pressure, 0
	}
	g.score, g.known = min(maxScore, max(0, g.score+by)), by > 0
}

// unlink takes p out of the quick ones.
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

// Wait queues p, which may not begin, behind the others of its group just below
// the one that is full: those inside of a full group take turns. The oldest of
// the group makes room for it, if the group has its share of the queue: its
// client is the nearest to giving up.
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

// drop gives up on p, which is in no queue any more.
func (a *Control) drop(p *Place) {
	a.Leave(p)
	a.dropped = append(a.dropped, p)
}

// StartNext starts a query that has waited, nil if none may begin. The groups with
// a queue take turns; up to most of them are looked at. Queries that have waited
// for too long are dropped.
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

// TakeDropped returns those that were given up since the last call. The slice
// is used again.
func (a *Control) TakeDropped() []*Place {
	d := a.dropped
	a.dropped = a.dropped[:0]
	return d
}

// placeQueue is a queue that grows up to the most that was ever in it.
type placeQueue struct {
	places []*Place
	first  int
	n      int
}

func (q *placeQueue) len() int { return q.n }

// peek returns the oldest; there must be one.
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

// pop returns the oldest; there must be one.
func (q *placeQueue) pop() *Place {
	p := q.places[q.first]
	q.places[q.first] = nil
	q.first = (q.first + 1) % len(q.places)
	q.n--
	return p
}
