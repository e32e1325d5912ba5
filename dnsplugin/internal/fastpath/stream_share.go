package fastpath

import "net/netip"

// Places of connections are shared by client. When all are taken, a new
// connection gets the place of another one: of the client that holds the most,
// the one that has done nothing for the longest time. So one client can't keep
// the others out, however many connections it opens, and it loses none as long
// as there is room.

// sampled is how many connections are compared to find the one that has done
// nothing for the longest time. Looking at all of a client's would let it make
// the server work by opening more.
const sampled = 64

// occupant is a connection that holds a place.
type occupant interface {
	comparable
	// used says whether answers are under way, and when it was last used.
	used() (busy bool, at int64)
}

// clientOf is what counts as one client: an IPv4 address, or the network of 64
// bits that an IPv6 host may choose its addresses from.
func clientOf(a netip.Addr) netip.Addr {
	if a.Is4() || a.Is4In6() {
		return a.Unmap()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// places deals out places. It knows neither sockets nor locks.
//
// Invariants: n is the sum of the clients' seats and <= most; holders[k] are
// the clients with k seats, and not empty for k = top; top is 0 without seats.
type places[S occupant] struct {
	most    int
	n       int
	clients map[netip.Addr]*holding[S]
	holders map[int]map[*holding[S]]struct{}
	top     int
}

type holding[S occupant] struct {
	client netip.Addr
	seats  map[S]struct{}
}

func newPlaces[S occupant](most int) *places[S] {
	return &places[S]{most: most, clients: map[netip.Addr]*holding[S]{}, holders: map[int]map[*holding[S]]struct{}{}}
}

// take gives s, a connection of client, a place. evicted is the one that has
// lost its place for that, if any. It is not ok if there is none to take: the
// clients that hold the most wait for answers on all the connections that were
// looked at, or client is the one that holds the most and does so itself.
func (p *places[S]) take(client netip.Addr, s S) (evicted S, evicts, ok bool) {
	client = clientOf(client)
	if p.n >= p.most {
		var from netip.Addr
		if evicted, from, evicts = p.idlest(client); !evicts {
			return evicted, false, false
		}
		p.leave(from, evicted)
	}
	h := p.clients[client]
	if h == nil {
		h = &holding[S]{client: client, seats: map[S]struct{}{}}
		p.clients[client] = h
	}
	p.move(h, func() { h.seats[s] = struct{}{} })
	p.n++
	return evicted, evicts, true
}

// leave takes the place of s back, if it has one.
func (p *places[S]) leave(client netip.Addr, s S) {
	client = clientOf(client)
	h := p.clients[client]
	if h == nil {
		return
	}
	if _, has := h.seats[s]; !has {
		return
	}
	p.move(h, func() { delete(h.seats, s) })
	p.n--
	if len(h.seats) == 0 {
		delete(p.clients, client)
	}
}

// move changes the seats of h by one and keeps holders and top.
func (p *places[S]) move(h *holding[S], change func()) {
	if k := len(h.seats); k > 0 {
		delete(p.holders[k], h)
		if len(p.holders[k]) == 0 {
			delete(p.holders, k)
		}
	}
	change()
	k := len(h.seats)
	if k > 0 {
		if p.holders[k] == nil {
			p.holders[k] = map[*holding[S]]struct{}{}
		}
		p.holders[k][h] = struct{}{}
	}
	for p.top = max(p.top, k); p.top > 0 && p.holders[p.top] == nil; p.top-- {
	}
}

// idlest returns the seat that has been used the longest time ago, of some
// that belong to the clients with the most. One that waits for answers is only
// taken from a client that holds at least two more than the new one's.
func (p *places[S]) idlest(client netip.Addr) (least S, from netip.Addr, ok bool) {
	own := 0
	if h := p.clients[client]; h != nil {
		own = len(h.seats)
	}
	greedy := p.top >= own+2
	n, leastBusy, leastAt := 0, false, int64(0)
	for h := range p.holders[p.top] { // map iteration starts anywhere
		for s := range h.seats {
			busy, at := s.used()
			if (!busy || greedy) && (!ok || leastBusy && !busy || leastBusy == busy && at < leastAt) {
				least, from, leastBusy, leastAt, ok = s, h.client, busy, at, true
			}
			if n++; n >= sampled {
				return least, from, ok
			}
		}
	}
	return least, from, ok
}
