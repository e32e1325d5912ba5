// Package wire is the peer protocol of a broadcast: frames on a TCP
// connection.
//
// A frame is a header of 32 bytes and a payload. The header carries its own
// CRC32C and that of the payload, so a flipped bit is found at the next hop
// and names the peer that sent it. Data frames carry file bytes or a few
// fixed-width numbers; control frames carry small JSON documents.
//
// # Header
//
//	 0  magic "PSC" and the version, 2
//	 4  type
//	 5  flags
//	 6  reserved, zero
//	 8  object number
//	12  payload length
//	16  offset: of a block in its object; other types say their meaning
//	24  CRC32C of the payload
//	28  CRC32C of bytes 0 to 27
//
// All numbers are big endian. A receiver knows which types it may get in its
// state and how long each may be; a longer frame is an error before a byte of
// it is read, so no peer can make it allocate.
//
// # Handshake
//
// The accepting side sends a Challenge with a nonce; the dialling side answers
// with a Hello that carries its own nonce, what it wants, and an HMAC-SHA256
// over both nonces and the request under the shared token; the acceptor
// answers with a Welcome proven in the same way, or an Error. Both ends so
// know that the other has the token, which itself never travels. The frames
// after the handshake are not authenticated: the protocol keeps strangers
// out, it does not protect against somebody who can change packets in flight.
//
// # Contract
//
// A Conn has one reader and any number of writers. Buffers passed to a write
// are not kept. Close from any goroutine ends both directions.
package wire
