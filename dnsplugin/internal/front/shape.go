package front

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The answer in the cache depends on a question's key, but whether the source
// answers may depend on more. Some servers and firewalls drop questions with
// EDNS, or with options that they do not know. So a query waits for another
// query's answer only if both send a question of the same shape to the source.

// The bits of a shape's first byte.
const (
	shapeRD  = 1 << iota
	shapeOPT // an OPT record
	shapeBit // header bits that normal queries do not set
)

// AppendShape appends the shape of r to its key: RD, the OPT's version and flags,
// and the options. It leaves out the values of cookies and paddings, which differ
// in every query, and the size, which every source understands.
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

// ednsDO is the DO flag in an OPT's TTL.
const ednsDO = 1 << 15

// AppendShapeOf is AppendShape for a packet that was parsed as q. Its only
// options are cookies and paddings.
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

// Usual reports whether r has no EDNS options that a source might not know. The
// failure of a query with other options says little about the name.
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
