// Package front is the fast path. It opens sockets in addition to CoreDNS's, from
// which cached answers are sent without the plugin chain, over UDP, TCP, TLS and
// HTTPS. It decides which zones may be answered that way, and takes all other
// queries through the chain without flooding it.
//
// Package sides decides how a cached entry answers a query, and package fastpath
// has the sockets.
//
// # Concurrency
//
// A [Server] serves one address. Each worker of its sockets answers a batch of
// queries at a time, and shares no memory that it writes with other workers.
package front
