// Package netlab builds small networks on one machine: network namespaces
// joined by veth pairs whose rates a token bucket limits. Tests and benchmarks
// move real bytes through real sockets at rates that do not depend on the
// machine's speed.
//
//	lab, err := netlab.New(netlab.Options{
//		Hosts: []string{"server", "client"},
//		Links: []netlab.Link{{A: "server", B: "client", RateAB: 400 * netlab.Mbit}},
//	})
//	defer lab.Close()
//	ln, err := lab.Listen("server", "tcp", ":80")
//	conn, err := lab.DialContext("client")(ctx, "tcp", lab.Addr("server", 0).String()+":80")
//
// # Vocabulary
//
// A host is a network namespace with a loopback interface. A switch is a
// namespace that holds one bridge. A link is a veth pair between two of them;
// its ends on hosts are named eth0, eth1, ... in the order of the links, and
// get an IPv4 and an IPv6 address each. A rate limits what one end sends.
//
// # Concurrency
//
// A Lab is safe for concurrent use. [Lab.Do] runs its function on an operating
// system thread that has entered the namespace: sockets that the function
// itself makes belong to the host, but goroutines that it starts do not run
// there. For code that dials on its own goroutines, use [Lab.DialContext] and
// [Lab.Listen], or a separate process by [Lab.Start].
//
// # Failure model
//
// If [New] fails, it removes its namespaces. The kernel removes a namespace
// with all its interfaces when the last reference is gone, so an unnamed lab
// leaves nothing behind even if the process is killed. A named lab (for ip
// netns exec) binds its namespaces to files that outlive a crash, and the next
// named lab removes the files of dead processes.
//
// # Non-goals
//
// Delay and loss (the netem queue is missing from many kernels), routing
// between links, systems other than Linux.
package netlab
