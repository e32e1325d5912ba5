// Package testport reserves TCP addresses for tests.
//
// A test may need the address of a server before the server starts or after it
// ended. If the test took a free port from the system and closed it, another
// process could get the same port, and answer where the test expects no server.
//
//	addr := testport.Addr(t) // refuses connections until the end of the test
//	_, err := net.Dial("tcp", addr)
//	// err is "connection refused", even if many other tests run
//	l, err := net.Listen("tcp", addr)
//	// the server runs now
//
// Vocabulary: a port is reserved by a socket that is bound but does not listen.
// Connections to it are refused. The system does not choose it for a listener
// on any port, nor as the local port of a connection. A listener that names the
// port gets it, any number of times.
//
// Concurrency: all functions may be called from several goroutines.
//
// Failures: an address of another machine, and a process without file
// descriptors, are errors. On systems other than Linux a port is chosen but not
// reserved.
//
// Non-goals: UDP, whose sockets share ports by other rules; ports below 1024.
package testport
