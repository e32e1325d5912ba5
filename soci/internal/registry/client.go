package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/nic"
)

// Options configure a client. The zero value works.
type Options struct {
	// HTTPClient, if set, is used for everything: its transport is taken, its
	// redirect policy is not. TLS settings and dial_timeout of hosts.toml do not apply to
	// it, and of token servers only addresses in URLs are checked, not those of names.
	HTTPClient *http.Client
	// Dial makes connections when HTTPClient is nil.
	Dial httprange.DialContext
	// Interfaces are the interfaces and local addresses over which connections are
	// spread when HTTPClient and Dial are nil. Empty: the routing table chooses.
	Interfaces []string
	// PlainHTTP talks http to registries that hosts.toml says nothing about.
	// Loopback ones get http anyway.
	PlainHTTP bool
	// Credentials returns what to log in to a host with for a repository. Nil:
	// docker's config.json and its credential helpers, then podman's auth.json.
	Credentials func(ctx context.Context, host, repository string) (Credential, error)
	// HostsDir holds a folder with hosts.toml or certificates for each registry,
	// as containerd's config_path does. It may appear later. "" : none.
	HostsDir string
	// Patience ends a resolution to which no host has given a usable answer for so long,
	// and one whose hosts were all silent a moment ago at once. 0: the engine's retries
	// decide.
	Patience time.Duration
	// Log receives debug lines. Nil is silent.
	Log *slog.Logger
}

// Client is a set of registries. Close it.
type Client struct {
	opts   Options
	spread *nic.Dialer // over Options.Interfaces; nil without them
	plain  endpoint    // for origins: no client certificates of any registry

	life   context.Context //nolint:containedctx // bounds logins, which outlive the request that caused them
	end    context.CancelFunc
	logins sync.WaitGroup

	reach reach

	mu      sync.Mutex // guards what follows; a leaf lock but for reads of files
	hosts   map[string][]*host
	retired []endpoint      // of hosts whose configuration has changed
	wrong   map[string]bool // names of hosts that sent wrong bytes
}

// endpoint is a pair of clients for one kind of peer. Neither follows redirects.
type endpoint struct {
	client, fresh *http.Client
	shared        bool // client's connections are somebody else's to close
}

// New returns a client.
func New(opts Options) (*Client, error) {
	if opts.Patience < 0 {
		return nil, fmt.Errorf("patience of %v: use 0 for none, or a positive duration", opts.Patience)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts, hosts: make(map[string][]*host)}
	if len(opts.Interfaces) > 0 && opts.HTTPClient == nil && opts.Dial == nil {
		var err error
		if c.spread, err = nic.New(nic.Options{Locals: opts.Interfaces, Timeout: dialTimeout, KeepAlive: keepAlive}); err != nil {
			return nil, err
		}
		c.opts.Dial = c.spread.DialContext
	}
	c.life, c.end = context.WithCancel(context.Background())
	if opts.HTTPClient != nil {
		c.plain = pair(opts.HTTPClient)
	} else {
		c.plain.client, c.plain.fresh = httprange.NewClients(c.opts.Dial, nil)
	}
	return c, nil
}

// pair makes the endpoint of a client that somebody else made.
func pair(base *http.Client) endpoint {
	client := *base
	client.CheckRedirect = stay
	shared := client.Transport != nil
	if !shared {
		client.Transport = httprange.NewTransport(nil)
	}
	e := endpoint{client: &client, fresh: &client, shared: shared}
	if tr, ok := client.Transport.(*http.Transport); ok {
		tr = tr.Clone()
		tr.DisableKeepAlives = true
		fresh := client
		fresh.Transport = tr
		e.fresh = &fresh
	}
	return e
}

// direct gives the clients of an endpoint the short way for plain GETs.
func direct(e endpoint) endpoint {
	for _, c := range []*http.Client{e.client, e.fresh} {
		if tr, ok := c.Transport.(*http.Transport); ok {
			c.Transport = httprange.NewDirect(tr)
		}
	}
	return e
}

func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close ends logins and drops idle connections. Requests must have ended.
func (c *Client) Close() {
	c.end()
	c.logins.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plain.closeIdle()
	for _, hs := range c.hosts {
		for _, h := range hs {
			h.closeIdle()
		}
	}
	for _, e := range c.retired {
		e.closeIdle()
	}
}

// closeIdle closes the connections that no request uses.
func (e endpoint) closeIdle() {
	if !e.shared {
		e.client.CloseIdleConnections()
	}
	if e.fresh != e.client {
		e.fresh.CloseIdleConnections()
	}
}

// resolvers are the hosts that may say what a tag means.
func resolvers(hs []*host) []*host {
	return slices.DeleteFunc(slices.Clone(hs), func(h *host) bool { return !h.canResolve })
}
