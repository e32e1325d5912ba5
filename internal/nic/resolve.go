package nic

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// staleFor is how long an old answer is used while lookups fail.
	staleFor = 5 * time.Minute
	// retryLookup is the time between failed lookups of a name with an old answer,
	// so that a dead resolver does not delay every dial.
	retryLookup = 5 * time.Second
	// maxNames bounds the cache; a process uses a handful of names.
	maxNames = 256
)

// names caches answers of a resolver. It makes one lookup at a time for each name.
type names struct {
	resolver Resolver
	ttl      time.Duration

	mu      sync.Mutex // guards entries and their fields; leaf
	entries map[string]*answer
}

// answer is a cached answer, or a running lookup.
type answer struct {
	addrs   []netip.Addr
	fetched time.Time     // of addrs
	fresh   time.Time     // no lookup before then
	running chan struct{} // closed when the running lookup ends; nil if none runs
}

// lookup returns the addresses of host for network ip, ip4 or ip6.
func (n *names) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	key := network + " " + host
	for {
		n.mu.Lock()
		a := n.entries[key]
		now := time.Now()
		if a != nil && now.Before(a.fresh) {
			addrs := a.addrs
			n.mu.Unlock()
			return addrs, nil
		}
		if a != nil && a.running != nil {
			wait := a.running
			n.mu.Unlock()
			select {
			case <-wait: // check again; if that lookup has failed, this caller makes its own
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if a == nil {
			n.evictLocked(now)
			a = &answer{}
			n.entries[key] = a
		}
		a.running = make(chan struct{})
		n.mu.Unlock()
		return n.fetch(ctx, a, network, host)
	}
}

// fetch makes a lookup for all callers that wait for a.running.
func (n *names) fetch(ctx context.Context, a *answer, network, host string) ([]netip.Addr, error) {
	addrs, err := n.resolver.LookupNetIP(ctx, network, host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("no addresses")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	close(a.running)
	a.running = nil
	now := time.Now()
	if err == nil {
		a.addrs, a.fetched, a.fresh = addrs, now, now.Add(n.ttl)
		return addrs, nil
	}
	if len(a.addrs) > 0 && now.Sub(a.fetched) < staleFor && ctx.Err() == nil {
		a.fresh = now.Add(min(retryLookup, n.ttl))
		return a.addrs, nil
	}
	return nil, err
}

// evictLocked makes room for one more name. mu must be held.
func (n *names) evictLocked(now time.Time) {
	for k, a := range n.entries {
		if len(n.entries) < maxNames {
			return
		}
		if a.running == nil && !now.Before(a.fresh) {
			delete(n.entries, k)
		}
	}
	for k, a := range n.entries {
		if len(n.entries) < maxNames {
			return
		}
		if a.running == nil {
			delete(n.entries, k)
		}
	}
}
