// Package dnsplugin is a cache for CoreDNS that keeps answers as bytes, within
// a bound of bytes, and is read without locks. It takes the place of CoreDNS's
// own cache plugin, and accepts every Corefile that the latter accepts.
//
// To build a CoreDNS with it, name it in plugin.cfg, or import it together with
// the plugins that the Corefile names. examples/custom-coredns does the latter,
// and dnsplugin/cmd/coredns imports all plugins:
//
//	import (
//		"github.com/coredns/coredns/core/dnsserver"
//		"github.com/coredns/coredns/coremain"
//		_ "github.com/coredns/coredns/plugin/forward"
//		_ "github.com/penstock/penstock/dnsplugin"        // directive "penstock"
//		_ "github.com/penstock/penstock/dnsplugin/dropin" // directive "cache"
//	)
//
//	func main() {
//		dnsserver.Directives = []string{"penstock", "cache", "forward"} // in their order; others are unknown
//		coremain.Run()
//	}
//
// Do not import CoreDNS's core/plugin as well. It imports all plugins, among
// them a cache that conflicts with dropin, and its order of directives does not
// contain "penstock".
//
// README.md is the manual page. It describes the directive, its options and
// metrics, and every intended difference from CoreDNS's cache.
//
// # Vocabulary
//
//   - success, denial: the two sides of the cache. NXDOMAIN, NODATA and
//     SERVFAIL are denials; every other response that is kept is a success.
//   - key: name, type, class, DO and CD of a question. Equal keys have one entry.
//   - fresh, stale, dead: an entry within its TTL; past it but within
//     serve_stale; past that. A dead entry is never served.
//   - refresh: a question to the next plugin about an entry that is still
//     there, before its end (prefetch) or after it (serve_stale).
//   - fast path: sockets of our own in addition to the server's, from which
//     cached answers are sent as bytes, without the plugin chain.
//   - decline: to leave a query to the chain. This is always safe, and is
//     counted by reason.
//   - flight: a question that is on its way to the next plugin. Other queries
//     of the same key wait for it instead of asking again.
//
// # Concurrency
//
// A [Cache] is a plugin.Handler and as such used by any number of goroutines.
// Hits never wait for each other's locks. The fast path (Linux only) has one
// goroutine for each CPU and one for each TCP connection, and bounds the number
// of queries of an address that are in the chain. It ends with the instance,
// except that the next instance takes over its sockets on a reload. Refreshes
// run in goroutines of their own, at most 1,024 at a time and one per entry;
// [Cache.Close] cancels them and waits until they have ended. The control
// socket belongs to the process: a reload hands it to the next instance, and
// its HTTP server ends with the last instance that wants it.
//
// # Failure model
//
// The cache adds no failures. A message that it cannot parse, pack or keep
// passes through it unchanged. When the source fails, clients receive its
// SERVFAIL for a few seconds, or the last answer if serve_stale is set. A wrong
// Corefile is refused at start, with file, line and option.
//
// # Not here
//
// DNSSEC validation. Answers that depend on the client's subnet (ECS): they are
// passed through and never kept.
package dnsplugin
