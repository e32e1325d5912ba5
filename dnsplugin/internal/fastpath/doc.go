// Package fastpath owns UDP sockets beside those of a DNS server: it takes
// packets in batches, lets a handler write the replies into buffers that are
// there already, and sends them in batches. It knows nothing of DNS.
//
//	g, err := fastpath.Listen("127.0.0.1:53", fastpath.Options{Workers: 4}, handler)
//	if err != nil {
//		return err // the server's own sockets go on alone
//	}
//	defer g.Close()
//	g.Swap(other) // another handler from the next batch on
//
// # Vocabulary
//
//   - group: all sockets that are bound to one address with SO_REUSEPORT. The
//     kernel deals each packet to one of them. A [Group] is our part of it.
//   - worker: a socket, a goroutine, and a [Batch] of buffers. Workers share
//     nothing that one of them writes per packet.
//   - handler: decides what becomes of a batch (see [Handler]).
//   - origin: where a packet came from and which of our addresses it was sent
//     to. A reply may be sent to it later, from any goroutine.
//   - steering: a small filter in the kernel that deals all packets to our
//     sockets, evenly and at random. Without it the server's own socket, whose
//     packets are served the slow way, would get its share.
//
// # Concurrency
//
// Handler.Serve runs on the goroutine of a worker and on several workers at
// once. [Origin.Send] may be called from anywhere, also after Close. A reply
// that is set in a batch goes out when Serve returns.
//
// # Failure model
//
// Listen fails as a whole or not at all, and says with [ErrUnsupported] that
// a system has no fast path. Steering that the kernel refuses is reported by
// [Group.Steered] and costs speed only. Replies that the kernel doesn't take
// (a client that is gone, a full buffer) are dropped and counted, as a server
// that uses UDP has to.
//
// # Not here
//
// Meaning of packets, statistics of them, and what to do with packets that
// the handler doesn't answer. Sockets of other systems than Linux.
package fastpath
