// Package fastpath owns UDP sockets and TCP listeners next to the sockets of a
// DNS server. It takes packets, or messages of a connection, in batches, lets a
// handler write the replies into preallocated buffers, and sends the replies in
// batches. Of DNS it knows only the length before a message.
//
//	g, err := fastpath.Listen("127.0.0.1:53", fastpath.Options{Workers: 4}, handler)
//	if err != nil {
//		return err // the server's own sockets serve all packets
//	}
//	defer g.Close()
//	g.Swap(other) // another handler for the next batches
//
// [ListenStreams] is the same for TCP, and with StreamOptions.TLS for TLS. A
// [ProtocolHandler] serves connections over TLS in another protocol, such as
// HTTP/2.
//
// # Vocabulary
//
//   - group: all sockets that are bound to one address with SO_REUSEPORT. The
//     kernel gives each packet, and each connection, to one of them. A [Group]
//     is the fast path's part of the UDP sockets, a [Streams] its part of the
//     listeners.
//   - worker: a UDP socket, a goroutine, and a [Batch] of buffers. Workers
//     share no memory that one of them writes for each packet.
//   - burst: the messages of one read from a connection, see [Burst].
//   - handler: decides how a batch or a burst is answered, see [Handler] and
//     [StreamHandler].
//   - origin: the peer and the local address of a packet. A reply may be sent
//     to it later, from any goroutine. Over TCP the [Conn] has that part; a
//     handler holds it while a reply is pending.
//   - steering: a filter in the kernel that sends all packets to the fast
//     path's sockets, evenly and at random. Without it the server's own socket
//     would get its share, and serve it at the cost of the plugin chain. The
//     filter is used only while all sockets of the group belong to this process
//     and their places in it are known.
//
// # Concurrency
//
// Handler.Serve runs on the goroutine of a worker, and on several workers at
// once. ServeStream runs on the goroutine of a connection, of which there may
// be thousands. [Origin.Send] and [Conn.Send] may be called from any goroutine,
// also after Close. The replies in a batch or burst are sent when the handler
// returns.
//
// # Failures
//
// Listen opens all sockets or fails. It returns [ErrUnsupported] on a system
// without a fast path, and names the system call that a sandbox (seccomp)
// refuses. If steering is not possible, other sockets of the address get their
// share, which costs speed only; [Group.Steered] returns the reason. Packets
// that the kernel rejects (a firewall, a full buffer) are dropped and counted.
//
// A lasting error ends a worker and closes its socket. [Group.Failed] returns
// the error, and the remaining sockets get the packets.
//
// A client over TCP or TLS that does not read is not read from. Its replies are
// kept, within a bound for all clients of an address, as long as it reads 64
// KiB within the write timeout. Otherwise its connection is closed, and sending
// fails with [ErrSlow]. The number of connections is bounded too.
package fastpath
