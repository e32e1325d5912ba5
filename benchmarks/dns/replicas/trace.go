package main

import (
	"bytes"
	"fmt"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/internal/dnsload"
)

// trace is what dnsplugin/internal/cmd/replicas reads, by the names of the fields.
type trace struct {
	Answers [][]byte // a packed response for each distinct question
	Asks    []uint32 // indexes of Answers, in the order of time
}

// newTrace answers the questions of a mix as the authority of its zones does.
func newTrace(mix *dnsload.Mix) (*trace, error) {
	var zones []*zone
	for _, z := range mix.Zones {
		parsed, err := parseZone(z)
		if err != nil {
			return nil, err
		}
		zones = append(zones, parsed)
	}
	t := &trace{}
	index := map[dnsload.Query]uint32{}
	for _, q := range mix.Queries {
		i, known := index[q]
		if !known {
			b, err := answer(zones, q)
			if err != nil {
				return nil, err
			}
			i = uint32(len(t.Answers))
			index[q] = i
			t.Answers = append(t.Answers, b)
		}
		t.Asks = append(t.Asks, i)
	}
	return t, nil
}

// weights returns how often each answer is asked for in a pass of the trace.
func (t *trace) weights() []int {
	w := make([]int, len(t.Answers))
	for _, i := range t.Asks {
		w[i]++
	}
	return w
}

// zone is a zone to look things up in.
type zone struct {
	origin  string
	soa     dns.RR
	records map[dnsload.Query][]dns.RR
	names   map[string]bool // that exist, also those without a record of their own
}

func parseZone(z dnsload.Zone) (*zone, error) {
	out := &zone{origin: dns.Fqdn(z.Origin), records: map[dnsload.Query][]dns.RR{}, names: map[string]bool{}}
	p := dns.NewZoneParser(bytes.NewReader(z.Text), "", z.Origin)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		h := rr.Header()
		q := dnsload.Query{Name: h.Name, Type: h.Rrtype}
		out.records[q] = append(out.records[q], rr)
		for at, end := 0, false; !end && h.Name[at:] != out.origin; at, end = dns.NextLabel(h.Name, at) {
			out.names[h.Name[at:]] = true
		}
		if h.Rrtype == dns.TypeSOA {
			out.soa = rr
		}
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("zone %s: %w", z.Origin, err)
	}
	if out.soa == nil {
		return nil, fmt.Errorf("zone %s has no SOA", z.Origin)
	}
	return out, nil
}

// answer returns the packed response to q.
func answer(zones []*zone, q dnsload.Query) ([]byte, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.Name, q.Type)
	m.Response, m.Authoritative, m.Compress = true, true, true
	for _, z := range zones {
		if !dns.IsSubDomain(z.origin, q.Name) {
			continue
		}
		m.Answer = z.records[q]
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{z.soa}
		}
		if !z.names[q.Name] && q.Name != z.origin {
			m.Rcode = dns.RcodeNameError
		}
		return m.Pack()
	}
	return nil, fmt.Errorf("no zone of the mix holds %v", q)
}
