package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/penstock/penstock/internal/crc"
)

// Version is the protocol version; both ends must have the same.
const Version = 2

// HeaderLen is the length of a header in bytes.
const HeaderLen = 32

// MaxPayload bounds every payload: the largest block. 16 MiB is far above the
// 256 KiB to 1 MiB where a relay is cheapest, and still small beside a ring.
const MaxPayload = 16 << 20

// MaxControl bounds the JSON payload of a control frame.
const MaxControl = 1 << 20

// MaxHandshake bounds a frame from a peer that has not proven itself yet.
const MaxHandshake = 4 << 10

// MaxFailure bounds an Error frame, which also comes from peers that have not proven themselves: a code and a
// message of 1 KiB, of which JSON may escape each byte.
const MaxFailure = 8 << 10

// Type says what a frame is.
type Type uint8

// The types of frame, with the direction and the payload.
const (
	Challenge Type = 1 + iota // acceptor: nonce
	Hello                     // dialler: JSON hello
	Welcome                   // acceptor: proof and JSON reply
	Error                     // either: JSON Failure; the sender closes after it

	Block    // parent: bytes of Object at Offset
	End      // parent: Trailer of Object
	Ping     // parent or leader: nothing; "I am alive but have nothing to send"
	Progress // child: State, its position and that of its children

	Start    // leader: JSON, the job
	Objects  // leader: JSON, a piece of the manifest
	Status   // worker: JSON, how far it is
	Finished // worker: JSON, everything delivered and verified
	Lost     // leader: Object is the node that left the job, was cut off (FlagAlive), or has another parent (FlagElsewhere)
	Detached // worker: JSON, a child was cut off
	Bye      // leader: the job is over and well
	Sums     // leader: ObjectSum of Object and those after it, as the leader read them

	typeCount // one past the last
)

// FlagAlive in a Lost frame: the node was cut off by its parent, so it is of no
// use as a parent itself, but it may still find another one.
const FlagAlive = 1

// FlagElsewhere in a Lost frame: the node has another parent than planned, so its planned parent need not wait for it.
const FlagElsewhere = 2

var typeNames = [...]string{
	"", "challenge", "hello", "welcome", "error", "block", "end", "ping", "progress",
	"start", "objects", "status", "finished", "lost", "detached", "bye", "sums",
}

func (t Type) String() string {
	if t > 0 && int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// limit is the longest payload of a frame of this type.
func (t Type) limit() uint32 {
	switch t {
	case Block:
		return MaxPayload
	case End:
		return TrailerLen
	case Progress:
		return StateLen
	case Ping, Lost, Bye:
		return 0
	case Challenge, Hello, Welcome:
		return MaxHandshake
	case Error:
		return MaxFailure
	case Start, Objects, Status, Finished, Detached, Sums, typeCount:
	}
	return MaxControl
}

// Header is a decoded header.
type Header struct {
	Type   Type
	Flags  uint8
	Object uint32
	Length uint32 // of the payload, in bytes
	Offset int64
	Sum    uint32 // CRC32C of the payload
}

// What a header can be wrong in. All of them mean that the connection is
// unusable: the start of the next frame is unknown.
var (
	ErrMagic   = errors.New("not a penstock-cast peer")
	ErrVersion = errors.New("peer speaks another version of the protocol")
	ErrHeader  = errors.New("damaged frame header")
)

const (
	magic    = 'P'<<16 | 'S'<<8 | 'C'
	magicLen = 4
)

// Sum returns the CRC32C of p.
func Sum(p []byte) uint32 { return crc32.Checksum(p, crc.CastagnoliTable) }

// Put encodes h into b, which has at least HeaderLen bytes.
func (h *Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	binary.BigEndian.PutUint32(b[0:], magic<<8|Version)
	b[4], b[5], b[6], b[7] = byte(h.Type), h.Flags, 0, 0
	binary.BigEndian.PutUint32(b[8:], h.Object)
	binary.BigEndian.PutUint32(b[12:], h.Length)
	binary.BigEndian.PutUint64(b[16:], uint64(h.Offset))
	binary.BigEndian.PutUint32(b[24:], h.Sum)
	binary.BigEndian.PutUint32(b[28:], Sum(b[:28]))
}

// Parse decodes and checks the header in b[:HeaderLen]. A header that it
// accepts encodes to the same bytes again.
func Parse(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("%w: %d of %d bytes", ErrHeader, len(b), HeaderLen)
	}
	m := binary.BigEndian.Uint32(b)
	if m>>8 != magic {
		return Header{}, ErrMagic
	}
	if v := m & 0xff; v != Version {
		return Header{}, fmt.Errorf("%w: it has %d, this is %d", ErrVersion, v, Version)
	}
	if binary.BigEndian.Uint32(b[28:]) != Sum(b[:28]) {
		return Header{}, fmt.Errorf("%w: checksum mismatch", ErrHeader)
	}
	h := Header{
		Type:   Type(b[4]),
		Flags:  b[5],
		Object: binary.BigEndian.Uint32(b[8:]),
		Length: binary.BigEndian.Uint32(b[12:]),
		Offset: int64(binary.BigEndian.Uint64(b[16:])),
		Sum:    binary.BigEndian.Uint32(b[24:]),
	}
	switch {
	case h.Type == 0 || h.Type >= typeCount:
		return Header{}, fmt.Errorf("%w: unknown type %d", ErrHeader, b[4])
	case b[6] != 0 || b[7] != 0:
		return Header{}, fmt.Errorf("%w: reserved bytes are set", ErrHeader)
	case h.Offset < 0:
		return Header{}, fmt.Errorf("%w: negative offset", ErrHeader)
	case h.Length > h.Type.limit():
		return Header{}, fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrHeader, h.Type, h.Length, h.Type.limit())
	}
	return h, nil
}
