package dnsplugin

import (
	"errors"
	"net"

	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// recorder is the writer that the next plugin answers to. It stores the answer
// in the cache and passes it on to the client; a refresh has no client.
type recorder struct {
	dns.ResponseWriter // the client's; nil in a refresh
	cache              *Cache
	req                *dns.Msg // the query that was sent
	id                 *sides.Ident
	meters             *meters.Meters
	flight             *flight       // to finish as soon as the answer is stored; may be nil
	wildcard           func() string // reads the request's metadata; may be nil

	// only, if set, decides which responses are used; others are dropped.
	only func(*dns.Msg, verdict) acceptance

	wrote    bool         // a response has been written
	accepted bool         // the latest one counted as a refresh
	last     *dns.Msg     // the latest one in the form for the client
	entry    *store.Entry // of the latest one; nil if it was not stored
}

// acceptance says how a response to a refresh is used.
type acceptance int

const (
	drop     acceptance = iota // ignored
	keepOnly                   // kept, but does not count as a refresh
	accept                     // kept and counted
)

// refreshAddr is the client address of refreshes. Its type means TCP to the
// next plugins, so that they do not truncate.
var refreshAddr = &net.TCPAddr{}

// WriteMsg implements dns.ResponseWriter.
func (w *recorder) WriteMsg(res *dns.Msg) error {
	if res == nil {
		return errors.New("response message is nil")
	}
	w.wrote, w.entry, w.accepted = true, nil, false
	send := w.ResponseWriter != nil
	if w.only != nil {
		v := classify(res, w.cache.now())
		how := drop
		if w.matches(res) {
			how = w.only(res, v)
		}
		if how == drop {
			return nil
		}
		w.accepted = how == accept
		send = send && w.accepted
	}
	m := w.keep(res)
	if !w.id.DO && !w.id.AD {
		m.AuthenticatedData = false // RFC 6840, section 5.8
	}
	w.last = m
	if !send {
		return nil
	}
	return w.ResponseWriter.WriteMsg(m)
}

// keep stores res if it may be stored, and returns a copy with the TTLs of the
// cache, so that the first client sees the same TTL as the clients after it.
func (w *recorder) keep(res *dns.Msg) *dns.Msg {
	c, now := w.cache, w.cache.now()
	m := res.Copy()
	ede := edeOf(m)
	v := classify(m, now)
	ttl := uint32(keepFor(m, v, &c.cfg, now).Seconds())
	for _, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
		*section = setTTL(*section, ttl)
	}
	switch {
	case !v.cacheable || ttl == 0 || answersForSubnet(res):
	case v.kind == response.ServerError && !front.Usual(w.req):
		// A failure may be due to the options of this one client.
	case !w.matches(m):
		w.meters.Drops.Inc()
	default:
		with := extras{ede: ede}
		if w.wildcard != nil {
			with.wildcard = w.wildcard()
		}
		w.entry = c.put(m, v, w.id, ttl, c.sides.Instant(now), with, w.meters)
		w.afterPut(v)
	}
	if w.flight != nil {
		c.flights.finish(w.flight)
	}
	addEDE(w.ResponseWriter, m, w.req, ede)
	return m
}

// afterPut removes the denial that the new entry supersedes.
func (w *recorder) afterPut(v verdict) {
	c := w.cache
	if w.entry == nil || v.denial() {
		return
	}
	// Data from a refresh is newer than the denial.
	refresh := w.ResponseWriter == nil || w.only != nil
	if (refresh && !c.cfg.Stale.PreferPositive) || (c.cfg.Stale.PreferPositive && v.answering) {
		c.sides.Denial.Store.Delete(w.id.Hash, w.id.Key)
	}
}

// matches reports whether res has the question that was sent (RFC 5452,
// section 9.1).
func (w *recorder) matches(res *dns.Msg) bool {
	state := request.Request{Req: w.req}
	return state.Match(res)
}

// answersForSubnet reports whether res is for the clients of one subnet only
// (RFC 7871).
func answersForSubnet(res *dns.Msg) bool {
	for _, rr := range res.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		for _, o := range opt.Option {
			if ecs, ok := o.(*dns.EDNS0_SUBNET); ok && ecs.SourceScope > 0 {
				return true
			}
		}
	}
	return false
}

// setTTL sets the TTL of rrs, which the caller owns, and removes OPT records:
// these belong to one hop, and only their extended errors are stored.
func setTTL(rrs []dns.RR, ttl uint32) []dns.RR {
	kept := rrs[:0]
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		rr.Header().Ttl = ttl
		kept = append(kept, rr)
	}
	return kept
}

// Write implements dns.ResponseWriter. Packed bytes are passed on unread.
func (w *recorder) Write(b []byte) (int, error) {
	w.wrote = true
	if w.ResponseWriter == nil {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// The remaining methods also work for a recorder without a client.

// RemoteAddr implements dns.ResponseWriter.
func (w *recorder) RemoteAddr() net.Addr {
	if w.ResponseWriter == nil {
		return refreshAddr
	}
	return w.ResponseWriter.RemoteAddr()
}

// LocalAddr implements dns.ResponseWriter.
func (w *recorder) LocalAddr() net.Addr {
	if w.ResponseWriter == nil {
		return refreshAddr
	}
	return w.ResponseWriter.LocalAddr()
}

// Close implements dns.ResponseWriter.
func (w *recorder) Close() error {
	if w.ResponseWriter == nil {
		return nil
	}
	return w.ResponseWriter.Close()
}

// TsigStatus implements dns.ResponseWriter.
func (w *recorder) TsigStatus() error {
	if w.ResponseWriter == nil {
		return nil
	}
	return w.ResponseWriter.TsigStatus()
}

// TsigTimersOnly implements dns.ResponseWriter.
func (w *recorder) TsigTimersOnly(b bool) {
	if w.ResponseWriter != nil {
		w.ResponseWriter.TsigTimersOnly(b)
	}
}

// Hijack implements dns.ResponseWriter.
func (w *recorder) Hijack() {
	if w.ResponseWriter != nil {
		w.ResponseWriter.Hijack()
	}
}
