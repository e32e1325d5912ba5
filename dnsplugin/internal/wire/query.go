package wire

import "encoding/binary"

// Sizes of the fixed parts of a message, in bytes (RFC 1035, section 4.1).
const (
	HeaderLen = 12
	// MaxNameLen is the longest name in wire form, root label included.
	MaxNameLen = 255
	// MaxKeyLen is the longest key that AppendKey makes.
	MaxKeyLen = keyHeadLen + MaxNameLen
	// MinUDPSize is the size that every client accepts. A smaller EDNS size
	// means the same (RFC 6891, section 6.2.3).
	MinUDPSize = 512

	rrFixedLen  = 10 // type, class, TTL and rdlength, which follow an owner name
	OPTLen      = 11 // an OPT without options: root owner and the fixed part
	questionLen = 4  // type and class of a question
	maxLabelLen = 63
	keyHeadLen  = 5
)

// Flag bits of the second header word (RFC 1035 4.1.1, RFC 4035 for AD and CD).
const (
	flagQR    = 1 << 15
	opcodes   = 0xf << 11
	flagAA    = 1 << 10
	flagTC    = 1 << 9
	flagRD    = 1 << 8
	flagRA    = 1 << 7
	flagZ     = 1 << 6
	flagAD    = 1 << 5
	flagCD    = 1 << 4
	rcodeMask = 0xf
)

// Types and classes that decide something here.
const (
	ClassINET = 1

	typeNS    = 2
	typeCNAME = 5
	typeSOA   = 6
	typeOPT   = 41
	typeTKEY  = 249 // 249 to 255 are meta types: TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY
	typeANY   = 255

	optCookie  = 10
	optPadding = 12

	ednsDO = 1 << 15 // in the flags half of an OPT's TTL
)

// Reason is the reason why a query is left to the plugin chain.
type Reason uint8

// The reasons. They are stable and double as values of a metric label.
const (
	OK          Reason = iota // the query is understood whole
	Short                     // ends within a record
	NotAQuery                 // a response, another opcode, or header bits that no plain query has
	Counts                    // not exactly one question and at most one further record, which is additional
	BadName                   // compressed, overlong or broken name in the question
	MetaType                  // a type that no cache may answer: ANY, transfers, OPT, TSIG ...
	OtherClass                // a class other than IN
	NotOPT                    // the additional record is no OPT at the root (TSIG, SIG(0), ...)
	EDNSVersion               // unknown EDNS version, extended code or flags
	EDNSOption                // an option that asks for more than an answer (ECS, NSID, ...)
	Trailing                  // bytes after the last record
)

// reasonNames is indexed by Reason.
var reasonNames = [...]string{
	"ok", "short", "not_a_query", "counts", "bad_name", "meta_type",
	"other_class", "not_opt", "edns_version", "edns_option", "trailing",
}

// String returns the reason as a short word in snake case.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Query is a parsed query. It has no pointers, so that the collector does not
// scan it; the methods that return bytes need the packet.
type Query struct {
	ID      uint16
	Type    uint16
	Class   uint16
	UDPSize uint16 // of the OPT, or 0 without OPT
	NameLen uint16 // of the name in wire form, root label included
	RD      bool   // recursion desired
	AD      bool   // the client understands the AD bit (RFC 6840 5.7)
	CD      bool   // checking disabled
	OPT     bool   // the query has an OPT
	DO      bool   // DNSSEC records wanted
}

// Name returns the bytes of the name in pkt, which must be the packet that was
// parsed.
func (q *Query) Name(pkt []byte) []byte {
	return pkt[HeaderLen : HeaderLen+int(q.NameLen)]
}

// Question returns the bytes of the whole question in pkt: name, type and
// class.
func (q *Query) Question(pkt []byte) []byte {
	return pkt[HeaderLen : HeaderLen+int(q.NameLen)+questionLen]
}

// Limit returns the longest UDP answer that the client accepts, in bytes.
func (q *Query) Limit() int { return max(MinUDPSize, int(q.UDPSize)) }

