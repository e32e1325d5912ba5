// Command coredns is CoreDNS with all of its default plugins, in which the
// directive "cache" is Penstock's. The same plugin is there as "penstock" too,
// for Corefiles that want to say so. Flags and Corefile are CoreDNS's.
//
//	coredns -conf Corefile -dns.port 1053
package main

import (
	"slices"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	"github.com/penstock/penstock/dnsplugin"
)

func main() {
	dnsserver.Directives = directives(dnsserver.Directives)
	// What -version and coredns_build_info call the commit; a build with -ldflags has its own.
	if coremain.GitCommit == "" {
		coremain.GitCommit = "penstock " + dnsplugin.Version()
	}
	coremain.Run()
}

// directives returns CoreDNS's order of plugins with ours beside the cache.
func directives(order []string) []string {
	at := slices.Index(order, "cache")
	return slices.Insert(slices.Clone(order), at+1, dnsplugin.Directive)
}
