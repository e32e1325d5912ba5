package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/soci/internal/containerdlog"
)

// host serves the content of a registry. It is replaced if its configuration
// changes.
type host struct {
	endpoint
	config hostConfig
	dialer *dialer

	name       string // host:port; the key of credentials
	base       string // URL up to and including /v2
	header     http.Header
	canResolve bool
	insecure   bool // http, by configuration or on loopback
	answered   atomic.Bool
	// tokens is the transport for token servers, or nil if the caller provided
	// the client.
	tokens *http.Transport
}

// hostConfig is the configuration of a host in the files.
type hostConfig struct {
	scheme, host, path string
	capabilities       docker.HostCapabilities
	header             http.Header
	tls                *tls.Config // nil means the system's
	dialTimeout        time.Duration
	fallback           bool // https first, then http, like containerd for ambiguous ports
}

// equal reports whether two configurations result in the same requests.
func (c hostConfig) equal(d hostConfig) bool {
	return c.scheme == d.scheme && c.host == d.host && c.path == d.path && c.capabilities == d.capabilities &&
		c.dialTimeout == d.dialTimeout && c.fallback == d.fallback &&
		maps.EqualFunc(c.header, d.header, slices.Equal) && equalTLS(c.tls, d.tls)
}

// equalTLS compares the fields that hosts.toml can set.
func equalTLS(a, b *tls.Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	pools := a.RootCAs == b.RootCAs || a.RootCAs != nil && b.RootCAs != nil && a.RootCAs.Equal(b.RootCAs)
	return pools && a.InsecureSkipVerify == b.InsecureSkipVerify && slices.EqualFunc(a.Certificates, b.Certificates, func(x, y tls.Certificate) bool {
		return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal)
	})
}

// hostsOf returns the hosts of the registry of ref, mirrors first. It reads the
// files for every image and layer, so a change takes effect with the next one,
// as with containerd. Unchanged hosts keep their connections.
func (c *Client) hostsOf(ref Reference) ([]*host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.hosts[ref.Host]
	found, err := c.configure(ref.Host)
	switch {
	case err != nil && before != nil: // another process may be writing or replacing a file
		c.opts.Log.Warn("cannot read the configuration of hosts, keeping the last one", "registry", ref.Host, "err", err)
		return before, nil
	case err != nil:
		return nil, fmt.Errorf("registry %s: %w", ref.Host, err)
	case len(found) == 0:
		return nil, fmt.Errorf("registry %s: hosts.toml leaves no host to pull from", ref.Host)
	}
	hs := make([]*host, len(found))
	for i, cfg := range found {
		if k := slices.IndexFunc(before, func(h *host) bool { return h.config.equal(cfg) }); k >= 0 {
			hs[i] = before[k]
		} else {
			hs[i] = c.newHost(cfg)
		}
	}
	for _, h := range before {
		if !slices.Contains(hs, h) {
			c.opts.Log.Info("configuration of a host has changed", "registry", ref.Host, "host", h.name)
			c.retired = append(c.retired, h.endpoint) // running requests still use it
		}
	}
	for _, e := range c.retired {
		e.closeIdle()
	}
	c.retired = c.retired[max(0, len(c.retired)-maxRetired):]
	c.hosts[ref.Host] = hs
	return hs, nil
}

// maxRetired bounds the number of retired endpoints that are kept, so that the
// idle connections of their last requests can be closed early. The connections
// of older ones are closed later, by a timer of the transport.
const maxRetired = 16

// newHost makes the clients of a host.
func (c *Client) newHost(cfg hostConfig) *host {
	h := &host{
		config:     cfg,
		name:       cfg.host,
		base:       cfg.scheme + "://" + cfg.host + cfg.path,
		header:     cfg.header,
		canResolve: cfg.capabilities.Has(docker.HostCapabilityResolve),
		insecure:   cfg.scheme == "http" || cfg.fallback,
		dialer:     newDialer(c.opts.Dial, cfg.host, cfg.dialTimeout),
	}
	h.dialer.spread = c.spread
	if c.opts.HTTPClient != nil {
		h.endpoint = c.plain
		return h
	}
	tr := httprange.NewTransport(h.dialer.DialContext)
	tr.TLSClientConfig = cfg.tls
	h.tokens = tr.Clone()
	h.tokens.DisableKeepAlives = true // one request per pull
	client := &http.Client{Transport: tr}
	if cfg.fallback {
		client.Transport = docker.NewHTTPFallback(tr)
	}
	h.endpoint = withDirect(endpointOf(client))
	h.shared = false
	return h
}

