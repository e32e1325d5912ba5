package dnsplugin

import (
	"fmt"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// Directive is the name under which this package registers itself.
const Directive = "penstock"

func init() {
	Register(Directive)
	caddy.RegisterEventHook("penstock", listeners.OnEvent)
}

// listeners are the sockets of the fast path in this process.
var listeners = front.NewRegistry(func(h plugin.Handler) *front.Instance {
	if c, ok := h.(*Cache); ok {
		return c.front
	}
	return nil
})

// Register makes the plugin known to CoreDNS as a directive. The package does
// so under [Directive] by itself; dropin does it under "cache".
func Register(directive string) {
	plugin.Register(directive, func(c *caddy.Controller) error { return setup(directive, c) })
}

// bypasser is implemented by authoritative plugins whose zones change at run
// time (dynupdate): what they hold must never come from a cache.
type bypasser interface {
	CacheBypassZones() []string
}

func setup(directive string, c *caddy.Controller) error {
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
	// Blocks of one zone differ by their views, which are known at startup.
	block := func() string { return blockOf(directive, c) + " " + ca.meters.View }
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
		taken := handovers.take(block(), ca)
		// Before a snapshot is read, which lets the heap grow.
		headrooms.add(ca)
		if cfg.Control != "" {
			if err := controls.claim(ca); err != nil {
				return plugin.Error(directive, err)
			}
		}
		if cfg.Warm != "" {
			if err := warms.claim(ca, place); err != nil {
				return plugin.Error(directive, err)
			}
			if !taken {
				ca.loadWarm()
			}
			ca.keepWarm()
		}
		listeners.Claim(ca.front, server, c.ServerBlockKeys...)
		return nil
	})
	// The callbacks of an instance run one after the other.
	restarting := false
	c.OnRestart(func() error {
		restarting = true
		handovers.offer(block(), ca)
		controls.offer(ca)
		warms.offer(ca)
		return nil
	})
	// Also with fastpath off: a reload may have to take over sockets.
	server := dnsserver.GetConfig(c)
	server.UDPDecorateWriterFunc = ca.front.Decorate(server.UDPDecorateWriterFunc)
	c.OnRestartFailed(func() error {
		restarting = false
		listeners.Disclaim(ca.front)
		handovers.withdraw(block(), ca)
		controls.rollback()
		warms.rollback()
		return nil
	})
	end := func() error {
		handovers.withdraw(block(), ca)
		controls.release(ca)
		if err := listeners.Release(ca.front); err != nil {
			log.Warning(err)
		}
		if err := ca.Close(); err != nil {
			log.Warningf("Refreshes still run %v after the end of the server: %v", closeGrace, err)
		}
		warms.release(ca)
		headrooms.remove(ca)
		return nil
	}
	c.OnShutdown(func() error {
		if !restarting {
			return nil
		}
		return end()
	})
	// At the end of the process the plugin health goes into its lameduck in a
	// callback of this kind, before ours because its directive comes first. So
	// sockets, connections and refreshes go on until that is over.
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
