package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Instant is a time in nanoseconds since a moment of the owner's choice.
type Instant int64

// Forever is later than every other instant.
const Forever Instant = math.MaxInt64

// Add returns the instant d later, or Forever if that overflows.
func (t Instant) Add(d time.Duration) Instant {
	if d > 0 && t > Forever-Instant(d) {
		return Forever
	}
	return t + Instant(d)
}

// Record is the input of Put.
type Record struct {
	Answer *wire.Answer // its bytes are copied
	Stored Instant      // when it was received
	TTL    uint32       // seconds that it is fresh, from Stored
	Dead   Instant      // from here on Get does not return it

	// Fields for the owner, which the store does not use.
	Answering bool   // the answer section answers the question
	Plain     int    // length of the answer without compression
	Wildcard  string // the wildcard record that made the answer, at most 255 bytes
	EDE       []byte // EDNS options to send with the answer, at most MaxEDE bytes
}

// MaxEDE is the most bytes of EDNS options of an entry.
const MaxEDE = 255

// NewRecord returns a record that is fresh for ttl seconds and stays usable
// (stale) for a further grace.
func NewRecord(a *wire.Answer, now Instant, ttl uint32, grace time.Duration) Record {
	return Record{Answer: a, Stored: now, TTL: ttl, Dead: now.Add(time.Duration(ttl)*time.Second + grace)}
}

// Entry is the head of a stored answer, whose bytes follow it in the arena. It
// must not be copied, because no bytes follow a copy. All fields but the atomic
// ones are immutable.
type Entry struct {
	Stored Instant
	Dead   Instant

	// Refresh state of the owner. It changes only for entries near or past
	// their end.
	RetryAfter atomic.Int64 // Instant; no refresh before it
	// Popularity, written on hits only when the owner prefetches.
	LastHit    atomic.Int64  // Instant of the latest hit that was counted
	Hits       atomic.Uint32 // hits that were counted
	Refreshing atomic.Bool   // a refresh is in flight

	visits atomic.Uint32 // 0 to maxVisits; readers add, eviction subtracts
	TTL    uint32        // seconds
	Plain  uint32        // length of the answer without compression

	size          uint32 // of the answer's bytes, which follow
	msg, question uint16 // see wire.View
	wildcard, ede uint8  // bytes, behind the answer's
	bits          uint8  // of the key: DO, CD and Variant

	// Answering reports whether the answer section answers the question.
	Answering bool
}

const entrySize = int(unsafe.Sizeof(Entry{}))

// tail returns n bytes that follow the entry, from the given offset on.
func (e *Entry) tail(off, n int) []byte {
	if n == 0 {
		return nil // off may be the end of the segment, which no pointer must lead to
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(e), entrySize+off)), n) //nolint:gosec // within the segment: reserve has given the entry so many words
}

// Answer returns the stored answer. The caller must not write to its bytes.
func (e *Entry) Answer() wire.Answer {
	return wire.View(e.tail(0, int(e.size)), e.msg, e.question)
}

// Wildcard returns the wildcard record that made the answer, if any.
func (e *Entry) Wildcard() string {
	if e.wildcard == 0 {
		return ""
	}
	return string(e.tail(int(e.size), int(e.wildcard)))
}

// EDE returns the options to send with the answer, or nil. The caller must not
// write to them.
func (e *Entry) EDE() []byte {
	return e.tail(int(e.size)+int(e.wildcard), int(e.ede))
}

// Left returns the whole seconds of freshness left at now; zero or less when
// stale.
func (e *Entry) Left(now Instant) int {
	return int(e.TTL) - int(time.Duration(now-e.Stored)/time.Second)
}

// length returns the length of the entry in its segment, in words.
func (e *Entry) length() int { return words(e.bytes()) }

// bytes returns the number of bytes that follow the head.
func (e *Entry) bytes() int { return int(e.size) + int(e.wildcard) + int(e.ede) }

func words(tail int) int { return (entrySize + tail + 7) / 8 }

// has reports whether the entry has key. The name is part of the question,
// which is stored with the letter case of the first client.
func (e *Entry) has(key []byte) bool {
	name := int(e.question) - wire.HeaderLen - 4
	if len(key) != keyHead+name || e.bits != key[0] {
		return false
	}
	q := e.tail(wire.HeaderLen, name+4)
	if *(*[4]byte)(q[name:]) != *(*[4]byte)(key[1:]) {
		return false
	}
	return bytes.Equal(q[:name], key[keyHead:]) || equalFolded(q[:name], key[keyHead:])
}

// equalFolded reports whether name in lower case equals lower. Lengths of
// labels are at most 63, which is below 'A', so folding does not change them.
func equalFolded(name, lower []byte) bool {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// appendKey appends the entry's key to dst.
func (e *Entry) appendKey(dst []byte) []byte {
	name := int(e.question) - wire.HeaderLen - 4
	q := e.tail(wire.HeaderLen, name+4)
	qtype, class := binary.BigEndian.Uint16(q[name:]), binary.BigEndian.Uint16(q[name+2:])
	at := len(dst)
	dst = wire.AppendKey(dst, q[:name], qtype, class, false, false)
	dst[at] = e.bits
	return dst
}

// keyHead is the length of a key in front of the name: bits, type, class.
const keyHead = wire.MaxKeyLen - wire.MaxNameLen

// fill writes r as the entry of a key with the given bits to the segment.
func (e *Entry) fill(r *Record, bits uint8) {
	e.Stored, e.Dead, e.TTL, e.Plain, e.Answering = r.Stored, r.Dead, r.TTL, uint32(r.Plain), r.Answering
	b := r.Answer.Bytes()
	e.size, e.msg, e.question = uint32(len(b)), uint16(r.Answer.Len()), uint16(r.Answer.QuestionEnd())
	e.wildcard, e.ede, e.bits = uint8(len(r.Wildcard)), uint8(len(r.EDE)), bits
	copy(e.tail(0, len(b)), b)
	copy(e.tail(len(b), len(r.Wildcard)), r.Wildcard)
	copy(e.tail(len(b)+len(r.Wildcard), len(r.EDE)), r.EDE)
}

// moveTo copies e to to, with visits. A running refresh keeps the old copy, and
// looks the key up again at its end.
func (e *Entry) moveTo(to *Entry, visits uint32) {
	to.Stored, to.Dead, to.TTL, to.Plain, to.Answering = e.Stored, e.Dead, e.TTL, e.Plain, e.Answering
	to.size, to.msg, to.question, to.wildcard, to.ede, to.bits = e.size, e.msg, e.question, e.wildcard, e.ede, e.bits
	to.RetryAfter.Store(e.RetryAfter.Load())
	to.LastHit.Store(e.LastHit.Load())
	to.Hits.Store(e.Hits.Load())
	to.visits.Store(visits)
	n := e.bytes()
	copy(to.tail(0, n), e.tail(0, n))
}
