// Package dropin registers the plugin as the CoreDNS directive "cache", in
// the place of CoreDNS's own. One changed line of plugin.cfg is enough:
//
//	cache:github.com/penstock/penstock/dnsplugin/dropin
//
// Every Corefile goes on working; package dnsplugin says what its options do
// and where the behaviour differs on purpose.
//
// A binary must not link both this package and CoreDNS's plugin/cache: the
// one that is initialised second panics, since a directive has one owner.
//
// Concurrency and failures are those of package dnsplugin. This package has
// no API: it exists to be imported for its effect.
package dropin

import "github.com/penstock/penstock/dnsplugin"

func init() { dnsplugin.Register("cache") }
