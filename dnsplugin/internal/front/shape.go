package front

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The answer in the cache depends on a question's key. Whether the source
// answers may depend on more: servers and firewalls drop questions with EDNS,
// or with options that they don't know. So a query waits for another one's
// answer only if both send the source a question of the same shape.

// The bits of a shape's first byte.
const (
	shapeRD  = 1 << iota
	shapeOPT // an OPT record
	shapeBit // header bits that no plain query has
)

// AppendShape appends the shape of r to its key: RD, the OPT's version and
// flags, and the options. The values of cookies and paddings differ in every
// query and are left out. So is the size, which every source understands.
func AppendShape(key []byte, r *dns.Msg) []byte {
	bits := byte(0)
	if r.RecursionDesired {
		bits |= shapeRD
	}
	if r.Authoritative || r.Truncated || r.RecursionAvailable || r.Zero || r.Rcode != 0 {
		bits |= shapeBit
	}
	opt := r.IsEdns0()
	if opt == nil {
		return append(key, bits)
	}
	key = append(key, bits|shapeOPT)
	if opt.Hdr.Ttl&^ednsDO != 0 {
		key = binary.BigEndian.AppendUint32(key, opt.Hdr.Ttl&^ednsDO)
	}
	for _, o := range opt.Option {
		key = binary.BigEndian.AppendUint16(key, o.Option())
		switch o := o.(type) {
		case *dns.EDNS0_COOKIE:
			key = binary.BigEndian.AppendUint16(key, uint16(len(o.Cookie)/2))
		case *dns.EDNS0_PADDING:
			key = binary.BigEndian.AppendUint16(key, uint16(len(o.Padding)))
		default:
			key = append(key, o.String()...)
		}
	}
	return key
}

// ednsDO is the bit of the DO flag in an OPT's TTL.
const ednsDO = 1 << 15

// AppendShapeOf is appendShape for a packet that was understood, whose question
// is q: it has no other options than cookies and paddings.
func AppendShapeOf(key []byte, pkt []byte, q *wire.Query) []byte {
	bits := byte(0)
	if q.RD {
		bits |= shapeRD
	}
	if !q.OPT {
		return append(key, bits)
	}
	key = append(key, bits|shapeOPT)
	options := pkt[wire.HeaderLen+len(q.Question(pkt))+wire.OPTLen:]
	for len(options) >= 4 {
		key = append(key, options[:4]...) // code and length
		options = options[4+int(binary.BigEndian.Uint16(options[2:])):]
	}
	return key
}

// Usual reports whether r has no EDNS options that a source might not know. A
// failure to answer another question says little about the name.
func Usual(r *dns.Msg) bool {
	opt := r.IsEdns0()
	if opt == nil {
		return true
	}
	for _, o := range opt.Option {
		if code := o.Option(); code != dns.EDNS0COOKIE && code != dns.EDNS0PADDING {
			return false
		}
	}
	return opt.Version() == 0
}
