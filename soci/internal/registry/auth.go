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

// logins holds the sessions of one pull, one per host. They, and the secrets in
// them, live as long as the resolved Image; the next pull logs in again.
type logins struct {
	c    *Client
	ref  Reference
	wait *answerTimer // of Resolve, or nil

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

// session is the authorization for one repository at one host. It replaces
// containerd's authorizer, which requests a token for every refused request,
// and which remembers the failure of a cancelled request.
type session struct {
	c    *Client
	host *host
	repo string
	wait *answerTimer

	mu      sync.Mutex // guards the fields below; not held during requests
	header  string     // value of Authorization; "" until one is needed
	expires time.Time  // zero if never
	serial  int        // counts headers, so that refusals of an old one are ignored
	pending *refresh
	last    *auth.Challenge // the challenge to answer when the header has expired, before the server refuses it
}

// refresh is one attempt to get a header, which any number of requests may wait
// for.
type refresh struct {
	done chan struct{}
	err  error
}

// loginTimeout bounds a login: the look-up of credentials, which may run a
// helper, and the request for a token. A login does not end with the request
// that caused it.
const loginTimeout = helperTimeout + tokenTimeout

// authorize adds the current header to a request and returns its serial. It
// renews an expired token first.
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

// addHeader adds the header that hosts.toml sets for the host of a request.
func addHeader(req *http.Request, header http.Header) {
	for k, v := range header {
		req.Header[k] = append(req.Header[k], v...)
	}
}

// refused handles the refusal of a request that carried the header of serial.
// If it returns nil, the caller should repeat the request once.
func (s *session) refused(ctx context.Context, ch *challenged, serial int) error {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	next := answerTo(auth.ParseAuthHeader(ch.header), ch.status, last)
	if next == nil {
		return errors.New("the registry refused the request without naming a way to log in")
	}
	return s.renew(ctx, next, serial)
}

// answerTo chooses the challenge to log in for, which is the first one in a
// refusal that we can answer. There are two exceptions, in which the last
// Bearer challenge is answered again: a Basic challenge after a Bearer one,
// with which Harbor refuses an expired token, and a 403 without a challenge.
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

// renew gets a new header, unless the session already has a newer one than
// serial. If several requests call renew, one login serves all of them.
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
		s.c.logins.Go(func() { s.runRefresh(r, challenge) })
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runRefresh logs in. It ends within loginTimeout, or with the client.
func (s *session) runRefresh(r *refresh, challenge *auth.Challenge) {
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

// login turns a challenge into the value of an Authorization header. It logs in
// as anonymous if there are no credentials or they could not be looked up.
func (s *session) login(ctx context.Context, ch *auth.Challenge) (string, time.Time, error) {
	cred, failed := s.lookup(ctx)
	if failed != nil {
		if ctx.Err() != nil {
			return "", time.Time{}, denied(0, failed)
		}
		s.c.opts.Log.WarnContext(ctx, "no credentials, asking as anonymous", "host", s.host.name, "repository", s.repo, "err", failed)
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
			return "", time.Time{}, because(denied(http.StatusUnauthorized, fmt.Errorf("registry %s requires a user and password, but none is configured (docker login %[1]s)", s.host.name)))
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

// lookup looks up the credentials. It pauses the answer timer, because the time
// that a credential helper takes says nothing about the registry.
func (s *session) lookup(ctx context.Context) (Credential, error) {
	resume := s.wait.pause()
	defer resume()
	lookup := s.c.opts.Credentials
	if lookup == nil {
		lookup = DockerCredentials
	}
	host := s.host.name
	if host == "registry-1.docker.io" {
		host = hub // the name that users log in to
	}
	return lookup(ctx, host, s.repo)
}

func denied(status int, err error) *ranges.Fault {
	return &ranges.Fault{Kind: ranges.Denied, Status: status, Err: err}
}
