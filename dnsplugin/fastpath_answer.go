package dnsplugin

import (
	"errors"

	"github.com/coredns/coredns/core/dnsserver"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// answerer is the fast path of a server whose queries arrive in another way
// than over sockets of ours, such as in requests of HTTP. It answers from the
// cache only; the caller takes every other query to the server itself.
type answerer struct{ server *fastServer }

// newAnswerer returns the answerer of s, or an error that says why every query
// must take the plugin chain. The caller closes it when s ends.
func (c *Instance) newAnswerer(s *dnsserver.Server) (*answerer, error) {
	zones, ok := zonesOf(s)
	if !ok {
		return nil, errUnreadable
	}
	plans, why := c.registry.planListener(zones)
	if why != "" {
		return nil, errors.New(why)
	}
	f, err := newFastServer(s, c, plans)
	if err != nil {
		return nil, err
	}
	if f.announce(why); !f.direct() {
		return nil, errAllDecline
	}
	f.prepareStreams(0)
	f.publish()
	return &answerer{server: f}, nil
}

// answer appends the reply to query, a message without a length prefix, to
// buf, which must be empty and whose capacity is the longest reply to send. It
// is not ok if the query must take the plugin chain; that is counted with its
// reason, as over TCP. hint belongs to the connection of the client and keeps
// its queries on one worker; it starts at 0. ipv4 tells the client's family.
//
// answer is safe for concurrent use, waits for no source and allocates nothing.
func (a *answerer) answer(hint *uint32, query, buf []byte, ipv4 bool) (reply []byte, ok bool) {
	f := a.server
	w := f.borrow(hint)
	defer w.Mu.Unlock()
	now := f.now()
	reply, q, why := f.answer(w, query, buf, now)
	if why != meters.Understood {
		w.CountDecline(why)
		return nil, false
	}
	if q.zone.Counted {
		w.CountQuery(&q.zone.Zone, &q.q, len(query), ipv4)
		w.CountDuration(f.now().Sub(now))
	}
	return reply, true
}

// close stops counting for the answerer. Calls of answer that are running end
// as usual.
func (a *answerer) close() { a.server.retire() }
