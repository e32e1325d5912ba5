package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
)

// Credential opens a registry. The zero Credential is anonymous.
type Credential struct {
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, in place of the password.
	IdentityToken string
	// RegistryToken is sent as it is, as a bearer token.
	RegistryToken string
}

// DockerCredentials looks a host up where docker login and podman login leave
// what they were told, credential helpers included. That is by host, so the
// repository makes no difference.
func DockerCredentials(ctx context.Context, host, _ string) (Credential, error) {
	if host == "registry-1.docker.io" || host == hub {
		host = name.DefaultRegistry
	}
	reg, err := name.NewRegistry(host, name.WeakValidation)
	if err != nil {
		return Credential{}, err
	}
	a, err := authn.Resolve(ctx, authn.DefaultKeychain, reg)
	if err != nil {
		return Credential{}, fmt.Errorf("docker credentials for %s: %w", host, err)
	}
	cfg, err := authn.Authorization(ctx, a)
	if err != nil {
		return Credential{}, fmt.Errorf("docker credentials for %s: %w", host, err)
	}
	return Credential{
		Username: cfg.Username, Password: cfg.Password,
		IdentityToken: cfg.IdentityToken, RegistryToken: cfg.RegistryToken,
	}, nil
}

// sessionKey: tokens are scoped to a repository.
type sessionKey struct{ host, repository string }

// session is the authorization for one repository at one host. containerd's own
// authorizer is not used: it asks for one token for each request that was
// refused, and keeps the failure of a cancelled one.
type session struct {
	c    *Client
	host *host
	repo string

	mu      sync.Mutex // guards what follows; never held over a request
	header  string     // value of Authorization; "" while none is needed
	expires time.Time  // zero: the server did not say
	serial  int        // counts headers: a refusal of an old one is no news
	pending *refresh
	last    *auth.Challenge // what to refresh for, before the server must refuse
}

// refresh is one attempt to get a header, which any number of requests wait for.
type refresh struct {
	done chan struct{}
	err  error
}

// tokenTimeout bounds one token request with its connection. It runs apart from
// the request that caused it.
const tokenTimeout = 30 * time.Second

func (c *Client) session(h *host, repository string) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := sessionKey{h.base, repository}
	s := c.sessions[key]
	if s == nil {
		s = &session{c: c, host: h, repo: repository}
		c.sessions[key] = s
	}
	return s
}

