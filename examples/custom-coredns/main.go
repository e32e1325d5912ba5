// Command custom-coredns is a CoreDNS with a few plugins, in which "cache" is
// Penstock's. It imports the plugins and names their order, as any program outside
// of CoreDNS does.
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