// ParseQuery reads pkt into q. It returns OK only for a query that is
// understood to its last byte; after any other reason q is undefined.
func ParseQuery(pkt []byte, q *Query) Reason {
	if len(pkt) < HeaderLen {
		return Short
	}
	flags := binary.BigEndian.Uint16(pkt[2:])
	// AA, TC, RA, Z and a response code have no meaning in a query, so a query
	// with them is left to the chain.
	if flags&(flagQR|opcodes|flagAA|flagTC|flagRA|flagZ|rcodeMask) != 0 {
		return NotAQuery
	}
	// QDCOUNT 1, ANCOUNT 0, NSCOUNT 0, ARCOUNT 0 or 1.
	arcount := binary.BigEndian.Uint16(pkt[10:])
	if binary.BigEndian.Uint16(pkt[4:]) != 1 || binary.BigEndian.Uint32(pkt[6:]) != 0 || arcount > 1 {
		return Counts
	}
	nameLen, why := plainName(pkt[HeaderLen:])
	if why != OK {
		return why
	}
	off := HeaderLen + nameLen
	if len(pkt) < off+questionLen {
		return Short
	}
	*q = Query{
		ID:      binary.BigEndian.Uint16(pkt),
		Type:    binary.BigEndian.Uint16(pkt[off:]),
		Class:   binary.BigEndian.Uint16(pkt[off+2:]),
		NameLen: uint16(nameLen),
		RD:      flags&flagRD != 0,
		AD:      flags&flagAD != 0,
		CD:      flags&flagCD != 0,
	}
	if !Cacheable(q.Type) {
		return MetaType
	}
	if q.Class != ClassINET {
		return OtherClass
	}
	off += questionLen
	if arcount == 0 {
		if off != len(pkt) {
			return Trailing
		}
		return OK
	}
	return parseOPT(pkt[off:], q)
}

// Cacheable reports whether answers to questions of type t may be cached at
// all: not OPT, ANY (RFC 8482) nor the other query-only types, nor 0.
func Cacheable(t uint16) bool {
	return t != 0 && t != typeOPT && (t < typeTKEY || t > typeANY)
}

// plainName returns the length of the uncompressed name at the start of b.
func plainName(b []byte) (int, Reason) {
	for off := 0; off < len(b); {
		c := int(b[off])
		if c == 0 {
			return off + 1, OK
		}
		// The root label must still fit, hence >= and not >.
		if c > maxLabelLen || off+1+c >= MaxNameLen {
			return 0, BadName
		}
		off += 1 + c
	}
	return 0, Short
}

// parseOPT reads b, the rest of a packet, as exactly one OPT record.
func parseOPT(b []byte, q *Query) Reason {
	if len(b) < OPTLen {
		return Short
	}
	if b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != typeOPT {
		return NotOPT
	}
	if binary.BigEndian.Uint32(b[5:])&^ednsDO != 0 {
		return EDNSVersion
	}
	q.OPT = true
	q.UDPSize = binary.BigEndian.Uint16(b[3:])
	q.DO = b[7]&0x80 != 0
	rdlen := int(binary.BigEndian.Uint16(b[9:]))
	switch b = b[OPTLen:]; {
	case len(b) < rdlen:
		return Short
	case len(b) > rdlen:
		return Trailing
	}
	for len(b) > 0 {
		if len(b) < 4 {
			return Short
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; len(b) < n {
			return Short
		}
		// A server may ignore a cookie (RFC 7873 5.2.3), and the padding of a
		// query (RFC 7830) as CoreDNS does. Other options are left to the
		// chain.
		if code != optCookie && code != optPadding {
			return EDNSOption
		}
		b = b[n:]
	}
	return OK
}

// AppendKey appends the key of a question to dst: name (wire form) in lower
// case, type, class, and the bits of the query that select another answer.
// One cached answer serves all questions with equal keys.
func AppendKey(dst, name []byte, qtype, qclass uint16, do, cd bool) []byte {
	var bits byte
	if do {
		bits |= 1
	}
	if cd {
		bits |= 2
	}
	dst = append(dst, bits, byte(qtype>>8), byte(qtype), byte(qclass>>8), byte(qclass))
	at := len(dst)
	dst = append(dst, name...)
	lower(dst[at:])
	return dst
}

// AppendName appends the name of the first question of pkt to dst, in wire form
// and lower case. If the name is compressed, broken or missing, it appends the
// root.
func AppendName(dst, pkt []byte) []byte {
	n, why := 0, Short
	if len(pkt) > HeaderLen {
		n, why = plainName(pkt[HeaderLen:])
	}
	if why != OK {
		return append(dst, 0)
	}
	at := len(dst)
	dst = append(dst, pkt[HeaderLen:HeaderLen+n]...)
	lower(dst[at:])
	return dst
}

// lower turns the letters A to Z in b into lower case, eight bytes at a time.
// Label lengths are at most 63, below 'A', so in a name they pass unchanged.
func lower(b []byte) {
	const (
		each  = 0x0101010101010101 // a byte's value in each of eight bytes
		tops  = 0x80 * each
		fromA = (0x80 - 'A') * each
		fromZ = (0x80 - 'Z' - 1) * each
	)
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		// The top bit of a byte of low+fromA is set for 'A' and above, and of
		// low+fromZ for bytes above 'Z'. Neither carries into the next byte.
		low := x &^ tops
		upper := (low + fromA) &^ (low + fromZ) &^ x & tops
		binary.LittleEndian.PutUint64(b, x|upper>>2) // 0x80>>2 is 'a'-'A'
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
}
