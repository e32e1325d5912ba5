package sides

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Kind names a side.
type Kind uint8

const (
	Success Kind = iota // answers with data, and referrals
	Denial              // NXDOMAIN, NODATA, and failures
)

// String returns the side's name, as in the label "type" of the metrics.
func (k Kind) String() string {
	if k == Denial {
		return "denial"
	}
	return "success"
}

// Side is one half of the cache.
type Side struct {
	Store    *store.Store
	Disabled Suffixes // zones whose responses are not kept
}

// Sides are the two halves of the cache with the policy for their use. The
// stores are safe for concurrent use; all else is set before the first query.
type Sides struct {
	Success, Denial Side
	Policy
	Epoch    time.Time     // instant 0; carries the monotonic clock
	Sampling store.Instant // between two writes to a popular entry, see countHit
}

// Options configure one side.
type Options struct {
	Store   store.Options
	Disable []string // zones whose responses are not kept
}

// New returns two empty sides. Both hash keys alike, see [Ident].
func New(success, denial Options, p Policy, epoch time.Time) (*Sides, error) {
	seed := maphash.MakeSeed()
	s := &Sides{Policy: p, Epoch: epoch, Sampling: store.Instant(min(sampleEvery, p.Prefetch.Duration/16))}
	for _, x := range []struct {
		side *Side
		opts Options
	}{{&s.Success, success}, {&s.Denial, denial}} {
		disabled, err := NewSuffixes(x.opts.Disable)
		if err != nil {
			return nil, err
		}
		x.opts.Store.Seed = seed
		*x.side = Side{Store: store.New(x.opts.Store), Disabled: disabled}
	}
	return s, nil
}

// TakeOver makes s use the entries of old, which was configured alike. Both
// may be in use at the same time.
func (s *Sides) TakeOver(old *Sides) {
	s.Epoch = old.Epoch
	s.Success.Store, s.Denial.Store = old.Success.Store, old.Denial.Store
}

// Instant converts a time to the unit of the stores.
func (s *Sides) Instant(t time.Time) store.Instant { return store.Instant(t.Sub(s.Epoch)) }

// Both returns the sides, each at the index of its Kind.
func (s *Sides) Both() [2]*Side { return [...]*Side{Success: &s.Success, Denial: &s.Denial} }

// Len returns the number of entries on both sides.
func (s *Sides) Len() int { return s.Success.Store.Len() + s.Denial.Store.Len() }

// Ident is a question as the cache sees it.
type Ident struct {
	Key        []byte // see wire.AppendKey
	Hash       uint64 // of Key
	DO, CD, AD bool
}

// Hash returns the hash of key, which is the same on both sides.
func (s *Sides) Hash(key []byte) uint64 { return s.Success.Store.Hash(key) }

// Clone returns a copy that does not share its key.
func (id *Ident) Clone() *Ident {
	// Not by copying *id: the compiler would then move the key to the heap.
	return &Ident{Key: bytes.Clone(id.Key), Hash: id.Hash, DO: id.DO, CD: id.CD, AD: id.AD}
}

// Name returns the name in the key, in wire form and lower case.
func (id *Ident) Name() []byte { return NameOf(id.Key) }

// NameOf returns the name in a key, in wire form and lower case.
func NameOf(key []byte) []byte { return key[wire.MaxKeyLen-wire.MaxNameLen:] }

// Lookup returns the entry that answers id now, and its side.
//
// A denial goes before a success, because it is newer: a live success would
// have been served without asking. There are two exceptions. A SERVFAIL never
// hides a success, and with PreferAnswers no denial hides an answer.
func (s *Sides) Lookup(id *Ident, now store.Instant) (e *store.Entry, kind Kind) {
	if s.Stale.PreferAnswers {
		if e := s.answering(id, now); e != nil {
			return e, Success
		}
	}
	if e := s.Denial.Store.Get(id.Hash, id.Key, now); e != nil {
		if a := e.Answer(); a.Rcode() == dns.RcodeServerFailure {
			if p := s.Success.Store.Get(id.Hash, id.Key, now); p != nil {
				return p, Success
			}
		}
		return e, Denial
	}
	return s.Success.Store.Get(id.Hash, id.Key, now), Success
}

// answering returns the live entry that has an answer to id, also if a later
// response without an answer has taken its key.
func (s *Sides) answering(id *Ident, now store.Instant) *store.Entry {
	if e := s.Success.Store.Get(id.Hash, id.Key, now); e != nil && e.Answering {
		return e
	}
	id.Key[0] |= store.Variant
	defer func() { id.Key[0] &^= store.Variant }()
	return s.Success.Store.Get(s.Success.Store.Hash(id.Key), id.Key, now)
}

// Coalesces reports whether equal misses of name, in wire form and lower case,
// may wait for one fetch.
func (s *Sides) Coalesces(name []byte, qtype uint16) bool {
	// The loop plugin finds forwarding loops by receiving its own HINFO query
	// again. If that waited for itself, it would never arrive.
	if !s.Coalesce || qtype == dns.TypeHINFO {
		return false
	}
	// Where a response is not kept, waiting queries find nothing and are only
	// late. kubeadm disables both sides for cluster.local.
	return !s.Success.Disabled.Contain(name) && !s.Denial.Disabled.Contain(name)
}

// Suffixes are zones in wire form and lower case, as they end a key.
type Suffixes [][]byte

// NewSuffixes converts zones, which are absolute domain names.
func NewSuffixes(zones []string) (Suffixes, error) {
	var all Suffixes
	for _, z := range zones {
		s, err := Suffix(z)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Suffix converts one zone.
func Suffix(zone string) ([]byte, error) {
	var name [wire.MaxNameLen + 1]byte
	n, err := dns.PackDomainName(strings.ToLower(zone), name[:], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("zone %q: %w", zone, err)
	}
	return slices.Clone(name[:n]), nil
}

// Contain reports whether name, in wire form and lower case, is in one of the
// zones.
func (z Suffixes) Contain(name []byte) bool {
	if len(z) == 0 {
		return false
	}
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		for _, s := range z {
			if string(s) == string(name[off:]) {
				return true
			}
		}
	}
	return false
}
