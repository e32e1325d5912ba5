// Command dns measures the cost of a cached answer: CoreDNS with the penstock
// cache and its fast path, CoreDNS with its own cache, dnsdist and unbound, in
// front of the same upstream. Each of them has one core and the load generator
// another. Ours is measured on all cores and with more threads than cores too.
// scale.sh shows the effect of more cores on a large machine.
//
//	make bench AREA=dns
//	make bench AREA=dns ARGS=-quick
//
// All servers run at once and idle but one; each is asked the same questions in
// turns, by a load generator in a process of its own (internal/dnsload: a
// cluster's mix of names, a bounded number of questions under way). CPU and
// memory are the server's, read from /proc before and after.
//
// Then come TCP, TLS and HTTPS against CoreDNS, 1,000 questions a second,
// servers with nothing to do, a flood, and a cache with a million entries.
//
// The first argument selects a role: load, stream, paced and flood ask, and
// echo is the control, a server that only sends each packet back.
package main
