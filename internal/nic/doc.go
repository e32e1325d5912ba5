// Package nic dials: it spreads new connections over several local addresses
// or network interfaces and over all addresses of the remote name.
//
// One TCP connection uses one link and one front end of a storage service.
// A node with two network cards, or a service behind many addresses, gives its
// full rate only to a client that uses them all. The one seam is the
// DialContext of an http.Transport:
//
//	d, err := nic.New(nic.Options{Locals: []string{"eth0", "eth1"}})
//	tr := &http.Transport{DialContext: d.DialContext}
//
// # Vocabulary
//
// A local is a local address or interface to send from; a remote is one
// address and port of the name; a pair is one of each, of the same family.
// Each dial takes the local with the fewest connections, among its pairs the
// remote with the fewest, and among equals the one used longest ago. A pair
// that fails is set aside for a while that doubles with each failure in a row
// (1 s to 30 s) and is then tried again; when all pairs are set aside they are
// used all the same, so a healed network needs no restart.
//
// A dial that is not through after 250 ms gets a competitor on the next pair,
// as in happy eyeballs (RFC 8305); the first to connect wins, and those that
// began before the winner are set aside.
//
// # Interfaces
//
// An interface name binds sockets to the device, which holds even when several
// cards sit in one subnet and the routing table would send everything through
// the first. Where the kernel does not permit that (before Linux 5.7 without
// CAP_NET_RAW, or not Linux) sockets are bound to the interface's address.
//
// # Concurrency
//
// A [Dialer] is safe for concurrent use. It keeps no goroutine: those of one
// dial end before the dial returns.
//
// # Failure model
//
// [New] fails for an interface or address that is not on this host, and when no
// interface can send. An interface that is down, next to one that works, is
// tried again with the back-off of a failed pair. (Where sockets can't be bound
// to devices it stays unused until the next New.)
//
// An open connection over an interface that dies stays open: the caller has to
// notice the silence, close it and dial again, as the range engine does.
//
// DialContext fails with [*DialError] when every attempt failed, at most 16 of
// them, or with the context's error. Answers of the resolver are kept for at
// most 30 s; when a later lookup fails the last answer serves for 5 minutes.
//
// # Non-goals
//
// Weights, measuring the links' speed, UDP, proxies.
package nic
