package fastpath

import "net/netip"

// Places of connections are shared by client. When all are taken, a new
// connection gets the place of another one, which is closed: among the
// connections of the client that holds the most places, the one that has been
// idle for the longest time. So one client cannot keep the others out, however
// many connections it opens, and loses none while there is room.

// sampled is the number of connections that are compared to find an idle one.
// The search would be expensive if a client could make it longer by opening
// more connections.
const sampled = 64

// occupant is a connection that holds a place.
type occupant interface {
	comparable
	// used returns whether answers are pending, and when it was last used.
	used() (busy bool, at int64)
}

// clientOf returns the client of an address: an IPv4 address, or the /64
// network from which an IPv6 host may choose its addresses.
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

// places assigns places to connections. It uses neither sockets nor locks.
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

// take gives s, a connection of client, a place. If evicts is true, evicted has
// lost its place. ok is false if no place is free and none can be taken,
// because answers are pending on all connections that were compared.
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

// leave frees the place of s, if it has one.
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

// move changes the seats of h by one, and updates holders and top.
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

// idlest returns the seat that has been idle for the longest time, among some
// seats of the clients with the most. A seat with pending answers is taken only
// if its client holds at least two more than client.
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
