// Package wire reads DNS queries and patches stored DNS answers as bytes,
// without allocating. It does not depend on sockets, caches or CoreDNS, and
// imports only the standard library.
//
//	var q wire.Query
//	if why := wire.ParseQuery(packet, &q); why != wire.OK {
//		return decline(why) // the plugin chain handles all other queries
//	}
//	reply, ok := answer.AppendReply(buf[:0], &q, q.Question(packet), ttl, q.Limit(), nil)
//	key := wire.AppendKey(keyBuf[:0], q.Name(packet), q.Type, q.Class, q.DO, q.CD)
//
// # Vocabulary
//
//   - query: the packet of a client, with exactly one question and at most one
//     OPT.
//   - answer: a packed response with ID 0 and without OPT, together with the
//     offsets of the parts that differ between replies (see [Answer]).
//   - key: equal for two queries with the same cached answer (see [AppendKey]).
//   - decline: to leave a query to the plugin chain, with a [Reason]. That is
//     always correct.
//
// # Concurrency
//
// Functions are pure. An [Answer] is immutable after [NewAnswer] and may be
// used by any number of goroutines at once.
//
// # Untrusted input
//
// Every offset is checked before use. A query that is not understood to its
// last byte is declined, and such an answer is refused, so only bytes that this
// package has parsed are patched.
//
// The package does not truncate (an answer that does not fit is declined) and
// does not validate DNSSEC. Of record types it knows only the names in their
// data.
package wire
