package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
)

const (
	// tokenTimeout bounds one request to a token server, with its connection.
	tokenTimeout = 10 * time.Second
	// maxToken bounds a token server's answer: real ones are below 16 KiB.
	maxToken = 1 << 20
	// defaultExpiry is the lifetime of a token whose answer does not state one
	// (token specification of the distribution project).
	defaultExpiry = 60 * time.Second
	// maxExpiry bounds the lifetime in an answer, in seconds, because some
	// servers send huge numbers for "never". It is a year.
	maxExpiry = 365 * 24 * 60 * 60
	userAgent = "penstock"
)

// tokenRequest holds the parameters of a request for a token.
type tokenRequest struct {
	realm   string
	service string
	scopes  []string
	cred    Credential
}

// tokenRequest returns the answer to a Bearer challenge. It guesses the scope
// only if the challenge has none, because a server refuses a request with any
// unknown scope.
func (s *session) tokenRequest(ch *auth.Challenge, cred Credential) (tokenRequest, error) {
	t := tokenRequest{realm: ch.Parameters["realm"], service: ch.Parameters["service"], cred: cred}
	if t.realm == "" {
		return t, denied(http.StatusUnauthorized, errors.New("the registry requires a token but names no token server"))
	}
	if err := checkRealm(t.realm, s.host.insecure, s.host.dialer.scope()); err != nil {
		return t, denied(0, err)
	}
	t.scopes = strings.Fields(ch.Parameters["scope"])
	if len(t.scopes) == 0 {
		t.scopes = []string{"repository:" + s.repo + ":pull"}
	}
	return t, nil
}

// fetchToken requests a token: by OAuth2 POST if there is a secret and the
// server supports POST, otherwise by GET.
func (s *session) fetchToken(ctx context.Context, t tokenRequest) (header string, expires time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tokenTimeout, fmt.Errorf("no answer within %v", tokenTimeout))
	defer cancel()
	secret := cmp.Or(t.cred.IdentityToken, t.cred.Password)
	if secret != "" {
		header, expires, err = s.askToken(ctx, t.post)
		// Registries that do not support POST answer 404 (GCR), 405, 401
		// (Artifactory) or 400 (ACR). The list is containerd's.
		f, _ := errors.AsType[*ranges.Fault](err)
		other := f != nil && (f.Status == 404 || f.Status == 401 || f.Status == 400 || f.Status == 405)
		if err == nil || !other || t.cred.IdentityToken != "" || t.cred.Username == "" {
			return header, expires, err
		}
	}
	return s.askToken(ctx, t.get)
}

func (t tokenRequest) post(ctx context.Context) (*http.Request, error) {
	form := url.Values{"service": {t.service}, "client_id": {userAgent}, "scope": {strings.Join(t.scopes, " ")}}
	if t.cred.IdentityToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", t.cred.IdentityToken)
	} else {
		form.Set("grant_type", "password")
		form.Set("username", t.cred.Username)
		form.Set("password", t.cred.Password)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.realm, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return req, nil
}

func (t tokenRequest) get(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.realm, nil)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	if t.service != "" {
		q.Add("service", t.service)
	}
	for _, scope := range t.scopes {
		q.Add("scope", scope)
	}
	req.URL.RawQuery = q.Encode()
	if secret := cmp.Or(t.cred.IdentityToken, t.cred.Password); secret != "" {
		req.SetBasicAuth(t.cred.Username, secret)
	}
	return req, nil
}

// askToken makes one request to the token server. It adds the header that
// hosts.toml sets only if the host is its own token server.
func (s *session) askToken(ctx context.Context, make func(context.Context) (*http.Request, error)) (string, time.Time, error) {
	none := time.Time{}
	req, err := make(ctx)
	if err != nil {
		return "", none, denied(0, fmt.Errorf("token server: %w", cause(err)))
	}
	req.Header.Set("User-Agent", userAgent)
	if sameHost(req.URL.String(), s.host.base) {
		addHeader(req, s.host.header)
	}
	where := httprange.RedactURL(req.URL.String())
	where, _, _ = strings.Cut(where, "?")
	client, end := s.host.tokenClient(req.URL.Host)
	defer end()
	resp, err := client.Do(req)
	if err != nil {
		err = cause(err)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		kind := ranges.Retryable
		if errors.Is(err, errScope) {
			kind = ranges.Denied
		}
		return "", none, &ranges.Fault{Kind: kind, Err: fmt.Errorf("token from %s: %w", where, err)}
	}
	defer resp.Body.Close()
	s.wait.answered(resp.StatusCode)
	if resp.StatusCode != http.StatusOK {
		return "", none, tokenFault(where, resp)
	}
	var answer struct {
		Token   string `json:"token"`
		Access  string `json:"access_token"` // the same, by OAuth2
		Expires int    `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxToken)).Decode(&answer); err != nil {
		// The error of the decoder could quote a token.
		return "", none, &ranges.Fault{Kind: ranges.Retryable, Status: resp.StatusCode, Err: fmt.Errorf("token from %s: the answer is not JSON", where)}
	}
	token := cmp.Or(answer.Access, answer.Token)
	if token == "" {
		return "", none, denied(resp.StatusCode, fmt.Errorf("token from %s: the answer has no token", where))
	}
	return "Bearer " + token, expiry(answer.Expires, time.Now()), nil
}

// expiry returns the time at which a token expires that is valid for seconds
// from now.
func expiry(seconds int, now time.Time) time.Time {
	if seconds <= 0 {
		return now.Add(defaultExpiry)
	}
	return now.Add(time.Duration(min(seconds, maxExpiry)) * time.Second)
}

// tokenFault classifies an answer without a token.
func tokenFault(where string, resp *http.Response) *ranges.Fault {
	code := resp.StatusCode
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	said := ""
	if s := strings.TrimSpace(string(text)); s != "" {
		said = ": " + printable.Line(s, maxQuoted)
	}
	switch {
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		after, _ := httprange.ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
		return &ranges.Fault{Kind: ranges.Throttled, Status: code, RetryAfter: after, Err: fmt.Errorf("token from %s: status %d", where, code)}
	case code >= 500:
		return &ranges.Fault{Kind: ranges.Retryable, Status: code, Err: fmt.Errorf("token from %s: status %d", where, code)}
	case code/100 == 3:
		return denied(code, fmt.Errorf("token from %s: it redirects, and token requests do not follow redirects", where))
	}
	return denied(code, fmt.Errorf("token from %s: status %d: wrong credentials, or no right to pull%s", where, code, said))
}
