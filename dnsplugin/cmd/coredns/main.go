// Command coredns is CoreDNS with all of its default plugins, in which the
// directive "cache" is Penstock's. The plugin also has the directive
// "penstock". Flags and Corefile are CoreDNS's.
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
	// The commit for -version and coredns_build_info. A build with -ldflags may
	// set another one.
	if coremain.GitCommit == "" {
		coremain.GitCommit = "penstock " + dnsplugin.Version()
	}
	coremain.Run()
}

// directives returns CoreDNS's order of plugins, with penstock next to cache.
func directives(order []string) []string {
	at := slices.Index(order, "cache")
	return slices.Insert(slices.Clone(order), at+1, dnsplugin.Directive)
}
