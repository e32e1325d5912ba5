package dnsplugin

import (
	"math"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/miekg/dns"
)

// This file decides, from a response alone, whether it is kept and for how
// long. It follows the rules of CoreDNS's cache, except for the differences
// listed in README.md. All functions are pure.

// verdict is the result of classify.
type verdict struct {
	kind      response.Type
	cacheable bool
	answering bool // the answer section answers the question
}

// denial reports whether the response belongs to the denial side.
func (v verdict) denial() bool {
	return v.kind == response.NameError || v.kind == response.NoData || v.kind == response.ServerError
}

// classify judges m as a response to its own question.
func classify(m *dns.Msg, now time.Time) verdict {
	kind, _ := response.Typify(m, now.UTC())
	v := verdict{kind: kind, answering: answers(m)}
	soa := soaOf(m) != nil
	// A CNAME chain that ends without the type asked for is NODATA when a
	// SOA says for how long (RFC 2308, section 2.2).
	if kind == response.NoError && len(m.Answer) > 0 && !v.answering && soa {
		v.kind = response.NoData
	}
	v.cacheable = !m.Truncated && len(m.Question) == 1 && storable(v, m, soa)
	return v
}

// storable decides by kind.
func storable(v verdict, m *dns.Msg, soa bool) bool {
	switch v.kind {
	case response.NoError:
		// If a chain does not end in the type and there is no SOA, the
		// upstream did not finish. An empty answer section is legitimate,
		// because some plugins (whoami) answer in the additional section.
		return v.answering || len(m.Answer) == 0
	case response.NameError:
		return soa // RFC 2308, section 5: required for negative caching
	case response.NoData, response.ServerError, response.Delegation:
		return true
	}
	return false
}

// soaOf returns the first SOA of the authority section.
func soaOf(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

// keepFor returns how long a response of verdict v is kept.
func keepFor(m *dns.Msg, v verdict, cfg *Config, now time.Time) time.Duration {
	switch {
	case v.kind == response.ServerError:
		return max(0, cfg.ServFail)
	case v.denial():
		ttl := messageTTL(m, v, cfg.Denial.TTL, now)
		// RFC 2308, section 5: also not longer than the SOA's MINIMUM.
		// CoreDNS's cache leaves that to the authority.
		if soa := soaOf(m); soa != nil {
			ttl = min(ttl, seconds(soa.Minttl))
		}
		return min(max(ttl, cfg.Denial.MinTTL), cfg.Denial.TTL)
	default:
		return min(max(messageTTL(m, v, cfg.Success.TTL, now), cfg.Success.MinTTL), cfg.Success.TTL)
	}
}

// messageTTL returns the smallest TTL of the message, at most limit.
func messageTTL(m *dns.Msg, v verdict, limit time.Duration, now time.Time) time.Duration {
	switch v.kind {
	case response.NoError, response.NameError, response.NoData:
	default:
		return DefaultMinTTL // a referral, or an error, whose records are unreliable
	}
	ttl, found := limit, false
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			found = true
			ttl = min(ttl, seconds(rr.Header().Ttl))
			if sig, ok := rr.(*dns.RRSIG); ok {
				ttl = min(ttl, signatureLeft(sig, now))
			}
		}
	}
	if !found {
		return DefaultMinTTL
	}
	return ttl
}

// seconds converts a TTL to a duration. A TTL with the top bit set means zero
// (RFC 2181, section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > maxTTLSeconds {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// signatureLeft returns how long sig is still valid; records must not be served
// for longer (RFC 4035, section 5.3.3). A signature that has already expired
// sets no limit, because a validator rejects the answer anyway.
func signatureLeft(sig *dns.RRSIG, now time.Time) time.Duration {
	// Serial number arithmetic (RFC 4034, section 3.1.5).
	left := int32(sig.Expiration - uint32(now.Unix()))
	if left <= 0 {
		return math.MaxInt64
	}
	return time.Duration(left) * time.Second
}

// answers reports whether a NOERROR response answers its question, which takes
// a record of the question's type at the end of the CNAME chain that starts at
// the question's name (RFC 1034, section 3.6.2).
func answers(m *dns.Msg) bool {
	if m.Rcode != dns.RcodeSuccess || len(m.Question) == 0 || len(m.Answer) == 0 {
		return false
	}
	q := m.Question[0]
	name := q.Name
	switch q.Qtype {
	case dns.TypeCNAME:
		target, ok := aliasOf(m.Answer, name, q.Qclass)
		return ok && target != ""
	default:
		// The chain has at most one step per record; more steps mean a loop.
		for range len(m.Answer) + 1 {
			target, ok := aliasOf(m.Answer, name, q.Qclass)
			if !ok {
				return false
			}
			if target == "" {
				return hasType(m.Answer, name, q)
			}
			name = target
		}
		return false
	}
}

// hasType reports whether rrs hold a record of the type of q at name.
func hasType(rrs []dns.RR, name string, q dns.Question) bool {
	for _, rr := range rrs {
		if h := rr.Header(); h.Rrtype == q.Qtype && inClass(h.Class, q.Qclass) && strings.EqualFold(h.Name, name) {
			return true
		}
	}
	return false
}

// aliasOf returns the target of owner's CNAME, or "" if there is no CNAME. It
// is not ok if owner has two different targets (RFC 2181, section 10.1).
func aliasOf(rrs []dns.RR, owner string, class uint16) (target string, ok bool) {
	for _, rr := range rrs {
		c, isCNAME := rr.(*dns.CNAME)
		if !isCNAME || !inClass(c.Hdr.Class, class) || !strings.EqualFold(c.Hdr.Name, owner) {
			continue
		}
		if target != "" && !strings.EqualFold(target, c.Target) {
			return "", false
		}
		target = c.Target
	}
	return target, true
}

func inClass(class, asked uint16) bool { return asked == dns.ClassANY || class == asked }
