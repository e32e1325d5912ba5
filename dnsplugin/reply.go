package dnsplugin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// errRecord cannot occur for an answer that pack has accepted.
var errRecord = errors.New("a stored record cannot be unpacked")

// reply makes the message that answers r from a, with ttl in every record.
//
// The plugins before the cache (log, rewrite, loadbalance, prometheus ...) work
// on messages, so it unpacks the bytes. The message shares no memory with other
// replies, and plugins may change it. It equals the result of Msg.Unpack at a
// quarter of the cost, because the records of common types share two
// allocations, and each name is decoded only once.
func reply(a *wire.Answer, r *dns.Msg, ttl uint32, keepAD bool) (*dns.Msg, error) {
	b := a.Msg()
	flags := binary.BigEndian.Uint16(b[2:])
	m := new(message)
	m.MsgHdr = dns.MsgHdr{
		Id:                 r.Id,
		Response:           true,
		Opcode:             r.Opcode,
		Authoritative:      flags&(1<<10) != 0,
		RecursionDesired:   r.RecursionDesired,
		RecursionAvailable: flags&(1<<7) != 0,
		AuthenticatedData:  flags&(1<<5) != 0 && keepAD,
		CheckingDisabled:   r.CheckingDisabled,
		Rcode:              a.Rcode(),
	}
	m.question[0] = r.Question[0] // as this client wrote it
	m.Question = m.question[:]
	n := a.Records()
	// The server appends the client's OPT to the additional section.
	room := n
	if len(r.Extra) > 0 {
		room++
	}
	if n == 0 {
		m.Extra = m.records[:0:room]
		return &m.Msg, nil
	}
	d := decoder{b: b, off: wire.HeaderLen + len(a.Question()), ttl: ttl}
	// Most owners are the question's name or a zone above it. If this client's
	// spelling equals the stored one, its string serves for these owners too.
	if spelt(a.Question(), r.Question[0].Name) {
		d.asked = r.Question[0].Name
	}
	d.count(a)
	var rrs []dns.RR
	if room <= len(m.records) {
		rrs = m.records[:n:room]
	} else {
		rrs = make([]dns.RR, n, room)
	}
	for i := range rrs {
		if rrs[i] = d.record(a.TTLOffset(i)); rrs[i] == nil {
			return nil, errRecord
		}
	}
	// The capacity of a section ends with it, so that appending a record does not
	// overwrite the next section.
	an := int(binary.BigEndian.Uint16(b[6:]))
	ns := an + int(binary.BigEndian.Uint16(b[8:]))
	m.Answer, m.Ns, m.Extra = rrs[:an:an], rrs[an:ns:ns], rrs[ns:n:room]
	return &m.Msg, nil
}

// message is a message in one allocation, with room for the records of most
// replies: one record, and the OPT of the client.
type message struct {
	dns.Msg
	question [1]dns.Question
	records  [2]dns.RR
}

// addressA and addressAAAA are a record and its address in one allocation.
type addressA struct {
	dns.A
	ip [net.IPv4len]byte
}

type addressAAAA struct {
	dns.AAAA
	ip [net.IPv6len]byte
}

// decoder walks over the records of a stored answer.
type decoder struct {
	b   []byte
	off int // where the next record starts
	ttl uint32

	asked string // the question's name, or "" if it cannot be used

	as    []addressA
	aaaas []addressAAAA

	// names that are decoded, by the offset of their first label.
	names [6]struct {
		at   int
		text string
	}
	known int
}

// count counts the address records and allocates them together.
func (d *decoder) count(a *wire.Answer) {
	var as, aaaas int
	for i := range a.Records() {
		switch at := a.TTLOffset(i); binary.BigEndian.Uint16(d.b[at-4:]) {
		case dns.TypeA:
			as++
		case dns.TypeAAAA:
			aaaas++
		}
	}
	if as > 0 {
		d.as = make([]addressA, as)
	}
	if aaaas > 0 {
		d.aaaas = make([]addressAAAA, aaaas)
	}
}

