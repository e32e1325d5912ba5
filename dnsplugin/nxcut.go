package dnsplugin

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// NXDOMAIN cut (RFC 8020): if a name does not exist, no name below it exists
// either, of any type. Applied to the wrong answer, this hides existing names:
// the root of the DNS denies local., but a cluster serves cluster.local. So the
// option is off by default, and applies only to zones that the operator lists,
// or to answers that the source has validated.

// NXCut says whose denials count for all types and all names below.
type NXCut struct {
	On    bool
	Zones []string // whose denials count; nil means denials that the source has validated (AD)
}

// cutType stands for the type in the key of a cut. Questions of this type are
// never cached.
const cutType = 0

// leastCutLabels excludes top level domains from cuts that rest on validation:
// a network may use names below one that the root denies.
const leastCutLabels = 2

func (n NXCut) validate(cached []string) error {
	for _, z := range n.Zones {
		if z == "." {
			return errors.New("nxcut of the root would believe every denial: name the zones to trust, or none to trust answers that the source has validated")
		}
		if _, ok := dns.IsDomainName(z); !ok || !dns.IsFqdn(z) {
			return fmt.Errorf("nxcut: zone %q is not a full domain name: give one that ends with a dot", z)
		}
		if cached != nil && plugin.Zones(cached).Matches(z) == "" {
			return fmt.Errorf("nxcut: zone %q is not within the zones that are cached: %s", z, strings.Join(cached, " "))
		}
	}
	return nil
}

// parseNXCut reads [ZONES...].
func parseNXCut(c *caddy.Controller, args []string, n *NXCut) error {
	n.On = true
	for _, a := range args {
		zones := plugin.Host(a).NormalizeExact()
		if len(zones) == 0 {
			return c.Errf("nxcut: zone %q is neither a domain name nor a network: give for example example.org or 10.0.0.0/8", a)
		}
		n.Zones = append(n.Zones, zones...)
	}
	return nil
}

// cuts reports whether m, which classify judged as v, denies all names below its
// question's name.
func (n *NXCut) cuts(m *dns.Msg, v verdict, id *sides.Ident) bool {
	// With a CNAME the code is about its target (RFC 6604). The answer to a
	// question with CD may have failed validation.
	if !n.On || v.kind != response.NameError || len(m.Answer) > 0 || id.CD {
		return false
	}
	soa := soaOf(m)
	name := strings.ToLower(m.Question[0].Name)
	if soa == nil {
		return false
	}
	by := strings.ToLower(soa.Hdr.Name)
	if by == name || !dns.IsSubDomain(by, name) {
		return false // the denial is not from a zone above the name
	}
	if n.Zones == nil {
		return m.AuthenticatedData && dns.CountLabel(name) >= leastCutLabels
	}
	// The listed zone itself must deny the name. A denial by its parent only
	// means that the zone is not delegated, but it may be served locally.
	return plugin.Zones(n.Zones).Matches(by) != ""
}

// putCut stores m as a cut, in addition to its entry.
func (c *Cache) putCut(m *dns.Msg, id *sides.Ident, ttl uint32, now store.Instant, with extras) {
	cut := *m
	cut.Question = []dns.Question{m.Question[0]}
	cut.Question[0].Qtype = cutType
	a, ok := pack(&cut)
	if !ok {
		return
	}
	key := bytes.Clone(id.Key)
	key[1], key[2] = 0, cutType
	rec := store.NewRecord(a, now, ttl, 0) // never stale, because it would hide new names
	rec.EDE, rec.Plain = with.ede, plainLen(m)
	c.sides.Denial.Store.Put(c.sides.Hash(key), key, rec, now)
}

// eachAbove calls f with the keys of cuts at the name of id and above, nearest
// first, until f returns false.
func (c *Cache) eachAbove(id *sides.Ident, f func(hash uint64, key []byte) bool) {
	var buf [wire.MaxKeyLen]byte
	head := len(id.Key) - len(sides.NameOf(id.Key))
	for name := sides.NameOf(id.Key); name[0] != 0; name = name[1+int(name[0]):] {
		key := append(append(buf[:0], id.Key[:head]...), name...)
		key[1], key[2] = 0, cutType
		if !f(c.sides.Hash(key), key) {
			return
		}
	}
}

// cutAbove returns the cut at or above the name of id, which has no entry.
func (c *Cache) cutAbove(id *sides.Ident, now store.Instant) (cut *store.Entry) {
	if !c.cfg.NXCut.On || id.CD || c.sides.Denial.Disabled.Contain(id.Name()) {
		return nil
	}
	c.eachAbove(id, func(hash uint64, key []byte) bool {
		cut = c.sides.Denial.Store.Get(hash, key, now)
		return cut == nil
	})
	return cut
}

// liftCuts removes the cuts above the name of id, which has turned out to exist.
func (c *Cache) liftCuts(id *sides.Ident, now store.Instant) {
	both := *id
	both.Key = bytes.Clone(id.Key)
	for bits := byte(0); bits <= 1; bits++ { // without and with DO
		both.Key[0] = bits
		c.eachAbove(&both, func(hash uint64, key []byte) bool {
			if c.sides.Denial.Store.Get(hash, key, now) != nil {
				c.sides.Denial.Store.Delete(hash, key)
			}
			return true
		})
	}
}

// answerByCut answers r by the denial of a name above, or of another type. The
// proof of the denial (NSEC, NSEC3) covers all names below as well.
func (c *Cache) answerByCut(w dns.ResponseWriter, r *dns.Msg, cut *store.Entry, id *sides.Ident, now time.Time) (int, error) {
	ttl := c.sides.FreshTTL(cut.Left(c.sides.Instant(now)), cut.TTL)
	a := cut.Answer()
	m, err := reply(&a, r, ttl, id.DO || id.AD)
	if err != nil {
		return dns.RcodeServerFailure, plugin.Error(c.name, err)
	}
	addEDE(w, m, r, cut.EDE())
	_ = w.WriteMsg(m) // as in hit
	return dns.RcodeSuccess, nil
}

// isCut reports whether key is the key of a cut.
func isCut(key []byte) bool { return key[1] == 0 && key[2] == cutType }
