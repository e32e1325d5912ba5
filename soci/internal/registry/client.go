package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"

	"github.com/penstock/penstock/internal/httprange"
)

// Options configure a client. The zero value works.
type Options struct {
	// HTTPClient, if set, is used for everything: its transport is taken, its
	// redirect policy is not. TLS settings of hosts.toml do not apply to it.
	HTTPClient *http.Client
	// Dial makes connections when HTTPClient is nil.
	Dial httprange.DialContext
	// PlainHTTP talks http to registries that hosts.toml says nothing about.
	// Loopback ones get http anyway.
	PlainHTTP bool
	// Credentials returns what to log in to a host with for a repository. Nil:
	// docker's config.json and its credential helpers, then podman's auth.json.
	Credentials func(ctx context.Context, host, repository string) (Credential, error)
	// HostsDir holds a folder with hosts.toml or certificates for each registry,
	// as containerd's config_path does. "" : none.
	HostsDir string
	// Log receives debug lines. Nil is silent.
	Log *slog.Logger
}

// Client is a set of registries. Close it.
type Client struct {
	opts  Options
	plain endpoint // for origins: no client certificates of any registry

	life   context.Context //nolint:containedctx // bounds logins, which outlive the request that caused them
	end    context.CancelFunc
	logins sync.WaitGroup

	mu       sync.Mutex // guards what follows; a leaf lock
	hosts    map[string][]*host
	sessions map[sessionKey]*session
	wrong    map[string]bool // names of hosts that sent wrong bytes
}

// endpoint is a pair of clients for one kind of peer. Neither follows redirects.
type endpoint struct {
	client, fresh *http.Client
	shared        bool // client's connections are somebody else's to close
}

// host is one place that serves a registry.
type host struct {
	endpoint
	name       string // host:port; the key of credentials
	base       string // URL up to and including /v2
	header     http.Header
	canResolve bool
	insecure   bool // http by choice of the user or on loopback
}

// New returns a client.
func New(opts Options) (*Client, error) {
	if opts.HostsDir != "" {
		if fi, err := os.Stat(opts.HostsDir); err != nil || !fi.IsDir() {
			return nil, fmt.Errorf("hosts directory %q is not a directory", opts.HostsDir)
		}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts, hosts: make(map[string][]*host), sessions: make(map[sessionKey]*session)}
	c.life, c.end = context.WithCancel(context.Background())
	if opts.HTTPClient != nil {
		c.plain = pair(opts.HTTPClient)
	} else {
		c.plain.client, c.plain.fresh = httprange.NewClients(opts.Dial, nil)
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
	close := func(e endpoint) {
		if !e.shared {
			e.client.CloseIdleConnections()
		}
		if e.fresh != e.client {
			e.fresh.CloseIdleConnections()
		}
	}
	close(c.plain)
	for _, hs := range c.hosts {
		for _, h := range hs {
			close(h.endpoint)
		}
	}
}

// hostsOf returns the places that serve the registry of ref, mirrors first.
func (c *Client) hostsOf(ref Reference) ([]*host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hs := c.hosts[ref.Host]; hs != nil {
		return hs, nil
	}
	hs, err := c.configure(ref.Host)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", ref.Host, err)
	}
	if len(hs) == 0 {
		return nil, fmt.Errorf("registry %s: hosts.toml leaves no host to pull from", ref.Host)
	}
	c.hosts[ref.Host] = hs
	return hs, nil
}

// configure asks containerd's configuration code for the hosts of a registry.
func (c *Client) configure(registry string) ([]*host, error) {
	loopback, err := docker.MatchLocalhost(registry)
	if err != nil {
		return nil, err
	}
	opts := dockerconfig.HostOptions{UpdateClient: c.tune}
	if c.opts.HostsDir != "" {
		opts.HostDir = dockerconfig.HostDirFromRoot(c.opts.HostsDir)
	}
	if c.opts.PlainHTTP || loopback {
		opts.DefaultScheme = "http"
	}
	found, err := dockerconfig.ConfigureHosts(context.Background(), opts)(registry)
	if err != nil {
		return nil, err
	}
	var out []*host
	for _, f := range found {
		if !f.Capabilities.Has(docker.HostCapabilityPull) {
			continue
		}
		h := &host{
			name:       f.Host,
			base:       f.Scheme + "://" + f.Host + f.Path,
			header:     f.Header,
			canResolve: f.Capabilities.Has(docker.HostCapabilityResolve),
			insecure:   f.Scheme == "http",
		}
		if c.opts.HTTPClient != nil {
			h.endpoint = c.plain
		} else {
			h.endpoint = direct(pair(f.Client))
			h.shared = false
		}
		out = append(out, h)
	}
	return out, nil
}

// tune makes a client of containerd's fit for bulk: its transport keeps two
// idle connections and asks for compression.
func (c *Client) tune(client *http.Client) error {
	tr, ok := client.Transport.(*http.Transport)
	if !ok {
		return errors.New("unknown transport")
	}
	bulk := httprange.NewTransport(c.opts.Dial)
	bulk.TLSClientConfig = tr.TLSClientConfig
	client.Transport = bulk
	client.CheckRedirect = stay
	return nil
}

// resolvers are the hosts that may say what a tag means.
func resolvers(hs []*host) []*host {
	return slices.DeleteFunc(slices.Clone(hs), func(h *host) bool { return !h.canResolve })
}
