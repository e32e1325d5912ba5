package front

import (
	"crypto/tls"
	"reflect"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
)

// The fast path over TLS (DoT) has listeners like the ones for plain TCP, whose
// connections use the TLS configuration of the server block. The decision, the
// order of replies and the counters are the same as over TCP.
//
// CoreDNS calls no hook for a TLS server, in contrast to a UDP server. Instead
// we use an event that caddy emits after an instance has started, because the
// instance lists its servers.

// OnEvent opens the fast path of the servers of TLS and HTTPS of an instance
// that has started.
func (r *Registry) OnEvent(event caddy.EventName, info any) error {
	inst, ok := info.(*caddy.Instance)
	if event != caddy.InstanceStartupEvent || !ok {
		return nil
	}
	for _, l := range inst.Servers() {
		if s, ok := ServerOf[dnsserver.ServerTLS](l); ok {
			r.openSecureServer(s.Server)
		}
		if s, ok := ServerOf[dnsserver.ServerHTTPS](l); ok {
			r.openHTTPSServer(s)
		}
	}
	return nil
}

// openSecureServer opens the fast path of s, a TLS server, if one of its blocks
// has a cache of ours.
func (r *Registry) openSecureServer(s *dnsserver.Server) {
	zones, _ := ZonesOf(s)
	home := r.homeOf(zones)
	if home == nil {
		return
	}
	config, why := secureConfig(zones)
	if err := home.openListener(s, zones, &secure{config: config}, why); err != nil {
		home.say("%s: %v; all queries go through the plugin chain", s.Addr, err)
	}
}

// ServerOf returns the server of l if it is an S. It reads a private field of
// caddy; ok is false if that does not have the expected type.
func ServerOf[S any](l caddy.ServerListener) (s *S, ok bool) {
	v := reflect.ValueOf(l).FieldByName("server")
	if !v.IsValid() || v.Kind() != reflect.Interface || v.Elem().Type() != reflect.TypeFor[*S]() {
		return nil, false
	}
	return (*S)(v.Elem().UnsafePointer()), true
}

// homeOf returns the cache that opens the sockets of a listener with zones: of the
// caches in its server blocks, the one with the latest claim. It returns nil if
// there is no cache of ours.
func (r *Registry) homeOf(zones map[string][]*dnsserver.Config) (home *Instance) {
	for _, configs := range zones {
		for _, c := range configs {
			for _, h := range c.Handlers() {
				if ca := r.find(h); ca != nil && (home == nil || ca.order > home.order) {
					home = ca
				}
			}
		}
	}
	return home
}

// secureConfig returns the TLS configuration of a listener with zones. why is
// set if its connections are for CoreDNS's own server.
func secureConfig(zones map[string][]*dnsserver.Config) (config *tls.Config, why string) {
	for _, configs := range zones {
		for _, c := range configs {
			// CoreDNS lets blocks share a listener only if their configurations agree.
			config = c.TLSConfig
		}
	}
	switch {
	case config == nil:
		return nil, "no certificate: the listener speaks plain TCP"
	case config.ClientAuth != tls.NoClientCert:
		return nil, "plugin tls asks clients for certificates"
	case config.GetConfigForClient != nil, config.VerifyPeerCertificate != nil, config.VerifyConnection != nil:
		return nil, "another plugin looks at each TLS connection"
	}
	return config.Clone(), ""
}