// authorize puts the current header on a request and returns its serial. A token
// known to be out of date is renewed first.
func (s *session) authorize(ctx context.Context, req *http.Request) (int, error) {
	for k, v := range s.host.header {
		req.Header[k] = append(req.Header[k], v...)
	}
	s.mu.Lock()
	stale := s.last != nil && !s.expires.IsZero() && !time.Now().Before(s.expires)
	challenge, serial := s.last, s.serial
	s.mu.Unlock()
	if stale {
		if err := s.renew(ctx, challenge, serial); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header != "" {
		req.Header.Set("Authorization", s.header)
	}
	return s.serial, nil
}

// refused answers a refusal of a request that carried the header of serial. Nil means
// that it is worth to ask again, once. A refusal without a challenge is about what we
// logged in with last.
func (s *session) refused(ctx context.Context, ch *challenged, serial int) error {
	all := auth.ParseAuthHeader(ch.header)
	i := slices.IndexFunc(all, func(c auth.Challenge) bool {
		return c.Scheme == auth.BearerAuth || c.Scheme == auth.BasicAuth
	})
	if i >= 0 {
		return s.renew(ctx, &all[i], serial)
	}
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if ch.status == http.StatusUnauthorized || last == nil {
		return errors.New("the registry refuses us without saying how to log in")
	}
	return s.renew(ctx, last, serial)
}

// renew gets a new header unless that has happened since serial; one request does
// it, the others wait.
func (s *session) renew(ctx context.Context, challenge *auth.Challenge, serial int) error {
	s.mu.Lock()
	if s.serial != serial {
		s.mu.Unlock()
		return nil
	}
	r := s.pending
	if r == nil {
		r = &refresh{done: make(chan struct{})}
		s.pending = r
		s.c.logins.Go(func() { s.run(r, challenge) })
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run ends within tokenTimeout, or with the client.
func (s *session) run(r *refresh, challenge *auth.Challenge) {
	ctx, cancel := context.WithTimeout(s.c.life, tokenTimeout)
	defer cancel()
	header, expires, err := s.login(ctx, challenge)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.err = err; err == nil {
		s.header, s.expires, s.last = header, expires, challenge
		s.serial++
	}
	s.pending = nil
	close(r.done)
}

// login turns a challenge into the value of an Authorization header.
func (s *session) login(ctx context.Context, ch *auth.Challenge) (string, time.Time, error) {
	lookup := s.c.opts.Credentials
	if lookup == nil {
		lookup = DockerCredentials
	}
	host := s.host.name
	if host == "registry-1.docker.io" {
		host = hub // the name that people know
	}
	cred, err := lookup(ctx, host, s.repo)
	if err != nil {
		return "", time.Time{}, denied(0, err)
	}
	if cred.RegistryToken != "" {
		return "Bearer " + cred.RegistryToken, time.Time{}, nil
	}
	if ch.Scheme == auth.BasicAuth {
		if cred.Username == "" && cred.Password == "" {
			return "", time.Time{}, denied(http.StatusUnauthorized, fmt.Errorf("registry %s wants a user and password, and none is configured (docker login %[1]s)", s.host.name))
		}
		pair := base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
		return "Basic " + pair, time.Time{}, nil
	}
	secret := cred.Password
	if cred.IdentityToken != "" {
		cred.Username, secret = "", cred.IdentityToken
	}
	opts, err := auth.GenerateTokenOptions(ctx, s.host.name, cred.Username, secret, *ch)
	if err != nil {
		return "", time.Time{}, denied(http.StatusUnauthorized, err)
	}
	if secret != "" && !s.mayTell(opts.Realm) {
		return "", time.Time{}, denied(0, fmt.Errorf("token server %s is not https: the password is not sent there", httprange.RedactURL(opts.Realm)))
	}
	if want := "repository:" + s.repo + ":pull"; !slices.Contains(opts.Scopes, want) {
		opts.Scopes = append(opts.Scopes, want)
	}
	return s.fetchToken(ctx, opts)
}

// mayTell reports whether a secret may be sent to a token server: over https, or to
// a registry that itself is http by choice.
func (s *session) mayTell(realm string) bool {
	u, err := url.Parse(realm)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || s.host.insecure || u.Hostname() == "localhost" || ip.IsLoopback()
}

// fetchToken asks for a token: by OAuth2 POST when there is a secret, else, or when
// the server does not know that, by GET.
func (s *session) fetchToken(ctx context.Context, opts auth.TokenOptions) (string, time.Time, error) {
	client := *s.host.client
	client.Transport = boundedBodies{client.Transport}
	if opts.Secret != "" {
		resp, err := auth.FetchTokenWithOAuth(ctx, &client, s.host.header, "penstock", opts)
		if err == nil {
			return "Bearer " + resp.AccessToken, expiry(resp.ExpiresInSeconds), nil
		}
		// Registries without the POST answer 404 (GCR), 405, 401 (Artifactory) or
		// 400 (ACR): containerd's list.
		code := statusOf(err)
		get := code == 404 || code == 401 || code == 400 || code == 405
		if !get || opts.Username == "" {
			return "", time.Time{}, tokenFault(opts.Realm, err)
		}
	}
	resp, err := auth.FetchToken(ctx, &client, s.host.header, opts)
	if err != nil {
		return "", time.Time{}, tokenFault(opts.Realm, err)
	}
	return "Bearer " + resp.Token, expiry(resp.ExpiresInSeconds), nil
}

// maxToken bounds a token server's answer: real ones are below 16 KiB.
const maxToken = 1 << 20

// boundedBodies cuts bodies at maxToken, for a decoder that would read for ever.
type boundedBodies struct{ base http.RoundTripper }

func (b boundedBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxToken), resp.Body}
	}
	return resp, err
}

func expiry(seconds int) time.Time {
	if seconds <= 0 {
		return time.Time{} // unknown: the 401 will tell
	}
	return time.Now().Add(time.Duration(seconds) * time.Second)
}

func statusOf(err error) int {
	if e, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		return e.StatusCode
	}
	return 0
}

// tokenFault classifies what a token server answered.
func tokenFault(realm string, err error) *ranges.Fault {
	code := statusOf(err)
	where := httprange.RedactURL(realm)
	switch {
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return &ranges.Fault{Kind: ranges.Throttled, Status: code, Err: fmt.Errorf("token from %s: status %d", where, code)}
	case code >= 500:
		return &ranges.Fault{Kind: ranges.Retryable, Status: code, Err: fmt.Errorf("token from %s: status %d", where, code)}
	case code != 0:
		return denied(code, fmt.Errorf("token from %s: status %d: wrong credentials, or no right to pull", where, code))
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // its own message repeats the URL with its query
	}
	return &ranges.Fault{Kind: ranges.Retryable, Err: fmt.Errorf("token from %s: %w", where, err)}
}

func denied(status int, err error) *ranges.Fault {
	return &ranges.Fault{Kind: ranges.Denied, Status: status, Err: err}
}
