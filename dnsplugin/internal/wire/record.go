package wire

import (
	"encoding/binary"
	"errors"
)

// Errors of a record. NewAnswer wraps them with the place.
var (
	errShort   = errors.New("cut short")
	errName    = errors.New("bad name")
	errPointer = errors.New("compression pointer does not lead back to a name")
	errRdata   = errors.New("data does not have the form of its type")
	errOPT     = errors.New("OPT is hop by hop and never stored")
)

// maxPointer is one more than the largest offset a 14-bit pointer can hold.
const maxPointer = 1 << 14

// walker walks the records of one message and records where labels start. A
// pointer must lead to such a place, so that a patched TTL cannot change a name
// of a reply, however the sender has built the message.
type walker struct {
	msg    []byte
	labels [maxPointer / 64]uint64 // bit set: a label (or root) of a walked name starts here
}

// record describes a resource record.
type record struct {
	rrtype uint16
	ttl    uint32
	ttlAt  int
}

// shape describes the data of a type: head bytes, character strings, names, and
// tail bytes, whose number may be anyTail.
type shape struct {
	head, strings, names, tail int
}

const anyTail = -1

// shapeOf returns the shape of the types whose data holds names that may be
// compressed or be the target of compression, and of the two address types.
// All other data is opaque, and a pointer into it is refused.
func shapeOf(rrtype uint16) (shape, bool) {
	switch rrtype {
	case 1: // A
		return shape{head: 4}, true
	case 28: // AAAA
		return shape{head: 16}, true
	case typeNS, 3, 4, typeCNAME, 7, 8, 9, 12, 39: // NS MD MF CNAME MB MG MR PTR DNAME
		return shape{names: 1}, true
	case typeSOA:
		return shape{names: 2, tail: 20}, true
	case 14, 17: // MINFO RP
		return shape{names: 2}, true
	case 15, 18, 21, 36: // MX AFSDB RT KX
		return shape{head: 2, names: 1}, true
	case 26: // PX
		return shape{head: 2, names: 2}, true
	case 33: // SRV
		return shape{head: 6, names: 1}, true
	case 35: // NAPTR
		return shape{head: 4, strings: 3, names: 1}, true
	case 24, 46: // SIG RRSIG
		return shape{head: 18, names: 1, tail: anyTail}, true
	case 30, 47: // NXT NSEC
		return shape{names: 1, tail: anyTail}, true
	case 64, 65: // SVCB HTTPS
		return shape{head: 2, names: 1, tail: anyTail}, true
	}
	return shape{}, false
}

// record checks the record at off and returns it with the offset after it.
func (w *walker) record(off int) (record, int, error) {
	off, err := w.name(off, len(w.msg))
	if err != nil {
		return record{}, 0, err
	}
	if len(w.msg) < off+rrFixedLen {
		return record{}, 0, errShort
	}
	rr := record{
		rrtype: binary.BigEndian.Uint16(w.msg[off:]),
		ttl:    binary.BigEndian.Uint32(w.msg[off+4:]),
		ttlAt:  off + 4,
	}
	if rr.rrtype == typeOPT {
		return record{}, 0, errOPT
	}
	end := off + rrFixedLen + int(binary.BigEndian.Uint16(w.msg[off+8:]))
	if len(w.msg) < end {
		return record{}, 0, errShort
	}
	if err := w.data(rr.rrtype, off+rrFixedLen, end); err != nil {
		return record{}, 0, err
	}
	return rr, end, nil
}

// data checks the data of a record of type rrtype at [off, end).
func (w *walker) data(rrtype uint16, off, end int) error {
	s, known := shapeOf(rrtype)
	if !known {
		return nil
	}
	off += s.head
	for range s.strings {
		if off >= end {
			return errRdata
		}
		off += 1 + int(w.msg[off])
	}
	for range s.names {
		var err error
		if off, err = w.name(off, end); err != nil {
			return err
		}
	}
	if off > end || (s.tail != anyTail && off+s.tail != end) {
		return errRdata
	}
	return nil
}

// name checks the name at off, which may be compressed but whose own bytes
// end before end, and returns the offset behind it. It ends because every
// pointer must lead to before the part of the name that holds it.
func (w *walker) name(off, end int) (int, error) {
	start, after, length := off, 0, 1
	for {
		if off >= end {
			return 0, errShort
		}
		switch c := int(w.msg[off]); {
		case c <= maxLabelLen:
			w.mark(off)
			if c == 0 {
				return max(after, off+1), nil
			}
			if length += 1 + c; length > MaxNameLen {
				return 0, errName
			}
			off += 1 + c
		case c >= 0xc0:
			if off+1 >= end {
				return 0, errShort
			}
			to := (c&0x3f)<<8 | int(w.msg[off+1])
			if to >= start || !w.marked(to) {
				return 0, errPointer
			}
			after = max(after, off+2)
			start, off = to, to
		default:
			return 0, errName
		}
	}
}

func (w *walker) mark(off int) {
	if off < maxPointer {
		w.labels[off/64] |= 1 << (off % 64)
	}
}

func (w *walker) marked(off int) bool { return w.labels[off/64]&(1<<(off%64)) != 0 }
