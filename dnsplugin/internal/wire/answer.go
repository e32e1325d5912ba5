package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrAnswer is wrapped by every error of NewAnswer.
var ErrAnswer = errors.New("unusable answer")

// Answer is a packed response, indexed once when it is stored so that a reply
// is a copy and a handful of stores.
//
// Invariants (established by NewAnswer, relied on by AppendReply):
//
//	len(buf)      = n + 2*records
//	buf[:n]       is a message with ID 0, QDCOUNT 1 and no OPT
//	question      = end of the question; 12 + len(name) + 4
//	buf[n+2i:]    holds the offset of the TTL of record i, and offset+6 <= n
//	every compression pointer leads back to the start of a label that was walked
//
// The offsets follow the message in the same allocation, so that the collector
// sees one pointer for each answer.
type Answer struct {
	buf      []byte
	n        uint16
	question uint16
}

// View returns the answer with the bytes b, a message of n bytes and a question
// that ends at question. It neither copies nor checks them, so all must come
// from an Answer.
func View(b []byte, n, question uint16) Answer {
	return Answer{buf: b, n: n, question: question}
}

// Bytes returns the message with its index, for View. The caller must not write
// to it.
func (a *Answer) Bytes() []byte { return a.buf }

// QuestionEnd returns the offset of the end of the question.
func (a *Answer) QuestionEnd() int { return int(a.question) }

// Info has the properties of a message that NewAnswer has found.
type Info struct {
	Records   int    // in answer, authority and additional together
	MinTTL    uint32 // smallest TTL of all records, or 0 without records
	SOA       bool   // the authority section has a SOA
	SOANegTTL uint32 // min(TTL, MINIMUM) of that SOA (RFC 2308, section 5)
}

// section positions inside the header.
var countOffsets = [3]int{6, 8, 10}

// NewAnswer checks and indexes msg, which it copies. msg must be a response
// with one uncompressed question and without OPT.
func NewAnswer(msg []byte) (*Answer, Info, error) {
	var info Info
	if len(msg) < HeaderLen || len(msg) > 0xffff {
		return nil, info, fmt.Errorf("%w: %d bytes", ErrAnswer, len(msg))
	}
	if flags := binary.BigEndian.Uint16(msg[2:]); flags&flagQR == 0 || flags&(opcodes|flagTC) != 0 {
		return nil, info, fmt.Errorf("%w: header bits %#04x", ErrAnswer, flags)
	}
	if n := binary.BigEndian.Uint16(msg[4:]); n != 1 {
		return nil, info, fmt.Errorf("%w: %d questions", ErrAnswer, n)
	}
	nameLen, why := plainName(msg[HeaderLen:])
	if why != OK || len(msg) < HeaderLen+nameLen+questionLen {
		return nil, info, fmt.Errorf("%w: question: %v", ErrAnswer, why)
	}
	records := 0
	for _, at := range countOffsets {
		records += int(binary.BigEndian.Uint16(msg[at:]))
	}
	// The smallest record has 11 bytes, which bounds the allocation for a
	// message with false counts to a fifth of its length.
	if records*(1+rrFixedLen) > len(msg) {
		return nil, info, fmt.Errorf("%w: %d records in %d bytes", ErrAnswer, records, len(msg))
	}
	a := &Answer{n: uint16(len(msg)), question: uint16(HeaderLen + nameLen + questionLen)}
	a.buf = make([]byte, len(msg)+2*records)
	copy(a.buf, msg)
	a.buf[0], a.buf[1] = 0, 0
	info.Records = records
	if err := a.index(&info); err != nil {
		return nil, Info{}, err
	}
	return a, info, nil
}

