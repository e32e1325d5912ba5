package dnsplugin

import (
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Look-ups of a batch. An entry that is not the hottest is in no cache of the
// processor, and neither is its place in the table: one look-up after the
// other, half of the time outside of the kernel is waiting for memory. So the
// questions of a batch go through each step together, and their waits overlap.

// chunk is how many questions go through the steps together. Their lines,
// about eight for each, must still be in the first-level cache at the end.
const chunk = 32

// asked is a question of the batch that is being served.
type asked struct {
	q    wire.Query
	zone *fastZone // nil if there is none, or the packet is not understood
	key  []byte    // set with zone
	hash uint64    // of key; set if seek is
	seek bool      // the zone has a cache: why is understood, or otherZone
	why  declined

	// What the table seems to have, see hasten.
	denial, success *store.Entry
}

// understand reads pkt into a. The key goes to buf, which is long enough.
func (f *fastServer) understand(a *asked, pkt, buf []byte) {
	a.zone, a.denial, a.success, a.seek = nil, nil, nil, false
	q := &a.q
	if r := wire.ParseQuery(pkt, q); r != wire.OK {
		a.why = declined(r)
		return
	}
	a.key = wire.AppendKey(buf, q.Name(pkt), q.Type, q.Class, q.DO, q.CD)
	z := f.zoneOf(keyName(a.key))
	a.zone = z
	switch {
	case z == nil:
		a.why = otherZone
		return
	case z.why != "" && !(z.watched && f.unwatched.Load()):
		a.why = otherZone
		a.seek = z.cache != nil
	case q.Type == dns.TypeDS:
		a.why = typeDS
	default:
		a.why = understood
		a.seek = true
	}
	if a.seek {
		a.hash = z.cache.success.store.Hash(a.key)
	}
}

// hasten brings what the questions will need nearer: first the places in the
// tables, then the heads of the entries, then the rest of them. Within a round
// no load depends on another.
func (w *fastWorker) hasten(all []asked) {
	for i := range all {
		if a := &all[i]; a.seek {
			a.zone.cache.denial.store.Touch(a.hash)
			a.zone.cache.success.store.Touch(a.hash)
		}
	}
	for i := range all {
		a := &all[i]
		if !a.seek || a.zone.inOrder {
			continue
		}
		if a.denial = a.zone.cache.denial.store.Likely(a.hash); a.denial == nil {
			a.success = a.zone.cache.success.store.Likely(a.hash)
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
func (w *fastWorker) entryOf(a *asked, at store.Instant) (e *store.Entry, kind string) {
	c := a.zone.cache
	switch {
	case a.denial != nil:
		if e := c.denial.store.Take(a.denial, a.key, at); e != nil {
			if answer := e.Answer(); answer.Rcode() != dns.RcodeServerFailure {
				return e, labelDenial
			}
		}
	case a.success != nil:
		if e := c.success.store.Take(a.success, a.key, at); e != nil {
			return e, labelSuccess
		}
	}
	// Not there, of another name, dead, or a failure.
	w.id = ident{key: a.key, hash: a.hash, do: a.q.DO, cd: a.q.CD, ad: a.q.AD}
	return c.lookup(&w.id, at)
}