// record decodes the record at d.off, whose TTL is at ttlAt, and advances to the
// next. It returns nil if miekg/dns does not understand the record's data.
func (d *decoder) record(ttlAt int) dns.RR {
	start, data := d.off, ttlAt+6
	h := dns.RR_Header{
		Rrtype:   binary.BigEndian.Uint16(d.b[ttlAt-4:]),
		Class:    binary.BigEndian.Uint16(d.b[ttlAt-2:]),
		Ttl:      d.ttl,
		Rdlength: binary.BigEndian.Uint16(d.b[ttlAt+4:]),
	}
	d.off = data + int(h.Rdlength)
	if h.Rdlength == 0 {
		return d.other(start)
	}
	switch h.Rrtype {
	case dns.TypeA:
		h.Name = d.name(start)
		rr := &d.as[0]
		d.as = d.as[1:]
		copy(rr.ip[:], d.b[data:])
		rr.Hdr, rr.A.A = h, rr.ip[:]
		return &rr.A
	case dns.TypeAAAA:
		h.Name = d.name(start)
		rr := &d.aaaas[0]
		d.aaaas = d.aaaas[1:]
		copy(rr.ip[:], d.b[data:])
		rr.Hdr, rr.AAAA.AAAA = h, rr.ip[:]
		return &rr.AAAA
	case dns.TypeCNAME:
		h.Name = d.name(start)
		return &dns.CNAME{Hdr: h, Target: d.name(data)}
	case dns.TypeSOA:
		h.Name = d.name(start)
		numbers := d.b[d.off-20 : d.off]
		return &dns.SOA{
			Hdr: h, Ns: d.name(data), Mbox: d.name(d.after(data)),
			Serial:  binary.BigEndian.Uint32(numbers),
			Refresh: binary.BigEndian.Uint32(numbers[4:]),
			Retry:   binary.BigEndian.Uint32(numbers[8:]),
			Expire:  binary.BigEndian.Uint32(numbers[12:]),
			Minttl:  binary.BigEndian.Uint32(numbers[16:]),
		}
	case dns.TypeSRV:
		h.Name = d.name(start)
		return &dns.SRV{
			Hdr:      h,
			Priority: binary.BigEndian.Uint16(d.b[data:]),
			Weight:   binary.BigEndian.Uint16(d.b[data+2:]),
			Port:     binary.BigEndian.Uint16(d.b[data+4:]),
			Target:   d.name(data + 6),
		}
	}
	return d.other(start)
}

// other decodes a record with miekg/dns.
func (d *decoder) other(start int) dns.RR {
	rr, _, err := dns.UnpackRR(d.b, start)
	if err != nil {
		return nil
	}
	rr.Header().Ttl = d.ttl
	return rr
}

// after returns the offset of the first byte after the name at off.
func (d *decoder) after(off int) int {
	for {
		switch c := int(d.b[off]); {
		case c == 0:
			return off + 1
		case c >= 0xc0:
			return off + 2
		default:
			off += 1 + c
		}
	}
}

// name decodes the name at off, which wire.NewAnswer has validated.
func (d *decoder) name(off int) string {
	for d.b[off] >= 0xc0 {
		off = int(binary.BigEndian.Uint16(d.b[off:]) & 0x3fff)
	}
	if d.b[off] == 0 {
		return "."
	}
	// The length byte of a label and the dot before its text are at the same
	// position, so an offset in the question is an offset in the text.
	if at := off - wire.HeaderLen; at < len(d.asked) {
		return d.asked[at:]
	}
	for _, n := range d.names[:d.known] {
		if n.at == off {
			return n.text
		}
	}
	text, _, err := dns.UnpackDomainName(d.b, off)
	if err != nil {
		return "." // unreachable: checked by wire.NewAnswer, and by pack
	}
	if d.known < len(d.names) {
		d.names[d.known].at, d.names[d.known].text = off, text
		d.known++
	}
	return text
}

// spelt reports whether text is the name at the start of b, with the same letter
// case. It returns false for names with escapes, which are rare.
func spelt(b []byte, text string) bool {
	at := 0
	for n := int(b[0]); n != 0; n = int(b[at]) {
		label := b[at+1 : at+1+n]
		if len(text) <= n || text[n] != '.' || string(label) != text[:n] || bytes.ContainsAny(label, `.\`) {
			return false
		}
		text, at = text[n+1:], at+1+n
	}
	return text == "" && at > 0
}
