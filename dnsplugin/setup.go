package dnsplugin

import (
	"fmt"
	"slices"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/prometheus/client_golang/prometheus"
)

// Directive is the name under which this package registers itself.
const Directive = "penstock"

func init() {
	Register(Directive)
}

// eventHook is the name of our hook among caddy's.
const eventHook = "penstock"

var hooking sync.Mutex // held while the hook is registered

// registerHook registers the hook for caddy's events, unless it is registered.
// Each setup calls it, because caddy removes all hooks before a reload by
// SIGUSR1 and expects the new configuration to register them again.
func registerHook() {
	hooking.Lock()
	defer hooking.Unlock()
	if !slices.Contains(caddy.ListPlugins()["event_hooks"], eventHook) {
		caddy.RegisterEventHook(eventHook, proc.listeners.OnEvent)
	}
}

// Register makes the plugin known to CoreDNS as a directive. This package
// registers itself under [Directive], and package dropin under "cache".
func Register(directive string) {
	plugin.Register(directive, func(c *caddy.Controller) error { return setup(directive, c) })
}

// bypasser is implemented by authoritative plugins whose zones change at run
// time (dynupdate). Their names must never be answered from a cache.
type bypasser interface {
	CacheBypassZones() []string
}

func setup(directive string, c *caddy.Controller) error {
	registerHook()
	cfg, err := Parse(c)
	if err != nil {
		return plugin.Error(directive, err)
	}
	cfg, memory, err := fitMemory(cfg, memoryLimit("/"))
	if err != nil {
		return plugin.Error(directive, c.Err(err.Error()))
	}
	ca, err := newCache(directive, cfg, prometheus.DefaultRegisterer)
	if err != nil {
		return plugin.Error(directive, err)
	}
	log := clog.NewWithPlugin(directive)
	for _, remark := range append(cfg.remarks(), memory...) {
		log.Warningf("%s:%d - %s", c.File(), c.Line(), remark)
	}
	place := fmt.Sprintf("%s:%d", c.File(), c.Line())
	self := func() *member {
		return &member{
			cache: ca, place: place, server: dnsserver.GetConfig(c), keys: c.ServerBlockKeys,
			// Blocks of one zone differ by their views, which are known at startup.
			block: blockOf(directive, c) + " " + ca.meters.View,
		}
	}
	c.OnStartup(func() error {
		server := dnsserver.GetConfig(c)
		ca.meters.View = server.ViewName
		for _, h := range server.Handlers() {
			if other, ok := h.(*Cache); ok && other != ca {
				return plugin.Error(directive, fmt.Errorf("%s - %s and %s in one server block: both are this cache, keep one", place, directive, other.name))
			}
			if b, ok := h.(bypasser); ok {
				ca.front.Bypass = append(ca.front.Bypass, b.CacheBypassZones()...)
			}
		}
		if err := proc.start(self()); err != nil {
			return plugin.Error(directive, err)
		}
		return nil
	})
	// The callbacks of an instance run in sequence, so this needs no lock.
	restarting := false
	c.OnRestart(func() error {
		restarting = true
		proc.offer(self())
		return nil
	})
	// Also with fastpath off, because a reload may have to take over sockets.
	server := dnsserver.GetConfig(c)
	server.UDPDecorateWriterFunc = ca.front.Decorate(server.UDPDecorateWriterFunc)
	c.OnRestartFailed(func() error {
		restarting = false
		proc.rollback(self())
		return nil
	})
	end := func() error {
		if err := proc.release(self()); err != nil {
			log.Warning(err)
		}
		return nil
	}
	c.OnShutdown(func() error {
		if !restarting {
			return nil
		}
		return end()
	})
	// At the end of the process the plugin health waits for its lameduck in a
	// callback of this kind. It runs before ours because its directive comes
	// first, so sockets, connections and refreshes work until that is over.
	c.OnFinalShutdown(func() error {
		if restarting {
			return nil
		}
		return end()
	})
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		ca.Next = next
		return ca
	})
	return nil
}
