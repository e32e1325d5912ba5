// Package testport gives tests TCP addresses that stay theirs.
//
// A test that needs the address of a server before the server is there, or after it
// died, can't take a port from the system and give it back: another process that runs
// beside it gets the same port, and then answers where nobody should.
//
//	addr := testport.Addr(t) // nobody listens, until the end of the test
//	_, err := net.Dial("tcp", addr)
//	// err is "connection refused", however many tests run beside this one
//	l, err := net.Listen("tcp", addr)
//	// the server is there now
//
// Vocabulary: a port is reserved by a socket that is bound but does not listen.
// Connections to it are refused, the system gives it to nobody who asks for any port,
// nor to a connection as its own, and whoever names it can listen on it, as often as
// they like.
//
// Concurrency: all functions may be called from several goroutines.
//
// Failures: an address that is none of this machine, and a process without file
// descriptors, are errors. Elsewhere than on Linux a port is only chosen, not kept.
//
// Non-goals: UDP, whose sockets share a port in other ways; ports below 1024.
package testport
