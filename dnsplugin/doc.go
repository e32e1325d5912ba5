// Package dnsplugin is a cache for CoreDNS that keeps answers as bytes, within
// a bound of bytes, and is read without locks. It takes the place of CoreDNS's
// own cache plugin: every Corefile goes on working.
//
// A CoreDNS with it is built by naming it in plugin.cfg, or by importing it
// beside the plugins that a Corefile names (examples/custom-coredns; all of
// them: dnsplugin/cmd/coredns):
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
// CoreDNS's core/plugin, which imports all plugins, has a cache of its own: it
// can't stand beside dropin, and its order does not have "penstock".
//
// README.md is the manual page: the directive, its options, the metrics, and
// where the behaviour differs from CoreDNS's cache on purpose.
//
// # Vocabulary
//
//   - success, denial: the two sides of the cache. NXDOMAIN, NODATA and
//     SERVFAIL are denials, everything else that is kept is a success.
//   - key: name, type, class, DO and CD of a question. Equal keys have one entry.
//   - fresh, stale, dead: an entry within its TTL; past it but within
//     serve_stale; past that. A dead entry is never served.
//   - refresh: a question to the next plugin about an entry that is still
//     there, before its end (prefetch) or after it (serve_stale).
//   - fast path: sockets of our own beside the server's, for UDP and TCP, from
//     which cached answers go out as bytes, without the plugin chain.
//   - decline: to leave a query to the chain. Always safe; counted by reason.
//   - flight: a question that is on its way to the next plugin; others of the
//     same key wait for it instead of asking too.
//
// # Concurrency
//
// A [Cache] is a plugin.Handler and as such used by any number of goroutines.
// A hit takes no lock that another one wants. The fast path (Linux only) has a
// goroutine for each CPU and for each TCP connection, and at most 2,048 queries of an address in the chain at a time; it ends with the
// instance, but for sockets that the next instance takes over on a reload. Refreshes run in goroutines of their own, at most 1,024
// at a time and one per entry; [Cache.Close] cancels them and returns when
// they have ended.
// The control socket belongs to the process: a reload hands it to the next instance,
// and the goroutine of its HTTP server ends when the last instance that wants it does.
//
// # Failure model
//
// The cache adds no failures: what it can't parse, pack or keep goes to the
// next plugin and its answer back to the client unchanged. When the source
// fails, clients get its SERVFAIL for a few seconds, or with serve_stale the
// last answer. A wrong Corefile is refused at start with file, line and option.
//
// # Not here
//
// Sockets for other transports than plain DNS over UDP and TCP: there the cache
// answers within the plugin chain. DNSSEC validation; answers that depend on the client's subnet
// (ECS), which are passed through and never kept.
package dnsplugin
