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
	// MaxMessage is the longest message of a stream, in bytes, because a length
	// of two bytes precedes it (RFC 1035, section 4.2.2).
	MaxMessage = 1<<16 - 1

	// MaxBurst is the number of messages that a handler gets at once.
	// Pipelining clients rarely have more under way.
	MaxBurst = 32

	// MaxPending is the number of pending answers (see [Conn.Hold]) from which
	// on a connection is not read. With answers that take 20 ms that is 12,800
	// a second for one client.
	MaxPending = 256

	// lengthLen is the length of a message's length.
	lengthLen = 2
	maxFrame  = lengthLen + MaxMessage

	// FullAt is the number of bytes of replies from which on they are written.
	// At that size copying costs more than the system call.
	FullAt = 32 << 10

	// maxStreams bounds the connections of an address. An idle one takes 4 KiB,
	// so the bound is 256 MiB.
	maxStreams = 1 << 16

	// maxHeld bounds the bytes that all connections of an address together keep
	// for clients that do not read their replies, or send a message in pieces.
	// Other clients need none, because the kernel buffers 2.5 MB for each.
	maxHeld = 64 << 20

	// small is the input that each connection may keep in addition. A query
	// with all its options is shorter.
	small = 512

	// writeAtOnce is the number of bytes that a slow client must accept within
	// the write timeout.
	writeAtOnce = 64 << 10

	// closeGrace is how long Close waits for pending answers, as CoreDNS does.
	closeGrace = 5 * time.Second
)

// ErrSlow is the error of sending to a client that does not read.
var ErrSlow = errors.New("fastpath: the client does not read its replies, or does not complete its messages")

// StreamHandler serves messages of connections.
type StreamHandler interface {
	// ServeStream looks at the messages of b in order and sets the replies that
	// it knows. For each message that gets its reply later it calls c.Hold. It
	// returns the number of messages that it has served, which is less than all
	// if b is full or c is busy. It must not keep b or its bytes, and must not
	// call Send or SendAll of c.
	ServeStream(c *Conn, b *Burst) (served int)
}

// ProtocolHandler is a StreamHandler for connections over TLS whose
// messages are not framed by RFC 1035. ServeStream is not called for them.
type ProtocolHandler interface {
	StreamHandler
	// Open returns the protocol for c and the bytes to send first. alpn is the
	// choice of the client. If p is nil, Pass gets the connection.
	Open(c *Conn, alpn string) (p Protocol, greeting []byte)
	// Pass takes over a connection and must close it in the end. It may return
	// before that.
	Pass(c net.Conn)
}

// Protocol is the state of one connection in a protocol. It must not wait.
type Protocol interface {
	// Feed gets the input that earlier calls have not used, and returns how
	// many bytes of it this call has used. It appends the bytes to send to out.
	// more reports that it stopped because out is full (see FullAt) or the
	// connection is busy. The connection is closed after an error.
	Feed(in, out []byte) (used int, _ []byte, more bool, err error)
	// GoAway appends the announcement that no further requests are accepted.
	GoAway(out []byte) []byte
	// Close is called when the connection is closed.
	Close()
}

// StreamLimits are the limits of the connections of a server.
type StreamLimits struct {
	Read  time.Duration // from the start to the end of the first message
	Idle  time.Duration // from an answer to the end of the next message
	Write time.Duration // for 64 KiB that a slow client has not read
	// Messages is the number of messages after which a connection is closed. 0
	// or less means no limit.
	Messages int
}

// StreamOptions are the options of ListenStreams.
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

// StreamCounts are the numbers of closed connections since the previous Take.
type StreamCounts struct {
	Refused uint64 // closed at once because there were too many
	Evicted uint64 // closed to make room for other clients
	Slow    uint64 // closed with ErrSlow
}

// streamHolder is a handler with the limits of its server.
type streamHolder struct {
	StreamHandler
	limits StreamLimits
}

// Burst holds messages that have come over a connection, and the replies to
// them, which go out with one write.
//
// Invariants:
//
//	in[at:filled] has not been split yet; at <= filled <= len(in)
//	msgs[:n] are parts of in[:at]
//	out holds whole replies, each after its length
//	cap(out) >= FullAt + maxFrame, so that a reply fits if out is not full
type Burst struct {
	in         []byte
	at, filled int
	msgs       [MaxBurst][]byte
	n          int
	out        []byte
}

// bursts are shared by all connections. A connection that waits for its client
// has none.
var bursts = sync.Pool{New: func() any {
	return &Burst{in: make([]byte, maxFrame), out: make([]byte, 0, FullAt+maxFrame)}
}}

// Len returns the number of messages.
func (b *Burst) Len() int { return b.n }

// Message returns message i, without its length. It may be empty.
func (b *Burst) Message(i int) []byte { return b.msgs[i] }

// Full reports whether the replies should be sent before another one is added.
func (b *Burst) Full() bool { return len(b.out) >= FullAt }

// Buffer returns an empty slice with room for MaxMessage bytes, for the next
// reply. b must not be full.
func (b *Burst) Buffer() []byte {
	at := len(b.out) + lengthLen
	return b.out[at : at : at+MaxMessage]
}

// Reply adds the first n bytes of Buffer as a reply. Replies may come in any
// order (RFC 7766, section 7).
func (b *Burst) Reply(n int) {
	b.out = binary.BigEndian.AppendUint16(b.out, uint16(n))
	b.out = b.out[:len(b.out)+n]
}

// start copies the earlier input rest into b, and returns the room for the
// bytes that follow it.
func (b *Burst) start(rest []byte) []byte {
	b.at, b.n, b.out = 0, 0, b.out[:0]
	b.filled = copy(b.in, rest)
	return b.in[b.filled:]
}

// split makes the next whole messages the messages of b, up to most.
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

// served removes the first n messages from b.
func (b *Burst) served(n int) {
	copy(b.msgs[:], b.msgs[n:b.n])
	b.n -= n
}

// rest returns the input that has not been served.
func (b *Burst) rest() []byte {
	at := b.at
	for _, m := range b.msgs[:b.n] {
		at -= lengthLen + len(m)
	}
	return b.in[at:b.filled]
}

// clock computes how long a connection may stay open without a message. It uses
// neither timers nor sockets.
type clock struct {
	first  bool      // no message has come yet
	active time.Time // of the latest message or answer, or of the start
}

// end returns the time at which an inactive connection ends.
func (k clock) end(l StreamLimits) time.Time {
	if k.first {
		return k.active.Add(l.Read)
	}
	return k.active.Add(l.Idle)
}
