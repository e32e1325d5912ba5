// Package nic dials TCP connections. It spreads them over several network
// interfaces or local addresses, and over all addresses of the remote name.
//
// One TCP connection uses one link and one front end of a storage service. A client
// gets the full rate of a node with several network cards, or of a service with
// many addresses, only if it uses all of them. A Dialer is used as the DialContext
// of an http.Transport:
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
// that fails is set aside for a time that doubles with each consecutive failure (1
// s to 30 s), and is then tried again. If all pairs are set aside, they are tried
// anyway, so a repaired network needs no restart.
//
// An attempt that has not connected after 250 ms gets a competitor on the next
// pair, as in happy eyeballs (RFC 8305). The first to connect wins, and the pairs
// tried before the winner are set aside.
//
// # Interfaces
//
// An interface name binds sockets to the device. This works even if several cards
// are in one subnet and the routing table sends everything through the first. If
// the kernel does not permit that (before Linux 5.7 without CAP_NET_RAW, and on
// other systems), sockets are bound to the interface's address.
//
// # Concurrency
//
// A [Dialer] is safe for concurrent use. The goroutines of a dial end before the
// dial returns.
//
// # Failure model
//
// [New] fails for an interface or address that is not on this host, and when no
// interface can send. If one interface works, another one that is down is tried
// again with the back-off of a failed pair. (If sockets can't be bound to devices,
// the interface that is down stays unused until the next New.)
//
// An open connection over an interface that dies fails within five seconds, by TCP
// probes, if there are several locals. Its owner has to dial again, as the range
// engine does.
//
// DialContext fails with [*DialError] after all attempts, at most 16, have failed,
// or with the context's error. Answers of the resolver are kept for at most 30 s.
// If a later lookup fails, the last answer is used for 5 minutes.
//
// # Non-goals
//
// Weights, measuring the speed of links, UDP, proxies.
package nic
