package front

import (
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Look-ups of a batch. An entry that is not the hottest is in no cache of the
// processor, and neither is its place in the table: one look-up after the
// other, half of the time outside of the kernel is waiting for memory. So the
// questions of a batch go through each step together, and their waits overlap.

// Chunk is how many questions go through the steps together. Their lines,
// about eight for each, must still be in the first-level cache at the end.
const Chunk = 32

// Query is a question of the batch that is being served.
type Query struct {
	Q    wire.Query
	Zone *Zone  // nil if there is none, or the packet is not understood
	key  []byte // set with zone
	hash uint64 // of key; set if seek is
	seek bool   // the zone has a cache: why is understood, or otherZone
	why  meters.Reason

	// What the table seems to have, see hasten.
	denial, success *store.Entry
}

// parse reads pkt into a. The key goes to buf, which is long enough.
func (f *Server) parse(a *Query, pkt, buf []byte) {
	a.Zone, a.denial, a.success, a.seek = nil, nil, nil, false
	q := &a.Q
	if r := wire.ParseQuery(pkt, q); r != wire.OK {
		a.why = meters.Reason(r)
		return
	}
	a.key = wire.AppendKey(buf, q.Name(pkt), q.Type, q.Class, q.DO, q.CD)
	z := f.zoneOf(sides.NameOf(a.key))
	a.Zone = z
	switch {
	case z == nil:
		a.why = meters.OtherZone
		return
	case z.Why != "" && !(z.watched && f.Unwatched.Load()):
		a.why = meters.OtherZone
		a.seek = z.sides != nil
	case q.Type == dns.TypeDS:
		a.why = meters.TypeDS
	default:
		a.why = meters.Understood
		a.seek = true
	}
	if a.seek {
		a.hash = z.sides.Hash(a.key)
	}
}

// prefetch brings what the questions will need nearer: first the places in the
// tables, then the heads of the entries, then the rest of them. Within a round
// no load depends on another.
func (w *Worker) prefetch(all []Query) {
	for i := range all {
		if a := &all[i]; a.seek {
			a.Zone.sides.Denial.Store.Touch(a.hash)
			a.Zone.sides.Success.Store.Touch(a.hash)
		}
	}
	for i := range all {
		a := &all[i]
		if !a.seek || a.Zone.sides.Stale.PreferAnswers {
			continue
		}
		if a.denial = a.Zone.sides.Denial.Store.Likely(a.hash); a.denial == nil {
			a.success = a.Zone.sides.Success.Store.Likely(a.hash)
		}
	}
	read := uint64(0)
	for i := range all {
		if e := all[i].denial; e != nil {
			read += e.Touch()
		} else if e := all[i].success; e != nil {
			read += e.Touch()
		}
	}
	w.ready = read // so that the loads are not left out
}

// entryOf returns the entry that answers a, nil if there is none, as
// Cache.lookup does.
func (w *Worker) entryOf(a *Query, at store.Instant) (e *store.Entry, kind sides.Kind) {
	both := a.Zone.sides
	switch {
	case a.denial != nil:
		if e := both.Denial.Store.Take(a.denial, a.key, at); e != nil {
			if answer := e.Answer(); answer.Rcode() != dns.RcodeServerFailure {
				return e, sides.Denial
			}
		}
	case a.success != nil:
		if e := both.Success.Store.Take(a.success, a.key, at); e != nil {
			return e, sides.Success
		}
	}
	// Not there, of another name, dead, or a failure.
	w.id = a.ident()
	return both.Lookup(&w.id, at)
}

// ident returns the question as the cache knows it. It shares a's key.
func (a *Query) ident() sides.Ident {
	return sides.Ident{Key: a.key, Hash: a.hash, DO: a.Q.DO, CD: a.Q.CD, AD: a.Q.AD}
}