// index walks the records, writes their TTL offsets and fills info.
func (a *Answer) index(info *Info) error {
	w, off, i := walker{msg: a.buf[:a.n]}, int(a.question), 0
	if _, err := w.name(HeaderLen, off); err != nil { // makes the question a target of pointers
		return fmt.Errorf("%w: question: %w", ErrAnswer, err)
	}
	msg := w.msg
	info.MinTTL = ^uint32(0)
	for section, at := range countOffsets {
		for range binary.BigEndian.Uint16(msg[at:]) {
			rr, next, err := w.record(off)
			if err != nil {
				return fmt.Errorf("%w: record %d at %d: %w", ErrAnswer, i, off, err)
			}
			binary.BigEndian.PutUint16(a.buf[int(a.n)+2*i:], uint16(rr.ttlAt))
			info.MinTTL = min(info.MinTTL, rr.ttl)
			if section == 1 && rr.rrtype == typeSOA && !info.SOA {
				info.SOA = true
				info.SOANegTTL = min(rr.ttl, binary.BigEndian.Uint32(msg[next-4:]))
			}
			off = next
			i++
		}
	}
	if i == 0 {
		info.MinTTL = 0
	}
	if off != len(msg) {
		return fmt.Errorf("%w: %d bytes after the last record", ErrAnswer, len(msg)-off)
	}
	return nil
}

// Size returns the memory of the message and the index, in bytes.
func (a *Answer) Size() int { return len(a.buf) }

// Len returns the length of the message, without an OPT.
func (a *Answer) Len() int { return int(a.n) }

// Msg returns the stored message (ID 0). The caller must not write to it.
func (a *Answer) Msg() []byte { return a.buf[:a.n:a.n] }

// Rcode returns the response code.
func (a *Answer) Rcode() int { return int(a.buf[3] & rcodeMask) }

// Question returns the stored question. The caller must not write to it.
func (a *Answer) Question() []byte { return a.buf[HeaderLen:a.question:a.question] }

// Records returns the number of records in all sections.
func (a *Answer) Records() int { return (len(a.buf) - int(a.n)) / 2 }

// TTLOffset returns the offset of the TTL of record i in the message. The four
// bytes before it are type and class, and the data begins six bytes after it.
func (a *Answer) TTLOffset(i int) int {
	return int(binary.BigEndian.Uint16(a.buf[int(a.n)+2*i:]))
}

// AppendReply appends the reply to a query to dst: the stored message with the
// ID, RD, CD and question of the client (in its letter case, for 0x20
// encoding), ttl in every record, and an OPT with options if the query has an
// OPT. question must be the question of the query whose key led to this answer.
//
// AppendReply returns dst unchanged and false if the reply would exceed limit
// bytes, because only the plugin chain truncates.
func (a *Answer) AppendReply(dst []byte, q *Query, question []byte, ttl uint32, limit int, options []byte) ([]byte, bool) {
	need := int(a.n)
	if q.OPT {
		need += OPTLen + len(options)
	}
	if need > limit || len(question) != int(a.question)-HeaderLen {
		return dst, false
	}
	base := len(dst)
	dst = append(dst, a.buf[:a.n]...)
	msg := dst[base:]

	binary.BigEndian.PutUint16(msg, q.ID)
	binary.BigEndian.PutUint16(msg[2:], replyFlags(binary.BigEndian.Uint16(msg[2:]), q))
	copy(msg[HeaderLen:], question)
	for at := int(a.n); at < len(a.buf); at += 2 {
		binary.BigEndian.PutUint32(msg[binary.BigEndian.Uint16(a.buf[at:]):], ttl)
	}
	if !q.OPT {
		return dst, true
	}
	binary.BigEndian.PutUint16(msg[10:], binary.BigEndian.Uint16(msg[10:])+1)
	// As CoreDNS does, return the size that the client advertised.
	var do byte
	if q.DO {
		do = 0x80
	}
	dst = append(dst, 0, 0, typeOPT, byte(q.UDPSize>>8), byte(q.UDPSize), 0, 0, do, 0, byte(len(options)>>8), byte(len(options)))
	return append(dst, options...), true
}

// replyFlags merges the flags of a stored answer and of the query.
func replyFlags(stored uint16, q *Query) uint16 {
	f := stored&^uint16(flagRD|flagCD) | flagQR
	if q.RD {
		f |= flagRD
	}
	if q.CD {
		f |= flagCD
	}
	if !q.DO && !q.AD {
		f &^= flagAD // RFC 6840 5.8: only if the client asked for it
	}
	return f
}
