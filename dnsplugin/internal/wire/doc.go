// Package wire reads DNS queries and patches stored DNS answers as bytes, in
// place and without allocating. It knows nothing of sockets, caches or
// CoreDNS, and imports nothing outside the standard library.
//
//	var q wire.Query
//	if why := wire.ParseQuery(packet, &q); why != wire.OK {
//		return decline(why) // the ordinary chain handles everything odd
//	}
//	reply, ok := answer.AppendReply(buf[:0], &q, q.Question(packet), ttl, q.Limit(), nil)
//	key := wire.AppendKey(keyBuf[:0], q.Name(packet), q.Type, q.Class, q.DO, q.CD)
//
// # Vocabulary
//
//   - query: the packet of a client, exactly one question and at most one OPT.
//   - answer: a packed response with ID 0 and without OPT, together with the
//     places in it that differ from reply to reply (see [Answer]).
//   - key: what makes two queries the same for a cache (see [AppendKey]).
//   - decline: to say with a [Reason] that a query is for the ordinary chain.
//     Declining is never an error and always safe.
//
// # Concurrency
//
// Functions are pure. An [Answer] is immutable after [NewAnswer] and may be
// used by any number of goroutines at once.
//
// # Failure model
//
// Input is hostile. Every offset is checked before use; whatever is not
// exactly understood is declined (queries) or refused (answers), so nothing
// that this package did not walk itself is ever patched.
//
// # Not here
//
// Truncation (an answer that does not fit is declined), DNSSEC validation,
// types beyond what is needed to find the TTLs and check the names.
package wire
