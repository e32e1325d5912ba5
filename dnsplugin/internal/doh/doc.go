// Package doh is the server side of an HTTP/2 connection that carries DNS
// queries (RFC 8484, RFC 9113). It answers the ones that a [Handler] knows
// right away, within the call that brings their frames, and hands every other
// request to the handler's ServeHTTP in a goroutine of its own.
//
// A [Session] is a state machine without a socket: Feed takes the bytes that
// the client has sent and appends the bytes to send. That saves the goroutines
// and the channels between them through which net/http passes each request.
//
// # Omissions
//
// Server push, priorities, and compression of reply headers by a dynamic
// table: the few headers of a reply are shorter than the state is worth.
// Request bodies are buffered, because a query has at most 64 KiB.
//
// # Concurrency and failure
//
// Feed must be called by one goroutine at a time. Replies of ServeHTTP are
// sent from the goroutine that made them. Feed fails with an error for the
// whole connection; errors of one stream reset that stream.
package doh
