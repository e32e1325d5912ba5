package dnsplugin

import (
	"context"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/admission"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// refresh fetches a new answer for e in the background, unless another refresh
// of e runs or has just failed. If e is stale, only a response that RFC 8767
// accepts may replace it.
func (c *Cache) refresh(ctx context.Context, q query, id *sides.Ident, e *store.Entry, now time.Time, stale bool) {
	if !c.sides.Claim(e, c.sides.Instant(c.now()), stale) {
		return
	}
	rec := &recorder{cache: c, req: refreshOf(q.r), id: id.Clone(), meters: q.meters}
	hitAt := c.sides.Instant(now)
	if stale {
		rec.only = c.accepts
		// A hit on a stale entry counts as a hit in its last second, as in CoreDNS.
		hitAt += store.Instant(e.Left(hitAt)) * store.Instant(time.Second)
	}
	started := c.spawn(ctx, rec.id, func(ctx context.Context) {
		rec.meters.Prefetches.Inc()
		rec.wildcard = wildcardOf(ctx)
		_, _ = plugin.NextOrFailure(c.name, c.Next, ctx, rec, rec.req)
		refreshed := !stale || rec.accepted
		if refreshed && rec.entry != nil {
			// The new entry inherits the popularity of the old one.
			rec.entry.LastHit.Store(int64(hitAt))
			rec.entry.Hits.Store(e.Hits.Load())
		}
		c.sides.Release(e, rec.id, c.sides.Instant(c.now()), stale, refreshed)
	})
	if !started {
		c.sides.Unclaim(e)
	}
}

// verify asks the source before a stale e is served. If done is true the client
// has its reply; otherwise the caller serves e.
func (c *Cache) verify(ctx context.Context, q query, id *sides.Ident, e *store.Entry, now time.Time) (done bool, rcode int, err error) {
	st := &c.cfg.Stale
	track := c.sides.TracksVerify()
	if track && !c.sides.Claim(e, c.sides.Instant(now), true) {
		return false, 0, nil
	}
	rec := &recorder{cache: c, req: refreshOf(q.r), id: id, meters: q.meters, only: c.accepts}
	if st.VerifyTimeout > 0 {
		return c.verifyFor(ctx, q, e, rec)
	}
	rec.ResponseWriter, rec.wildcard = q.w, wildcardOf(ctx)
	rcode, err = plugin.NextOrFailure(c.name, c.Next, ctx, rec, rec.req)
	if track {
		c.sides.Release(e, rec.id, c.sides.Instant(c.now()), true, rec.accepted)
	}
	return rec.accepted, rcode, err
}

// verifyFor asks the source in the background and waits for VerifyTimeout. A
// slower source still refreshes the cache when it answers.
func (c *Cache) verifyFor(ctx context.Context, q query, e *store.Entry, rec *recorder) (done bool, rcode int, err error) {
	st := &c.cfg.Stale
	finished := make(chan struct{})
	started := c.spawn(ctx, rec.id, func(ctx context.Context) {
		rec.wildcard = wildcardOf(ctx)
		_, _ = plugin.NextOrFailure(c.name, c.Next, ctx, rec, rec.req)
		c.sides.Release(e, rec.id, c.sides.Instant(c.now()), true, rec.accepted)
		close(finished)
	})
	if !started {
		c.sides.Unclaim(e)
		return false, 0, nil
	}
	t := time.NewTimer(st.VerifyTimeout)
	defer t.Stop()
	select {
	case <-t.C:
		return false, 0, nil
	case <-finished:
		if !rec.accepted {
			return false, 0, nil
		}
		m := rec.last
		if rec.entry != nil {
			ttl := c.sides.FreshTTL(rec.entry.Left(c.sides.Instant(c.now())), rec.entry.TTL)
			a := rec.entry.Answer()
			if m, err = reply(&a, q.r, ttl, rec.id.DO || rec.id.AD); err != nil {
				return true, dns.RcodeServerFailure, plugin.Error(c.name, err)
			}
			addEDE(q.w, m, q.r, rec.entry.EDE())
		}
		if err := q.w.WriteMsg(m); err != nil {
			return true, dns.RcodeServerFailure, err
		}
		return true, dns.RcodeSuccess, nil
	}
}

// accepts decides whether a response may replace a stale answer: it must make a
// statement about the name (RFC 8767, section 4). With prefer_positive only an
// answer replaces it, and any other response is stored in addition to it.
func (c *Cache) accepts(res *dns.Msg, v verdict) acceptance {
	if res.Truncated {
		return drop
	}
	if c.cfg.Stale.PreferPositive {
		if v.kind == response.NoError && v.answering {
			return accept
		}
		return keepOnly
	}
	switch v.kind {
	case response.OtherError, response.Meta, response.Update, response.ServerError:
		return drop
	}
	return accept
}

// spawn runs f, which refreshes id, in the background with a context that
// outlives the request but not the cache. It does not run f, and reports false,
// if the names of id use up their share of maxBackground or the cache is closed.
func (c *Cache) spawn(ctx context.Context, id *sides.Ident, f func(context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	p := new(admission.Place)
	c.background.Assign(p, 0, sides.NameOf(id.Key), 1)
	if !c.background.Begin(p, c.now()) {
		c.background.Leave(p)
		return false
	}
	// Copy the request's metadata, which may change when the request is over.
	detached := metadata.ContextWithMetadata(context.WithoutCancel(ctx))
	for label, value := range metadata.ValueFuncs(ctx) {
		metadata.SetValueFunc(detached, label, value)
	}
	detached, cancel := context.WithCancel(detached)
	stop := context.AfterFunc(c.life, cancel)
	c.refreshes.Go(func() {
		defer func() {
			stop()
			cancel()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.background.End(p, c.now())
		}()
		f(detached)
	})
	return true
}

// wildcardOf returns a function that reads from the metadata of ctx which
// wildcard record an answer was made from. Call it after the answer has arrived.
func wildcardOf(ctx context.Context) func() string {
	return func() string {
		if f := metadata.ValueFunc(ctx, wildcardLabel); f != nil {
			return f()
		}
		return ""
	}
}
