package fastpath

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// MaxMessage is the longest message of a stream, in bytes: its length
	// stands before it in two (RFC 1035, section 4.2.2).
	MaxMessage = 1<<16 - 1

	// MaxBurst is how many messages a handler gets at once: as many as a
	// pipelining client has under way, more bring nothing.
	MaxBurst = 32

	// MaxPending is how many answers of one connection may be held (see
	// [Conn.Hold]) before nothing more is read from it. With answers that take
	// 20 ms that is 12,800 a second from one client.
	MaxPending = 256

	// lengthLen is the length of a message's length.
	lengthLen = 2
	maxFrame  = lengthLen + MaxMessage

	// FullAt is how many bytes of replies are gathered before they are written:
	// the cost of a system call is lost in the copying from there on.
	FullAt = 32 << 10

	// maxStreams bounds the connections of an address. An idle one takes 4 KiB
	// here, so that is 256 MiB, and four servers hold those of 250,000 clients.
	maxStreams = 1 << 16

	// maxHeld bounds the bytes that all connections of an address together keep
	// for clients that do not read their replies, or send a message bit by bit.
	// Others never need any: the kernel takes 2.5 MB for each.
	maxHeld = 64 << 20

	// small is how much input a connection may keep on top of that: a query with
	// all its options is shorter.
	small = 512

	// writeAtOnce is how much a client that has fallen behind must take within
	// the write timeout.
	writeAtOnce = 64 << 10

	// closeGrace is how long Close waits for answers that are under way: as
	// long as CoreDNS does.
	closeGrace = 5 * time.Second
)

// ErrSlow is what sending fails with when a client does not read.
var ErrSlow = errors.New("fastpath: the client does not take its replies, or sends none of its messages whole")

// StreamHandler serves messages of connections.
type StreamHandler interface {
	// ServeStream looks at the messages of b in their order, sets the replies
	// that it knows, and holds c for each of the others that gets one later. It
	// returns how many it has dealt with: less than all if b is full or c is
	// busy. It keeps no reference to b or its bytes, and must not call c's Send
	// or SendAll.
	ServeStream(c *Conn, b *Burst) (served int)
}

// ProtocolHandler is a StreamHandler whose connections, over TLS, speak another
// protocol than messages behind their lengths. ServeStream is not called.
type ProtocolHandler interface {
	StreamHandler
	// Open returns the protocol of c, whose client has chosen alpn, and the
	// bytes to send first. If it returns nil, Pass gets the connection.
	Open(c *Conn, alpn string) (p Protocol, greeting []byte)
	// Pass takes over a connection, which it has to close, and need not wait for
	// its end.
	Pass(c net.Conn)
}

// Protocol is the state of one connection in a protocol. It must not wait.
type Protocol interface {
	// Feed takes the first used bytes of in, all that have come and were not
	// taken before, and appends the bytes to send to out. more says that it
	// stopped though in has more for it: out is full (see FullAt), or the
	// connection is busy. After an error the connection ends.
	Feed(in, out []byte) (used int, _ []byte, more bool, err error)
	// GoAway appends the announcement that nothing more is taken.
	GoAway(out []byte) []byte
	// Close is called when the connection is closed.
	Close()
}

// StreamLimits are what a server grants its clients.
type StreamLimits struct {
	Read  time.Duration // from the start to the end of the first message
	Idle  time.Duration // from an answer to the end of the next message
	Write time.Duration // for 64 KiB that wait for a client to read
	// Messages is how many of them a connection takes before it is closed; 0
	// or less: no limit.
	Messages int
}

// StreamOptions of ListenStreams.
type StreamOptions struct {
	Listeners int // at least 1
	// Unsteered and Report are as in Options.
	Unsteered bool
	Report    func(better bool, text string)
	Limits    StreamLimits
	// TLS is the configuration of a server that speaks TLS, or nil for plain
	// TCP. Messages and replies are the same over both.
	TLS *tls.Config
	// Most bounds the connections, within the bound that there is in any case;
	// 0 means no further bound.
	Most int
}

// StreamCounts are what connections have met with since they were last taken.
type StreamCounts struct {
	Refused uint64 // connections that were closed at once since there were too many
	Evicted uint64 // connections that were closed to make room for those of other clients
	Slow    uint64 // connections that were closed with ErrSlow
}

// streamHolder is a handler with the limits of its server.
type streamHolder struct {
	StreamHandler
	limits StreamLimits
}

// Burst is what has come over a connection: messages, each behind its length,
// and the replies to them, gathered for one write.
//
// Invariants:
//
//	in[at:filled] has not been split yet; at <= filled <= len(in)
//	msgs[:n] are parts of in[:at]
//	out holds whole replies, each behind its length
//	cap(out) = FullAt + maxFrame, so that one fits as long as out is not full
type Burst struct {
	in         []byte
	at, filled int
	msgs       [MaxBurst][]byte
	n          int
	out        []byte
}

// bursts are shared by all connections: one that waits for its client has none.
var bursts = sync.Pool{New: func() any {
	return &Burst{in: make([]byte, maxFrame), out: make([]byte, 0, FullAt+maxFrame)}
}}

// Len is the number of messages.
func (b *Burst) Len() int { return b.n }

// Message returns message i, without its length. It may be empty.
func (b *Burst) Message(i int) []byte { return b.msgs[i] }

// Full reports whether there may be no room for another reply.
func (b *Burst) Full() bool { return len(b.out) >= FullAt }

// Buffer returns where the next reply may be written: no bytes, with room for
// MaxMessage. b must not be full.
func (b *Burst) Buffer() []byte {
	at := len(b.out) + lengthLen
	return b.out[at : at : at+MaxMessage]
}

// Reply says that a reply stands in the first n bytes of Buffer. Replies may
// come in any order (RFC 7766, section 7).
func (b *Burst) Reply(n int) {
	b.out = binary.BigEndian.AppendUint16(b.out, uint16(n))
	b.out = b.out[:len(b.out)+n]
}

// start makes b ready for bytes that follow those of rest, and returns the
// room for them.
func (b *Burst) start(rest []byte) []byte {
	b.at, b.n, b.out = 0, 0, b.out[:0]
	b.filled = copy(b.in, rest)
	return b.in[b.filled:]
}

// split makes the next messages that are whole those of b, up to most.
func (b *Burst) split(most int) {
	b.n = 0
	for b.n < min(most, MaxBurst) {
		in := b.in[b.at:b.filled]
		if len(in) < lengthLen {
			return
		}
		end := lengthLen + int(binary.BigEndian.Uint16(in))
		if len(in) < end {
			return
		}
		b.msgs[b.n] = in[lengthLen:end:end]
		b.n++
		b.at += end
	}
}

// served takes the first n messages off b.
func (b *Burst) served(n int) {
	copy(b.msgs[:], b.msgs[n:b.n])
	b.n -= n
}

// rest is what has not been served: whole messages, and the start of one.
func (b *Burst) rest() []byte {
	at := b.at
	for _, m := range b.msgs[:b.n] {
		at -= lengthLen + len(m)
	}
	return b.in[at:b.filled]
}

// clock says how long a connection may go on without a message. It knows
// neither timers nor sockets.
type clock struct {
	first  bool      // no message has come yet
	active time.Time // when the connection began, or its latest answer or message was there
}

// end is when the connection ends if nothing happens.
func (k clock) end(l StreamLimits) time.Time {
	if k.first {
		return k.active.Add(l.Read)
	}
	return k.active.Add(l.Idle)
}
