//go:build amd64 || arm64

package fastpath

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// nameLen holds a sockaddr_in6, the longest address here.
	nameLen = unix.SizeofSockaddrInet6
	// align is the alignment of replies, so that copies of a few bytes stay
	// within a word.
	align = 8
	// controlLen is the room for the one control message of a packet.
	controlLen = 40 // CMSG_SPACE(sizeof(struct in6_pktinfo)); in_pktinfo needs 32
)

// mmsghdr is struct mmsghdr of the kernel.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// Batch holds the packets of one system call, and the replies to them. The
// slices of headers and buffers are allocated once, and the kernel gets
// pointers into them. The fields are between two lines of padding, because they
// are written for every packet and batches are allocated one after the other.
type Batch struct {
	_       [line]byte
	n       int // packets
	replies int // out[:replies] are to be sent
	used    int // bytes of outBytes that they take

	sock    *socket
	worker  *worker
	pktinfo bool

	in, out  []mmsghdr
	inIov    []unix.Iovec
	outIov   []unix.Iovec
	inBytes  []byte // stride apart
	outBytes []byte // replies without gaps, so that they touch few pages
	names    []byte // nameLen apart
	controls []byte // controlLen apart
	_        [line]byte
}

// newBatch makes the buffers for size packets of s.
func newBatch(s *socket, size int, pktinfo bool) *Batch {
	b := &Batch{
		sock: s, pktinfo: pktinfo,
		in: make([]mmsghdr, size), out: make([]mmsghdr, size),
		inIov: make([]unix.Iovec, size), outIov: make([]unix.Iovec, size),
		inBytes: make([]byte, size*stride), outBytes: make([]byte, size*MaxPacket),
		names: padded(size * nameLen), controls: padded(size * controlLen),
	}
	for i := range size {
		b.inIov[i].Base = &b.inBytes[i*stride]
		b.inIov[i].SetLen(MaxPacket)
		h := &b.in[i].hdr
		h.Iov, h.Iovlen = &b.inIov[i], 1
		h.Name, h.Namelen = &b.names[i*nameLen], nameLen
		if pktinfo {
			h.Control = &b.controls[i*controlLen]
			h.SetControllen(controlLen)
		}
		o := &b.out[i].hdr
		o.Iov, o.Iovlen = &b.outIov[i], 1
	}
	return b
}

// padded returns n bytes with a line of padding on both sides.
func padded(n int) []byte { return make([]byte, n+2*line)[line : line+n : line+n] }

// reset prepares the headers of the latest batch for the next receive.
func (b *Batch) reset() {
	for i := range b.n {
		h := &b.in[i].hdr
		h.Namelen, h.Flags = nameLen, 0
		if b.pktinfo {
			h.SetControllen(controlLen)
		}
	}
	b.n, b.replies, b.used = 0, 0, 0
}

// Len returns the number of packets.
func (b *Batch) Len() int { return b.n }

// Packet returns packet i. It is empty if the packet was longer than MaxPacket.
func (b *Batch) Packet(i int) []byte {
	m := &b.in[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		return nil
	}
	return b.inBytes[i*stride:][:m.len:m.len]
}

// Buffer returns an empty slice with room for MaxPacket bytes, for the next
// reply.
func (b *Batch) Buffer() []byte { return b.outBytes[b.used:][:0:MaxPacket] }

// Reply makes the first n bytes of Buffer the reply to packet i. It may be
// called once per packet.
func (b *Batch) Reply(i, n int) {
	in, out := &b.in[i].hdr, &b.out[b.replies].hdr
	iov := &b.outIov[b.replies]
	iov.Base = &b.outBytes[b.used]
	iov.SetLen(n)
	b.used += (n + align - 1) &^ (align - 1)
	out.Name, out.Namelen = in.Name, in.Namelen
	if b.pktinfo {
		// The control message of the packet holds the address that it was sent
		// to. Sent back, it makes the kernel use that address as the source.
		out.Control, out.Controllen = in.Control, in.Controllen
		forSending(b.controls[i*controlLen:][:controlLen])
	}
	b.replies++
}

// Resume lets a new goroutine replace the one that is in Handler.Serve. The new
// goroutine sends the replies that are set and continues as the worker. Resume
// may be called from any goroutine, once in a call of Serve; its caller and the
// old goroutine must not use b afterwards.
func (b *Batch) Resume() {
	go func() {
		if errno := b.worker.finish(); errno != 0 {
			b.worker.giveUp("sendmmsg", errno)
			return
		}
		b.worker.serveBatches()
	}()
}

// IPv4 reports whether packet i came over IPv4, mapped addresses included.
func (b *Batch) IPv4(i int) bool {
	name := b.names[i*nameLen:][:nameLen]
	if family(name) == unix.AF_INET {
		return true
	}
	return binary.NativeEndian.Uint64(name[8:]) == 0 && binary.NativeEndian.Uint32(name[16:]) == mappedWord
}

// mappedWord is the third word of ::ffff:0:0/96 in memory.
var mappedWord = binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})

// Origin returns the origin of packet i, for a reply at a later time.
func (b *Batch) Origin(i int) Origin {
	o := Origin{sock: b.sock, nameLen: uint8(b.in[i].hdr.Namelen)}
	copy(o.name[:], b.names[i*nameLen:])
	if b.pktinfo {
		o.controlLen = uint8(b.in[i].hdr.Controllen)
		copy(o.control[:], b.controls[i*controlLen:])
		forSending(o.control[:])
	}
	return o
}

// forSending turns a received control message with packet information into one
// to send. The source is the address that the packet was sent to; the route
// chooses the interface. IPv6 link-local addresses keep the interface in the
// address of the peer.
func forSending(control []byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0])) //nolint:gosec // control is longer than a header, and aligned: it starts at a multiple of 8
	switch data := control[unix.CmsgLen(0):]; {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
		clear(data[0:4]) // the interface; data[4:8] is the address to answer from already
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
		clear(data[16:20])
	}
}

// Origin is the peer that has sent a packet, with the local address and the
// socket that received it. It has no pointers into a batch.
type Origin struct {
	sock       *socket
	control    [controlLen]byte // after a pointer, and so aligned
	name       [nameLen]byte
	nameLen    uint8
	controlLen uint8
}

func family(name []byte) uint16 { return binary.NativeEndian.Uint16(name) }

func (o *Origin) peer() netip.AddrPort {
	port := binary.BigEndian.Uint16(o.name[2:])
	if family(o.name[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(o.name[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(o.name[8:24])).Unmap()
	if scope := binary.NativeEndian.Uint32(o.name[24:]); scope != 0 && !addr.Is4() {
		addr = addr.WithZone(zoneName(scope))
	}
	return netip.AddrPortFrom(addr, port)
}

// Send sends p to the peer of o, through the socket that received the packet.
// It fails with net.ErrClosed after the group was closed.
func (o *Origin) Send(p []byte) error { return o.sock.send(o, p) }
