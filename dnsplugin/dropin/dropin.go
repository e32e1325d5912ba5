// Package dropin registers the plugin as the CoreDNS directive "cache", in
// place of CoreDNS's own. To use it, change one line of plugin.cfg:
//
//	cache:github.com/penstock/penstock/dnsplugin/dropin
//
// It accepts every Corefile that CoreDNS's cache accepts. Package dnsplugin
// describes the options, and the intended differences.
//
// A binary must not link both this package and CoreDNS's plugin/cache. A
// directive has one owner, so the package that is initialised second panics.
//
// Package dnsplugin also describes concurrency and failures. This package has
// no API; import it for its effect.
package dropin

import "github.com/penstock/penstock/dnsplugin"

func init() { dnsplugin.Register("cache") }
