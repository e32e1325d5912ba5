// Package fastpath owns UDP sockets and TCP listeners beside those of a DNS
// server: it takes packets, or messages of a connection, in batches, lets a
// handler write the replies into buffers that are there already, and sends
// them in batches. It knows nothing of DNS but the length before a message.
//
//	g, err := fastpath.Listen("127.0.0.1:53", fastpath.Options{Workers: 4}, handler)
//	if err != nil {
//		return err // the server's own sockets go on alone
//	}
//	defer g.Close()
//	g.Swap(other) // another handler from the next batch on
//
// [ListenStreams] is the same for TCP, and with StreamOptions.TLS for TLS.
//
// # Vocabulary
//
//   - group: all sockets that are bound to one address with SO_REUSEPORT. The
//     kernel deals each packet, and each connection, to one of them. A [Group]
//     is our part of the UDP sockets, [Streams] are that of the listeners.
//   - worker: a UDP socket, a goroutine, and a [Batch] of buffers. Workers share
//     nothing that one of them writes per packet.
//   - burst: the messages that one read from a connection has brought, see [Burst].
//   - handler: decides what becomes of a batch or a burst (see [Handler] and
//     [StreamHandler]).
//   - origin: where a packet came from and which of our addresses it was sent
//     to. A reply may be sent to it later, from any goroutine. Over TCP that is
//     the [Conn], which a handler holds as long as it owes a reply.
//   - steering: a small filter in the kernel that deals all packets to our
//     sockets, evenly and at random. Without it the server's own socket, whose
//     packets are served the slow way, would get its share. It is in use only
//     while all sockets of the group are of this process, and their places in
//     it are known.
//
// # Concurrency
//
// Handler.Serve runs on the goroutine of a worker and on several workers at
// once; ServeStream on that of a connection, of which there may be thousands.
// [Origin.Send] and [Conn.Send] may be called from anywhere, also after Close.
// A reply that is set in a batch or burst goes out when the handler returns.
//
// # Failure model
//
// Listen fails as a whole or not at all, and says with [ErrUnsupported] that
// a system has no fast path; where a system call is refused (seccomp), it says
// which. Without steering, for which [Group.Steered] has the reason, other
// sockets get their share: that costs speed only. Packets that the kernel
// doesn't take (a firewall, a full buffer) are dropped and counted, as a server
// that uses UDP has to.
//
// Errors that last end a worker: its socket is closed, [Group.Failed] tells
// why, and the sockets that stay get its packets.
//
// Over TCP and TLS a client that does not read is not read from. What was meant for it
// is kept, within a bound for all clients of an address, as long as it takes
// 64 KiB within the write timeout; else its connection is closed, with
// [ErrSlow] for who sends. The number of connections is bounded too.
//
// # Not here
//
// Meaning of packets, statistics of them, and what to do with packets that
// the handler doesn't answer. Sockets of other systems than Linux.
package fastpath
