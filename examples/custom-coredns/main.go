// Command custom-coredns is a CoreDNS with a handful of plugins, in which
// "cache" is Penstock's. It is built as any program outside of CoreDNS would
// build one: by importing the plugins it wants and naming their order.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/whoami"

	_ "github.com/penstock/penstock/dnsplugin/dropin" // the directive "cache"
)

func main() {
	// The order in which a question passes the plugins. A Corefile cannot name a
	// plugin that is not in this list.
	dnsserver.Directives = []string{
		"prometheus", "errors", "log", "cache", "template", "forward", "whoami",
	}
	coremain.Run()
}
