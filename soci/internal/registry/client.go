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
	// HTTPClient, if set, makes all requests, with its transport but not its
	// redirect policy. The TLS settings and dial_timeout of hosts.toml do not
	// apply to it. Token servers are then checked only by the addresses in
	// their URLs, not by the addresses that names resolve to.
	HTTPClient *http.Client
	// Dial makes connections when HTTPClient is nil.
	Dial httprange.DialContext
	// Interfaces are the interfaces and local addresses over which connections
	// are spread when HTTPClient and Dial are nil. If it is empty, the routing
	// table chooses.
	Interfaces []string
	// PlainHTTP uses http for registries that hosts.toml does not mention.
	// Registries on loopback addresses are always asked over http.
	PlainHTTP bool
	// Credentials returns the credential for a repository at a host. Default:
	// docker's config.json and its credential helpers, then podman's auth.json.
	Credentials func(ctx context.Context, host, repository string) (Credential, error)
	// HostsDir holds a folder with hosts.toml or certificates for each
	// registry, like containerd's config_path. It may be created later.
	// Default: no folder.
	HostsDir string
	// Patience is the time without a usable answer from any host after which a
	// resolution fails. With a Patience, a resolution fails at once if all its
	// hosts were silent shortly before. Default: 0, which leaves giving up to
	// the engine's retries.
	Patience time.Duration
	// Log receives debug lines. Default: no log.
	Log *slog.Logger
}

// Client is a client of any number of registries. New makes it, and Close must
// be called after its last use.
type Client struct {
	opts   Options
	spread *nic.Dialer // over Options.Interfaces; nil without them
	plain  endpoint    // for origins, without the client certificates of a registry

	life   context.Context //nolint:containedctx // bounds logins, which outlive the request that caused them
	end    context.CancelFunc
	logins sync.WaitGroup

	health hostHealth

	mu      sync.Mutex // guards the fields below; held while files are read, otherwise a leaf lock
	hosts   map[string][]*host
	retired []endpoint      // endpoints of hosts whose configuration has changed
	wrong   map[string]bool // names of hosts that sent wrong bytes
}

// endpoint is a pair of clients for one kind of peer. The fresh client uses a
// new connection for each request. Neither follows redirects.
type endpoint struct {
	client, fresh *http.Client
	shared        bool // client belongs to the caller, which closes its connections
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
		if c.spread, err = nic.New(nic.Options{Locals: opts.Interfaces, Timeout: dialTimeout}); err != nil {
			return nil, err
		}
		c.opts.Dial = c.spread.DialContext
	}
	c.life, c.end = context.WithCancel(context.Background())
	if opts.HTTPClient != nil {
		c.plain = endpointOf(opts.HTTPClient)
	} else {
		c.plain.client, c.plain.fresh = httprange.NewClients(c.opts.Dial, nil)
	}
	return c, nil
}

// endpointOf returns the endpoint for an http.Client that the caller of New
// provided.
func endpointOf(base *http.Client) endpoint {
	client := *base
	client.CheckRedirect = noRedirects
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

// withDirect gives the clients of an endpoint httprange's transport for plain
// GETs.
func withDirect(e endpoint) endpoint {
	for _, c := range []*http.Client{e.client, e.fresh} {
		if tr, ok := c.Transport.(*http.Transport); ok {
			c.Transport = httprange.NewDirect(tr)
		}
	}
	return e
}

func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close ends logins and closes idle connections. All requests must have ended.
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

// resolvers returns the hosts that may resolve tags.
func resolvers(hs []*host) []*host {
	return slices.DeleteFunc(slices.Clone(hs), func(h *host) bool { return !h.canResolve })
}
