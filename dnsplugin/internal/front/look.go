package front

import (
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Look-ups of a batch. Most entries, and their places in the table, are not in a
// cache of the processor. With one look-up after the other, half of the time
// outside of the kernel would be waiting for memory. So all questions of a batch
// take each step together, and their waits overlap.

// Chunk is how many questions take the steps together. Their cache lines, about
// eight for each, must still be in the first-level cache at the end.
const Chunk = 32

// Query is a question of the batch that a worker serves.
type Query struct {
	Q    wire.Query
	Zone *Zone  // nil if there is none, or if the packet is not understood
	key  []byte // set with zone
	hash uint64 // of key; set with seek
	seek bool   // the zone has a cache to look into
	why  meters.Reason

	// Entries that the tables probably have for it, see prefetch.
	denial, success *store.Entry
}

// parse reads pkt into a. It appends the key to buf, which must have room for
// any key.
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

// prefetch loads the memory that the look-ups of all questions need: first the
// places in the tables, then the heads of the entries, then their bytes. Within
// a round no load depends on another.
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
	w.ready = read // so that the compiler keeps the loads
}

// entryOf returns the entry that answers a, or nil. It equals sides.Lookup, but
// tries the entries that prefetch found first.
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
	// prefetch found no entry, an entry of another name, a dead one or a failure.
	w.id = a.ident()
	return both.Lookup(&w.id, at)
}

// ident returns the question in the form of package sides. It shares a's key.
func (a *Query) ident() sides.Ident {
	return sides.Ident{Key: a.key, Hash: a.hash, DO: a.Q.DO, CD: a.Q.CD, AD: a.Q.AD}
}
