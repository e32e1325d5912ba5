package front

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/bufsize"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// This file decides which queries may be answered without the plugin chain:
// those for which no plugin before the cache would have done anything that we
// don't do too. It looks only at what the server was configured with, once at
// its start. Whatever it doesn't know stays with the chain.

// Harmless are the plugins that may stand before the cache without changing
// what becomes of a cached answer, and why.
var Harmless = map[string]string{
	"errors":      "logs errors; a hit has none",
	"cancel":      "ends the context of queries that take long",
	"any":         "answers ANY, which we never do",
	"chaos":       "answers class CH, which we never do",
	"nsid":        "acts on queries with the NSID option, which we leave to the chain",
	"local":       "answers some names itself, which therefore never reach the cache",
	"ready":       "is not in the way of queries",
	"health":      "likewise",
	"reload":      "likewise",
	"root":        "likewise",
	"bind":        "likewise",
	"debug":       "likewise",
	"pprof":       "likewise",
	"timeouts":    "likewise",
	"multisocket": "likewise",
	"prometheus":  "counts; so do we, in the same series",
	"loadbalance": "shuffles; so do we, if it does so at random",
	"bufsize":     "clamps the size of UDP answers; so do we",
}

// whyNoCache is the reason of zones that have no cache at all.
const whyNoCache = "no cache"

// ZonePlan is what is decided for one zone of a listener.
type ZonePlan struct {
	Name  string    // as configured, lower case, ends with a dot
	Why   string    // why its queries are for the chain; "" if they may be ours
	Cache *Instance // nil if the zone has none

	meters.Zone        // counted if prometheus is in the chain
	next        string // the plugin after prometheus, under which it counts answers
	metricsIn   string // the zone that prometheus counts under
	shuffled    bool   // loadbalance is in the chain
	bufsize     uint16 // clamp of bufsize; 0: none
	all         bool   // every name of the zone may be in the cache

	// why is set because of plugins that only write down what they see. When
	// they don't come back, see fastServer.unwatched.
	watched bool
}

// watchers are the plugins that write down every query and change none.
var watchers = map[string]bool{"log": true, "dnstap": true}

