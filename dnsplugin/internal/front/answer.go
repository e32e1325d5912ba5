package front

import (
	"errors"

	"github.com/coredns/coredns/core/dnsserver"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// Answerer is the fast path of a server whose queries arrive in another way
// than over sockets of ours, such as in requests of HTTP. It answers from the
// cache only; the caller takes every other query to the server itself.
type Answerer struct{ server *Server }

// NewAnswerer returns the answerer of s, or an error that says why every query
// must take the plugin chain. The caller closes it when s ends.
func (c *Instance) NewAnswerer(s *dnsserver.Server) (*Answerer, error) {
	zones, ok := ZonesOf(s)
	if !ok {
		return nil, errUnreadable
	}
	plans, why := c.registry.PlanListener(zones)
	if why != "" {
		return nil, errors.New(why)
	}
	f, err := NewServer(s, c, plans)
	if err != nil {
		return nil, err
	}
	if f.announce(why); !f.Direct() {
		return nil, ErrAllDecline
	}
	f.PrepareStreams(0)
	f.publish()
	return &Answerer{server: f}, nil
}

// Answer appends the reply to query, a message without a length prefix, to
// buf, which must be empty and whose capacity is the longest reply to send. It
// is not ok if the query must take the plugin chain; that is counted with its
// reason, as over TCP. hint belongs to the connection of the client and keeps
// its queries on one worker; it starts at 0. ipv4 tells the client's family.
//
// answer is safe for concurrent use, waits for no source and allocates nothing.
func (a *Answerer) Answer(hint *uint32, query, buf []byte, ipv4 bool) (reply []byte, ok bool) {
	f := a.server
	w := f.Borrow(hint)
	defer w.Mu.Unlock()
	now := f.Now()
	reply, q, why := f.Answer(w, query, buf, now)
	if why != meters.Understood {
		w.CountDecline(why)
		return nil, false
	}
	if q.Zone.Counted {
		w.CountQuery(&q.Zone.Zone, &q.Q, len(query), ipv4)
		w.CountDuration(f.Now().Sub(now))
	}
	return reply, true
}

// Close stops counting for the Answerer. Calls of answer that are running end
// as usual.
func (a *Answerer) Close() { a.server.retire() }
