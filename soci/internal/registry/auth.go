package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/penstock/penstock/internal/ranges"
)

// logins are the sessions of one pull, one for each host. They, and the secrets in them, live
// as long as what was resolved: the next pull logs in anew.
type logins struct {
	c    *Client
	ref  Reference
	wait *patience // of Resolve; nil: none

	mu  sync.Mutex // guards all; a leaf lock
	all map[*host]*session
}

func (c *Client) newLogins(ref Reference) *logins {
	return &logins{c: c, ref: ref, all: make(map[*host]*session)}
}

func (l *logins) session(h *host) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.all[h]
	if s == nil {
		s = &session{c: l.c, host: h, repo: l.ref.Repository, wait: l.wait}
		l.all[h] = s
	}
	return s
}

// session is the authorization for one repository at one host. containerd's own
// authorizer is not used: it asks for one token for each request that was
// refused, and keeps the failure of a cancelled one.
type session struct {
	c    *Client
	host *host
	repo string
	wait *patience

	mu      sync.Mutex // guards what follows; never held over a request
	header  string     // value of Authorization; "" while none is needed
	expires time.Time  // zero: never
	serial  int        // counts headers: a refusal of an old one is no news
	pending *refresh
	last    *auth.Challenge // what to refresh for, before the server must refuse
}

// refresh is one attempt to get a header, which any number of requests wait for.
type refresh struct {
	done chan struct{}
	err  error
}

// loginTimeout bounds a login: the look-up of credentials, which may run a helper, and the
// request of a token. It runs apart from the request that caused it.
const loginTimeout = helperTimeout + tokenTimeout

// authorize puts the current header on a request and returns its serial. A token
// known to be out of date is renewed first.
func (s *session) authorize(ctx context.Context, req *http.Request) (int, error) {
	addHeader(req, s.host.header)
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

// addHeader adds the header of hosts.toml to a request to that host.
func addHeader(req *http.Request, header http.Header) {
	for k, v := range header {
		req.Header[k] = append(req.Header[k], v...)
	}
}

// refused answers a refusal of a request that carried the header of serial. Nil means
// that it is worth to ask again, once.
func (s *session) refused(ctx context.Context, ch *challenged, serial int) error {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	next := answerTo(auth.ParseAuthHeader(ch.header), ch.status, last)
	if next == nil {
		return errors.New("the registry refuses us without saying how to log in")
	}
	return s.renew(ctx, next, serial)
}

// answerTo chooses the challenge to log in for: of those in a refusal the first that we can
// answer. Harbor refuses a token that has expired with a Basic challenge: then the token is
// renewed as before. A 403 without a challenge is about the login before it.
func answerTo(all []auth.Challenge, status int, last *auth.Challenge) *auth.Challenge {
	i := slices.IndexFunc(all, func(c auth.Challenge) bool {
		return c.Scheme == auth.BearerAuth || c.Scheme == auth.BasicAuth
	})
	switch {
	case i < 0 && status == http.StatusUnauthorized:
		return nil
	case i < 0, all[i].Scheme == auth.BasicAuth && last != nil && last.Scheme == auth.BearerAuth:
		return last
	}
	return &all[i]
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

// run ends within loginTimeout, or with the client.
func (s *session) run(r *refresh, challenge *auth.Challenge) {
	ctx, cancel := context.WithTimeout(s.c.life, loginTimeout)
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

// login turns a challenge into the value of an Authorization header. Without credentials,
// because there are none or because they could not be looked up, it asks as anybody may.
func (s *session) login(ctx context.Context, ch *auth.Challenge) (string, time.Time, error) {
	cred, failed := s.lookup(ctx)
	if failed != nil {
		if ctx.Err() != nil {
			return "", time.Time{}, denied(0, failed)
		}
		s.c.opts.Log.WarnContext(ctx, "no credentials, asking as anonymous", "host", s.host.name, "repository", s.repo, "error", failed)
	}
	because := func(err error) error {
		if f, ok := errors.AsType[*ranges.Fault](err); ok && f.Kind != ranges.Denied || failed == nil {
			return err
		}
		return denied(http.StatusUnauthorized, fmt.Errorf("%w (asked as anonymous: %w)", err, failed))
	}
	if cred.RegistryToken != "" {
		return "Bearer " + cred.RegistryToken, time.Time{}, nil
	}
	if ch.Scheme == auth.BasicAuth {
		if cred.Username == "" && cred.Password == "" {
			return "", time.Time{}, because(denied(http.StatusUnauthorized, fmt.Errorf("registry %s wants a user and password, and none is configured (docker login %[1]s)", s.host.name)))
		}
		pair := base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
		return "Basic " + pair, time.Time{}, nil
	}
	t, err := s.tokenRequest(ch, cred)
	if err == nil {
		var header string
		var expires time.Time
		if header, expires, err = s.fetchToken(ctx, t); err == nil {
			return header, expires, nil
		}
	}
	return "", time.Time{}, because(err)
}

// lookup asks for credentials. That a helper takes its time says nothing of the registry.
func (s *session) lookup(ctx context.Context) (Credential, error) {
	resume := s.wait.pause()
	defer resume()
	lookup := s.c.opts.Credentials
	if lookup == nil {
		lookup = DockerCredentials
	}
	host := s.host.name
	if host == "registry-1.docker.io" {
		host = hub // the name that people know
	}
	return lookup(ctx, host, s.repo)
}

func denied(status int, err error) *ranges.Fault {
	return &ranges.Fault{Kind: ranges.Denied, Status: status, Err: err}
}
