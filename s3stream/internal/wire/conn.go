package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ErrCorrupt is a payload that does not match its checksum: damaged on the way
// from, or in, the peer that sent it.
var ErrCorrupt = errors.New("block is corrupt")

// readAhead is how much of a connection is read at once for a header; a block
// costs one copy of at most so many bytes, the rest goes straight to its buffer.
const readAhead = 4 << 10

// Conn is a framed connection.
type Conn struct {
	nc   net.Conn
	r    *bufio.Reader
	head [HeaderLen]byte // of the frame being read

	wmu  sync.Mutex // guards what follows; held during a write, so frames never interleave
	wait time.Duration
	whdr []byte // headers of the batch being written
	vec  net.Buffers
	out  net.Buffers // vec, being eaten by the write; a field so that it does not escape
}

// NewConn frames nc.
func NewConn(nc net.Conn) *Conn {
	return &Conn{nc: nc, r: bufio.NewReaderSize(nc, readAhead)}
}

// Close closes the connection.
func (c *Conn) Close() error { return c.nc.Close() }

// Remote returns the peer's address.
func (c *Conn) Remote() string { return c.nc.RemoteAddr().String() }

// LocalHost returns this end's address without the port.
func (c *Conn) LocalHost() string {
	h, _, err := net.SplitHostPort(c.nc.LocalAddr().String())
	if err != nil {
		return ""
	}
	return h
}

// SetReadDeadline bounds the reads from now on; the zero time unbounds them.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SetWriteTimeout bounds each write from now on by d after its own start; 0
// leaves the deadline alone.
func (c *Conn) SetWriteTimeout(d time.Duration) {
	c.wmu.Lock()
	c.wait = d
	c.wmu.Unlock()
}

// SetWriteDeadline moves the deadline of the write under way.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.nc.SetWriteDeadline(t) }

// ReadHeader reads the next header. The caller reads the payload, if there is
// one, before the next header. io.EOF means that the peer closed between frames.
func (c *Conn) ReadHeader() (Header, error) {
	if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
		return Header{}, err
	}
	return Parse(c.head[:])
}

// ReadPayload reads the payload of h into p, which has its length, and
// compares the checksum.
func (c *Conn) ReadPayload(h Header, p []byte) error {
	if _, err := io.ReadFull(c.r, p); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if got := Sum(p); got != h.Sum {
		return fmt.Errorf("%w: CRC32C %08x, its header says %08x", ErrCorrupt, got, h.Sum)
	}
	return nil
}

// ReadSmall reads a payload that is not a block; it is at most MaxControl long.
func (c *Conn) ReadSmall(h Header) ([]byte, error) {
	if h.Length > MaxControl {
		return nil, fmt.Errorf("%w: unexpected %s of %d bytes", ErrHeader, h.Type, h.Length)
	}
	p := make([]byte, h.Length)
	return p, c.ReadPayload(h, p)
}

// ReadJSON reads the payload of h as a JSON document into v.
func (c *Conn) ReadJSON(h Header, v any) error {
	p, err := c.ReadSmall(h)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrHeader, h.Type, err)
	}
	return nil
}

// Frame is a frame to write. Its header's Length and Sum are as given: a relay
// passes on the sum that it received and checked, it does not make a new one.
type Frame struct {
	Header  Header
	Payload []byte
}

// Write writes frames with one system call if the kernel has room.
func (c *Conn) Write(frames ...Frame) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.wait > 0 {
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.wait)); err != nil {
			return err
		}
	}
	need := len(frames) * HeaderLen
	if cap(c.whdr) < need {
		c.whdr = make([]byte, need)
	}
	vec := c.vec[:0]
	for i := range frames {
		h := c.whdr[i*HeaderLen : (i+1)*HeaderLen : (i+1)*HeaderLen]
		frames[i].Header.Put(h)
		vec = append(vec, h)
		if len(frames[i].Payload) > 0 {
			vec = append(vec, frames[i].Payload)
		}
	}
	c.vec, c.out = vec, vec
	_, err := c.out.WriteTo(c.nc)
	clear(c.vec[:cap(c.vec)])
	return err
}

// WriteSmall writes one frame around p and fills in its length and sum.
func (c *Conn) WriteSmall(t Type, object uint32, p []byte) error {
	return c.Write(Frame{Header{Type: t, Object: object, Length: uint32(len(p)), Sum: Sum(p)}, p})
}

// WriteJSON writes v as the payload of one frame.
func (c *Conn) WriteJSON(t Type, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s frame: %w", t, err)
	}
	if uint32(len(p)) > t.limit() {
		return fmt.Errorf("%s frame of %d bytes is longer than the %d allowed", t, len(p), t.limit())
	}
	return c.WriteSmall(t, 0, p)
}
