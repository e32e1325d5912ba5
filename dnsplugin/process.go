package dnsplugin

import (
	"errors"
	"fmt"
	"slices"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// process holds everything that outlives an instance of the server. On a reload
// the next instance takes it over from the old one: entries, sockets, the
// control socket, the file of the snapshot.
type process struct {
	listeners *front.Registry
	handovers handoverSet
	controls  controlSet
	warms     warmSet
	headroom  *headroom

	hooks []hook // in the order in which an instance starts
}

// proc is the process that this program is.
var proc = newProcess()

// member is an instance with the part of its configuration that hooks need.
type member struct {
	cache  *Cache
	place  string            // in the Corefile
	block  string            // names the server block
	server *dnsserver.Config // of that block
	keys   []string          // addresses of that block
	taken  bool              // the cache has taken over the entries of another
}

// hook ties one resource of the process to the life of an instance. A function
// that is nil does nothing.
type hook struct {
	name     string
	start    func(*member) error // the instance starts; an error ends the start
	offer    func(*member)       // a reload is about to replace the instance
	rollback func(*member)       // that reload failed, so the instance stays
	release  func(*member) error // the instance has ended; an error is only logged
}

func newProcess() *process {
	p := &process{
		listeners: front.NewRegistry(func(h plugin.Handler) *front.Instance {
			if c, ok := h.(*Cache); ok {
				return c.front
			}
			return nil
		}),
		handovers: handoverSet{byBlock: map[string]*Cache{}},
		controls:  controlSet{byPath: map[string]*control{}, awaiting: map[*Cache]bool{}},
		warms:     warmSet{byPath: map[string]*warmFile{}},
		headroom:  &headroom{heap: goHeap{}},
	}
	p.controls.isSnapshot, p.warms.isControl = p.warms.has, p.controls.has
	p.hooks = []hook{
		// First the entries: a snapshot is read only if there are none.
		{
			name:     "entries",
			start:    func(m *member) error { m.taken = p.handovers.take(m.block, m.cache); return nil },
			offer:    func(m *member) { p.handovers.offer(m.block, m.cache) },
			rollback: func(m *member) { p.handovers.withdraw(m.block, m.cache) },
			release:  func(m *member) error { p.handovers.withdraw(m.block, m.cache); return nil },
		},
		// Before a snapshot is read, which makes the heap grow.
		{
			name:    "headroom",
			start:   func(m *member) error { p.headroom.add(m.cache); return nil },
			release: func(m *member) error { p.headroom.remove(m.cache); return nil },
		},
		{
			name:     "control",
			start:    p.startControl,
			offer:    func(m *member) { p.controls.offer(m.cache) },
			rollback: func(*member) { p.controls.rollback() },
			release:  func(m *member) error { p.controls.release(m.cache); return nil },
		},
		{
			name:     "snapshot",
			start:    p.startSnapshot,
			offer:    func(m *member) { p.warms.offer(m.cache) },
			rollback: func(*member) { p.warms.rollback() },
			release:  func(m *member) error { p.warms.release(m.cache); return nil },
		},
		// The last snapshot is written while the refreshes end, so before the
		// file is released.
		{name: "refreshes", release: endRefreshes},
		// Last, because only an instance that starts may take the sockets over;
		// and released first, so that no query finds a cache that has ended.
		{
			name:     "sockets",
			start:    func(m *member) error { p.listeners.Claim(m.cache.front, m.server, m.keys...); return nil },
			rollback: func(m *member) { p.listeners.Disclaim(m.cache.front) },
			release:  func(m *member) error { return p.listeners.Release(m.cache.front) },
		},
	}
	return p
}

// start runs the hooks for an instance that starts, up to the first error.
func (p *process) start(m *member) error {
	for _, h := range p.hooks {
		if h.start == nil {
			continue
		}
		if err := h.start(m); err != nil {
			return err
		}
	}
	return nil
}

// offer runs the hooks for an instance that a reload is about to replace.
func (p *process) offer(m *member) {
	for _, h := range p.hooks {
		if h.offer != nil {
			h.offer(m)
		}
	}
}

// rollback runs the hooks for an instance that stays because a reload failed, in
// the reverse order.
func (p *process) rollback(m *member) {
	for _, h := range slices.Backward(p.hooks) {
		if h.rollback != nil {
			h.rollback(m)
		}
	}
}

// release runs the hooks for an instance that has ended, in the reverse order.
// All of them run; the error joins theirs.
func (p *process) release(m *member) error {
	var errs []error
	for _, h := range slices.Backward(p.hooks) {
		if h.release != nil {
			errs = append(errs, h.release(m))
		}
	}
	return errors.Join(errs...)
}

func (p *process) startControl(m *member) error {
	if m.cache.cfg.Control == "" {
		return nil
	}
	return p.controls.claim(m.cache)
}

func (p *process) startSnapshot(m *member) error {
	if m.cache.cfg.Warm == "" {
		return nil
	}
	if err := p.warms.claim(m.cache, m.place); err != nil {
		return err
	}
	if !m.taken {
		m.cache.loadWarm()
	}
	m.cache.keepWarm(p.warms.mayWrite)
	return nil
}

func endRefreshes(m *member) error {
	if err := m.cache.Close(); err != nil {
		return fmt.Errorf("refreshes still run %v after the end of the server: %w", closeGrace, err)
	}
	return nil
}
