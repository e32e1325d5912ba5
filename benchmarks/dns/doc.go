// Command dns measures what a cached answer costs: CoreDNS with the penstock
// cache, CoreDNS with its own cache, and unbound, in front of the same upstream.
//
//	make bench AREA=dns
//	make bench AREA=dns ARGS=-quick
//
// All servers run at once and idle but one; each is asked the same questions in
// turns, by a load generator in a process of its own (internal/dnsload: a
// cluster's mix of names, a bounded number of questions under way). CPU and
// memory are the server's, read from /proc before and after.
//
// The first argument load selects the role of the load generator.
package main
