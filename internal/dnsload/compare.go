package dnsload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Answer is a response in a form that can be compared: what the order of
// records, compression and letter case of owners can't change.
type Answer struct {
	Rcode     string
	Flags     string // of aa tc rd ra ad cd, those that are set
	Sections  [3][]string
	TTLs      [3][]uint32 // of the record at the same place in Sections
	Transport string      // udp, or tcp after a truncated answer
}

// Ask sends one question over UDP, again over TCP if the answer is truncated.
func Ask(ctx context.Context, addr string, q Query) (Answer, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.Name, q.Type)
	m.SetEdns0(1232, false)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: DefaultTimeout}
		r, _, err := c.ExchangeContext(ctx, m, addr)
		if err != nil {
			return Answer{}, fmt.Errorf("dnsload: ask %s for %v: %w", addr, q, err)
		}
		if !r.Truncated || network == "tcp" {
			a := normalise(r)
			a.Transport = network
			return a, nil
		}
	}
	return Answer{}, errors.New("dnsload: unreachable")
}

func normalise(r *dns.Msg) Answer {
	a := Answer{Rcode: dns.RcodeToString[r.Rcode]}
	for _, f := range []struct {
		set  bool
		name string
	}{{r.Authoritative, "aa"}, {r.Truncated, "tc"}, {r.RecursionDesired, "rd"}, {r.RecursionAvailable, "ra"}, {r.AuthenticatedData, "ad"}, {r.CheckingDisabled, "cd"}} {
		if f.set {
			a.Flags += f.name + " "
		}
	}
	a.Flags = strings.TrimSpace(a.Flags)
	for i, section := range [][]dns.RR{r.Answer, r.Ns, r.Extra} {
		type line struct {
			text string
			ttl  uint32
		}
		var lines []line
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			c := dns.Copy(rr)
			ttl := c.Header().Ttl
			c.Header().Ttl = 0
			c.Header().Name = strings.ToLower(c.Header().Name)
			lines = append(lines, line{c.String(), ttl})
		}
		slices.SortFunc(lines, func(x, y line) int { return strings.Compare(x.text, y.text) })
		for _, l := range lines {
			a.Sections[i] = append(a.Sections[i], l.text)
			a.TTLs[i] = append(a.TTLs[i], l.ttl)
		}
	}
	return a
}

// Diff says in what two answers differ, "" if they don't. TTLs may differ by
// ttlTolerance seconds, since the two were asked for at different times.
func (a Answer) Diff(b Answer, ttlTolerance uint32) string {
	if a.Rcode != b.Rcode {
		return fmt.Sprintf("response code %s and %s", a.Rcode, b.Rcode)
	}
	if a.Flags != b.Flags {
		return fmt.Sprintf("flags %q and %q", a.Flags, b.Flags)
	}
	for i, name := range [3]string{"answer", "authority", "additional"} {
		if !slices.Equal(a.Sections[i], b.Sections[i]) {
			return fmt.Sprintf("%s section %q and %q", name, a.Sections[i], b.Sections[i])
		}
		for j, ttl := range a.TTLs[i] {
			if other := b.TTLs[i][j]; max(ttl, other)-min(ttl, other) > ttlTolerance {
				return fmt.Sprintf("TTLs %d and %d of %q", ttl, other, a.Sections[i][j])
			}
		}
	}
	return ""
}

// Difference is a question that two servers answer differently.
type Difference struct {
	Query Query
	Text  string
}

// Compare asks both servers every question and returns the differences. It
// stops at the first question that one of them does not answer at all.
func Compare(ctx context.Context, addrA, addrB string, queries []Query, ttlTolerance uint32) ([]Difference, error) {
	var out []Difference
	for _, q := range queries {
		a, err := Ask(ctx, addrA, q)
		if err != nil {
			return out, err
		}
		b, err := Ask(ctx, addrB, q)
		if err != nil {
			return out, err
		}
		if text := a.Diff(b, ttlTolerance); text != "" {
			out = append(out, Difference{Query: q, Text: text})
		}
	}
	return out, nil
}
