package nic

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// staleFor is how long an old answer serves while lookups fail.
	staleFor = 5 * time.Minute
	// retryLookup is how long an old answer serves before a failed lookup is
	// repeated, so that a dead resolver does not delay every dial.
	retryLookup = 5 * time.Second
	// maxNames bounds the cache; a process talks to a handful of names.
	maxNames = 256
)

// names caches answers of a resolver, one lookup at a time per name.
type names struct {
	resolver Resolver
	ttl      time.Duration

	mu      sync.Mutex // guards entries and their fields; leaf
	entries map[string]*answer
}

// answer is a cached answer, or a lookup under way.
type answer struct {
	addrs   []netip.Addr
	fetched time.Time     // of addrs
	fresh   time.Time     // no lookup before then
	flight  chan struct{} // closed when the lookup under way ends, nil if none
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
		if a != nil && a.flight != nil {
			wait := a.flight
			n.mu.Unlock()
			select {
			case <-wait: // look again; if that lookup failed this caller does its own
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if a == nil {
			n.evict(now)
			a = &answer{}
			n.entries[key] = a
		}
		a.flight = make(chan struct{})
		n.mu.Unlock()
		return n.fetch(ctx, a, network, host)
	}
}

// fetch asks the resolver on behalf of everyone who waits for a.flight.
func (n *names) fetch(ctx context.Context, a *answer, network, host string) ([]netip.Addr, error) {
	addrs, err := n.resolver.LookupNetIP(ctx, network, host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("no addresses")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	close(a.flight)
	a.flight = nil
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

// evict makes room for one more name. Called with mu held.
func (n *names) evict(now time.Time) {
	for k, a := range n.entries {
		if len(n.entries) < maxNames {
			return
		}
		if a.flight == nil && !now.Before(a.fresh) {
			delete(n.entries, k)
		}
	}
	for k, a := range n.entries {
		if len(n.entries) < maxNames {
			return
		}
		if a.flight == nil {
			delete(n.entries, k)
		}
	}
}