// PlanListener decides for a listener whose server blocks are zones. why is
// set when the listener as a whole is for the chain.
func (r *Registry) PlanListener(zones map[string][]*dnsserver.Config) (plans []*ZonePlan, why string) {
	if edns.SupportedOption(dns.EDNS0COOKIE) || edns.SupportedOption(dns.EDNS0PADDING) {
		return nil, "a plugin returns EDNS cookies or padding"
	}
	for zone, configs := range zones {
		for _, c := range configs {
			switch {
			case len(c.TsigSecret) > 0:
				return nil, "plugin tsig: replies may have to be signed"
			case c.ProxyProtoConnPolicy != nil:
				return nil, "plugin proxyproto: the client's address is inside of the packets"
			case c.Handler("shed") != nil:
				return nil, "plugin shed: it watches over the server's own socket"
			case c.Handler("dynupdate") != nil:
				return nil, "plugin dynupdate: other opcodes than QUERY are served"
			}
		}
		plans = append(plans, r.planZone(strings.ToLower(zone), configs, zones))
	}
	// The longest zone that holds a name is the one that answers for it.
	slices.SortFunc(plans, func(a, b *ZonePlan) int {
		if d := len(b.Name) - len(a.Name); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return plans, ""
}

// planZone decides for one zone.
func (r *Registry) planZone(zone string, configs []*dnsserver.Config, all map[string][]*dnsserver.Config) *ZonePlan {
	p := &ZonePlan{Name: zone}
	if len(configs) != 1 || len(configs[0].FilterFuncs) > 0 || configs[0].ViewName != "" {
		p.Why = "view: which server block answers depends on the query"
		return p
	}
	c := configs[0]
	handlers := c.Handlers()
	at := slices.IndexFunc(handlers, func(h plugin.Handler) bool { return r.find(h) != nil })
	if at < 0 {
		p.Why = whyNoCache
		return p
	}
	cache := r.find(handlers[at])
	p.Cache = cache
	switch {
	case cache.Mode == ModeOff:
		p.Why = "fastpath off"
		return p
	case len(handlers) != len(c.Plugin):
		// One that goes by another name than its directive can't be seen, so
		// nobody knows what it does.
		p.Why = fmt.Sprintf("%d of %d plugins are unknown", len(c.Plugin)-len(handlers), len(c.Plugin))
		return p
	}
	for _, h := range handlers {
		if _, collects := h.(dnsserver.MetadataCollector); collects {
			p.Why = "plugin " + h.Name() + ": other plugins may depend on metadata of each query"
			return p
		}
	}
	watcher := ""
	for i, h := range handlers[:at] {
		if watchers[h.Name()] {
			watcher = h.Name()
			continue
		}
		if p.Why = p.Consider(h, handlers[i+1].Name(), all); p.Why != "" {
			return p
		}
	}
	if watcher != "" {
		p.Why, p.watched = mustSee(watcher), true
	}
	p.all = slices.ContainsFunc(cache.Zones, func(z string) bool { return dns.IsSubDomain(z, zone) }) && len(cache.Bypass) == 0
	return p
}

func mustSee(name string) string {
	return "plugin " + name + " stands before the cache and must see every query"
}

// Consider takes note of what h, a plugin before the cache, does. It says why
// not if that can't be reproduced.
func (p *ZonePlan) Consider(h plugin.Handler, next string, all map[string][]*dnsserver.Config) (why string) {
	if _, ok := Harmless[h.Name()]; !ok {
		return mustSee(h.Name())
	}
	switch h := h.(type) {
	case *metrics.Metrics:
		p.Counted, p.next = true, next
		for _, z := range h.ZoneNames() {
			_, served := all[z]
			switch {
			case dns.IsSubDomain(z, p.Name) && dns.CountLabel(z) >= dns.CountLabel(p.metricsIn):
				p.metricsIn = z
			case dns.IsSubDomain(p.Name, z) && !served:
				return "plugin prometheus counts zone " + z + " apart, which another listener serves"
			}
		}
		if p.metricsIn == "" {
			p.metricsIn = "."
		}
	case bufsize.Bufsize:
		p.bufsize = uint16(h.Size)
	default:
		switch h.Name() {
		case "loadbalance":
			if !shufflesAtRandom(h) {
				return "plugin loadbalance orders answers by weight or subnet"
			}
			p.shuffled = true
		case "prometheus", "bufsize":
			return "plugin " + h.Name() + " is not the one of CoreDNS"
		}
	}
	return ""
}

// shufflesAtRandom reports whether h is CoreDNS's loadbalance with its policy
// round_robin and no preferred subnets. The policy is a private function; its
// name says which it is, and any other name means no.
func shufflesAtRandom(h plugin.Handler) bool {
	v := reflect.ValueOf(h)
	if v.Kind() != reflect.Struct {
		return false
	}
	f := v.FieldByName("shuffle")
	if !f.IsValid() || f.Kind() != reflect.Func || f.IsNil() {
		return false
	}
	fn := runtime.FuncForPC(f.Pointer())
	return fn != nil && fn.Name() == "github.com/coredns/coredns/plugin/loadbalance.randomShuffle"
}

// ZonesOf returns the server blocks of s by zone. CoreDNS keeps them to
// itself, but nothing else says which zones share a listener: a plugin sees
// only its own block. If a later CoreDNS keeps them otherwise, ok is false and
// all queries stay with the chain.
func ZonesOf(s *dnsserver.Server) (zones map[string][]*dnsserver.Config, ok bool) {
	v := reflect.ValueOf(s).Elem().FieldByName("zones")
	if !v.IsValid() || v.Type() != reflect.TypeFor[map[string][]*dnsserver.Config]() {
		return nil, false
	}
	zones = map[string][]*dnsserver.Config{}
	for it := v.MapRange(); it.Next(); {
		list := it.Value()
		for i := range list.Len() {
			zones[it.Key().String()] = append(zones[it.Key().String()], (*dnsserver.Config)(list.Index(i).UnsafePointer()))
		}
	}
	return zones, true
}
