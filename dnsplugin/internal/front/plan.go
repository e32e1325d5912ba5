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

// This file decides which zones may be answered without the plugin chain: no
// plugin before the cache may do anything that the fast path does not do as well.
// It examines the configuration once, at the start of a server. Zones with an
// unknown plugin need the chain.

// Harmless are the plugins that may stand before the cache because they do not
// affect cached answers, with the reason.
var Harmless = map[string]string{
	"errors":      "logs errors; a hit has none",
	"cancel":      "ends the context of queries that take long",
	"any":         "answers ANY, which we never do",
	"chaos":       "answers class CH, which we never do",
	"nsid":        "acts on queries with the NSID option, which we leave to the chain",
	"local":       "answers some names itself, which therefore never reach the cache",
	"ready":       "does not handle queries",
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

// whyNoCache is the reason of zones without a cache.
const whyNoCache = "no cache"

// ZonePlan is the decision for one zone of a listener.
type ZonePlan struct {
	Name  string    // as configured, lower case, ends with a dot
	Why   string    // why its queries need the chain; "" if they do not
	Cache *Instance // nil if the zone has none

	meters.Zone        // counted if prometheus is in the chain
	next        string // the plugin after prometheus, which is a label of its series
	metricsIn   string // the zone that prometheus counts under
	shuffled    bool   // loadbalance is in the chain
	bufsize     uint16 // limit of bufsize, or 0
	all         bool   // every name of the zone may be in the cache

	// Why is set only because of plugins that record queries. If these block,
	// see Server.Unwatched.
	watched bool
}

// watchers are the plugins that record every query and change none.
var watchers = map[string]bool{"log": true, "dnstap": true}

// PlanListener decides for a listener whose server blocks are zones. why is set
// if all queries of the listener need the chain.
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
				return nil, "plugin proxyproto: the packets contain the client's address"
			case c.Handler("shed") != nil:
				return nil, "plugin shed: it watches over the server's own socket"
			case c.Handler("dynupdate") != nil:
				return nil, "plugin dynupdate: other opcodes than QUERY are served"
			}
		}
		plans = append(plans, r.planZone(strings.ToLower(zone), configs, zones))
	}
	// The longest zone that holds a name answers for it.
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
		// A plugin whose name differs from its directive cannot be identified.
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

// Consider records the effect of h, a plugin before the cache. If the fast path
// cannot reproduce the effect, why is the reason.
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
// round_robin and no preferred subnets. The policy is a private function, which is
// recognised by its name.
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

// ZonesOf returns the server blocks of s by zone. It reads a private field of
// CoreDNS, because a plugin sees only its own block and there is no other way to
// find the zones that share a listener. If the field does not have the expected
// type, ok is false and all queries need the chain.
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
