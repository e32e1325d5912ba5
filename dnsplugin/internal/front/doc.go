// Package front is the fast path: sockets in addition to those of CoreDNS's
// servers, from which cached answers are sent without the plugin chain. It
// answers over UDP, TCP, TLS and HTTPS, decides which zones may be answered that way,
// and takes all other queries through the chain, which [Registry] keeps from
// being flooded.
//
// The decision how a cached entry answers a query is made by package sides; the
// sockets are those of package fastpath.
//
// # Concurrency
//
// A [Server] serves one address. Each worker of its sockets answers a batch of
// queries at a time, and shares no memory that it writes with other workers.
package front