// tokenClient returns a client for a token server at a host:port, and a
// function that closes its connections.
func (h *host) tokenClient(realm string) (*http.Client, func()) {
	if h.tokens == nil {
		return h.client, func() {}
	}
	tr := h.tokens.Clone()
	tr.DialContext = h.dialer.toRealm(realm)
	return &http.Client{Transport: tr, CheckRedirect: noRedirects}, tr.CloseIdleConnections
}

// configure asks containerd's configuration code for the hosts of a registry.
func (c *Client) configure(registry string) ([]hostConfig, error) {
	loopback, err := docker.MatchLocalhost(registry)
	if err != nil {
		return nil, err
	}
	tuned := make(map[*http.Client]*http.Transport)
	opts := dockerconfig.HostOptions{UpdateClient: func(client *http.Client) error {
		tr, ok := client.Transport.(*http.Transport)
		if !ok {
			return errors.New("unknown transport")
		}
		tuned[client] = tr
		return nil
	}}
	var timeouts map[string]time.Duration
	if c.opts.HostsDir != "" {
		find := dockerconfig.HostDirFromRoot(c.opts.HostsDir)
		opts.HostDir = find
		if timeouts, err = dialTimeouts(find, registry); err != nil {
			return nil, err
		}
	}
	if c.opts.PlainHTTP || loopback {
		opts.DefaultScheme = "http"
	}
	ctx := containerdlog.With(context.Background(), c.opts.Log)
	found, err := dockerconfig.ConfigureHosts(ctx, opts)(registry)
	if err != nil {
		return nil, err
	}
	var out []hostConfig
	for _, f := range found {
		if !f.Capabilities.Has(docker.HostCapabilityPull) {
			continue
		}
		tr := tuned[f.Client]
		_, plain := f.Client.Transport.(*http.Transport)
		cfg := hostConfig{
			scheme: f.Scheme, host: f.Host, path: f.Path, capabilities: f.Capabilities, header: f.Header,
			dialTimeout: timeouts[f.Host], fallback: !plain,
		}
		if tr != nil && tr.TLSClientConfig != nil {
			cfg.tls = tr.TLSClientConfig.Clone()
			cfg.tls.NextProtos = nil
		}
		out = append(out, cfg)
	}
	return out, nil
}

// dialTimeouts reads dial_timeout from a registry's hosts.toml, by host, which
// containerd's code does not return. It fails if the file cannot be parsed;
// containerd's code would silently ignore all its hosts.
func dialTimeouts(find func(string) (string, error), registry string) (map[string]time.Duration, error) {
	dir, err := find(registry)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	file := filepath.Join(dir, "hosts.toml")
	data, err := readBounded(file, maxAuthFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	type entry struct {
		DialTimeout string `toml:"dial_timeout"`
	}
	var parsed struct {
		entry
		Server string           `toml:"server"`
		Host   map[string]entry `toml:"host"`
	}
	if err := toml.Unmarshal(data, &parsed); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out := make(map[string]time.Duration)
	put := func(server, value string) error {
		if value == "" {
			return nil
		}
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%s: dial_timeout %q of %q: write a duration, for example \"5s\"", file, value, server)
		}
		if !strings.HasPrefix(server, "http") {
			server = "https://" + server
		}
		u, err := url.Parse(server)
		if err != nil {
			return fmt.Errorf("%s: host %q: %w", file, server, cause(err))
		}
		out[u.Host] = d
		return nil
	}
	for server, e := range parsed.Host {
		if err := put(server, e.DialTimeout); err != nil {
			return nil, err
		}
	}
	if parsed.Server == "" {
		parsed.Server = registry
	}
	if parsed.Server == hub {
		parsed.Server = "registry-1.docker.io" // the name in containerd's code
	}
	return out, put(parsed.Server, parsed.DialTimeout)
}
