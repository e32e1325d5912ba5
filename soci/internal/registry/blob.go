package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
)

// Blob is the content of one digest in one repository. It implements
// [ranges.Source].
type Blob struct {
	c     *Client
	ref   Reference
	dgst  digest.Digest
	hosts []*host

	mu     sync.Mutex // guards what follows; a leaf lock
	origin origin     // where the blob's URL redirected to
	start  int        // index of the host that answered last
}

// origin is a presigned URL.
type origin struct {
	url     string
	referer string // the URL that led here: some stores refuse requests without
	serial  int    // counts origins, so that one refusal drops one URL
}

// Blob returns the source of a digest.
func (c *Client) Blob(ref Reference, dgst digest.Digest) (*Blob, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", dgst, err)
	}
	hs, err := c.hostsOf(ref)
	if err != nil {
		return nil, err
	}
	return &Blob{c: c, ref: ref, dgst: dgst, hosts: hs}, nil
}

// Host is the key under which the engine limits requests.
func (b *Blob) Host() string { return b.hosts[0].name }

// maxHops bounds a chain of redirects. One is usual; registries behind a CDN take two.
const maxHops = 4

// Open implements [ranges.Source]. The pin is the digest: all hosts and origins
// of a blob serve the same bytes, or the digest will tell.
func (b *Blob) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	req.Pin = ""
	if body, info, ok, err := b.fromOrigin(ctx, req); ok {
		return body, b.pinned(info), err
	}
	b.mu.Lock()
	start := b.start
	b.mu.Unlock()
	var first error
	for i := range b.hosts {
		n := (start + i) % len(b.hosts)
		body, info, err := b.fromHost(ctx, n, req)
		switch {
		case err == nil:
			b.prefer(n)
			return body, b.pinned(info), nil
		case ctx.Err() != nil:
			return nil, info, err
		case temporary(err):
			b.prefer((n + 1) % len(b.hosts)) // for when the engine asks again
			return nil, info, err
		case first == nil:
			first = err
		}
	}
	return nil, ranges.Info{Size: -1}, first
}

func (b *Blob) prefer(host int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.start = host
}

func (b *Blob) pinned(info ranges.Info) ranges.Info {
	info.Pin = "digest:" + b.dgst.String()
	return info
}

// temporary reports whether the same host may answer the same request later.
func temporary(err error) bool {
	f, ok := errors.AsType[*ranges.Fault](err)
	return !ok || f.Kind == ranges.Retryable || f.Kind == ranges.Throttled || f.Kind == ranges.OutOfRange
}

// fromOrigin asks the remembered origin; ok is false when there is none, or none
// any more.
func (b *Blob) fromOrigin(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, bool, error) {
	b.mu.Lock()
	o := b.origin
	b.mu.Unlock()
	if o.url == "" {
		return nil, ranges.Info{}, false, nil
	}
	body, info, err := b.c.hop(ctx, b.c.plain, o, req)
	if err == nil || !expired(err) {
		return body, info, true, err
	}
	b.c.opts.Log.DebugContext(ctx, "origin refused, asking the registry again", "blob", b.dgst, "origin", httprange.RedactURL(o.url))
	b.forget(o.serial)
	return nil, ranges.Info{}, false, nil
}

func (b *Blob) forget(serial int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.origin.serial == serial {
		b.origin.url = ""
	}
}

// expired reports whether an answer may mean that a presigned URL ran out: stores
// say 403 (S3, GCS, Azure), 401, 400 (S3 ExpiredToken) or 404 (the object was moved),
// or send us elsewhere.
func expired(err error) bool {
	if _, ok := errors.AsType[*redirect](err); ok {
		return true
	}
	f, ok := errors.AsType[*ranges.Fault](err)
	return ok && (f.Kind == ranges.Denied || f.Kind == ranges.NotFound || f.Status == http.StatusBadRequest)
}

// fromHost asks the registry itself, and follows where it sends us.
func (b *Blob) fromHost(ctx context.Context, n int, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	h := b.hosts[n]
	where := h.base + "/" + b.ref.Repository + "/blobs/" + b.dgst.String() + b.ref.namespace(h)
	getter := httprange.Getter{Client: h.client, FreshClient: h.fresh, Check: checkRedirect}
	get := func(where string) opener {
		return func(prepare httprange.Prepare) (io.ReadCloser, ranges.Info, error) {
			return getter.Open(ctx, where, req, prepare)
		}
	}
	body, info, err := b.c.authorized(ctx, h, b.ref.Repository, req.Attempt, get(where))
	for range maxHops {
		r, ok := errors.AsType[*redirect](err)
		if !ok {
			return body, info, err
		}
		if sameHost(r.to, h.base) { // still the registry: it wants its token
			where = r.to
			body, info, err = b.c.authorized(ctx, h, b.ref.Repository, req.Attempt, get(where))
			continue
		}
		o := origin{url: r.to, referer: where}
		if body, info, err = b.c.hop(ctx, b.c.plain, o, req); err == nil {
			b.remember(o)
			return body, info, nil
		}
		where = r.to
		err = fresh(req, err)
	}
	if _, ok := errors.AsType[*redirect](err); ok {
		err = &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("more than %d redirects", maxHops)}
	}
	return body, info, err
}

// freshTries is how often a URL may be refused at once after it was given out.
const freshTries = 3

// fresh judges the refusal of a URL that the registry gave out just now. The
// registry lets us in, so the URL is to blame (it ran out on the way, the store
// does not know it yet): the engine may ask for another one, a few times.
func fresh(req ranges.Request, err error) error {
	f, ok := errors.AsType[*ranges.Fault](err)
	if !ok || f.Kind != ranges.Denied {
		return err
	}
	err = fmt.Errorf("the place the registry sent us to refuses: %w", cmp.Or(f.Err, err))
	if req.Attempt < freshTries {
		return &ranges.Fault{Kind: ranges.Retryable, Status: f.Status, Err: err}
	}
	return denied(f.Status, err)
}

func sameHost(a, b string) bool {
	ua, err1 := url.Parse(a)
	ub, err2 := url.Parse(b)
	return err1 == nil && err2 == nil && ua.Scheme == ub.Scheme && ua.Host == ub.Host
}

func (b *Blob) remember(o origin) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o.serial = b.origin.serial + 1
	b.origin = o
}

// hop asks an origin: no Authorization, ever.
func (c *Client) hop(ctx context.Context, e endpoint, o origin, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	get := httprange.Getter{Client: e.client, FreshClient: e.fresh, Check: checkRedirect}
	return get.Open(ctx, o.url, req, func(_ context.Context, hr *http.Request) error {
		// As a browser does: not from https to http, and never with a query.
		if from := httprange.RedactURL(o.referer); !strings.HasPrefix(from, "https:") || hr.URL.Scheme == "https" {
			hr.Header.Set("Referer", strings.TrimSuffix(from, "?..."))
		}
		return nil
	})
}

// namespace is the query that tells a mirror which registry is meant.
func (r Reference) namespace(h *host) string {
	if h.name == r.Host || (r.Host == hub && h.name == "registry-1.docker.io") {
		return ""
	}
	return "?ns=" + url.QueryEscape(r.Host)
}

// redirect is an answer that names another place.
type redirect struct{ to string }

func (r *redirect) Error() string { return "redirected to " + httprange.RedactURL(r.to) }

// checkRedirect is a Getter's Check.
func checkRedirect(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusUnauthorized:
		return &challenged{header: resp.Header}
	default:
		return nil
	}
	to, err := resp.Location()
	if err != nil {
		return &ranges.Fault{Kind: ranges.Permanent, Status: resp.StatusCode, Err: errors.New("redirect without a usable Location")}
	}
	if to.Scheme != "http" && to.Scheme != "https" {
		return &ranges.Fault{Kind: ranges.Permanent, Status: resp.StatusCode, Err: fmt.Errorf("redirect to scheme %q", to.Scheme)}
	}
	if to.Scheme == "http" && resp.Request.URL.Scheme == "https" {
		return &ranges.Fault{Kind: ranges.Permanent, Status: resp.StatusCode, Err: fmt.Errorf("redirect from https to http (%s) refused", httprange.RedactURL(to.String()))}
	}
	return &redirect{to: to.String()}
}

// challenged is a 401. It reads as the Fault it is when nobody can answer it.
type challenged struct{ header http.Header }

func (*challenged) Error() string { return "status 401 Unauthorized" }

func (c *challenged) Unwrap() error {
	return &ranges.Fault{Kind: ranges.Denied, Status: http.StatusUnauthorized}
}

// opener makes one request.
type opener func(httprange.Prepare) (io.ReadCloser, ranges.Info, error)

// authorized runs one request with the session's header, and once more when
// a new header may help.
//
// A new token that is refused as out of date is an accident of clocks; the engine
// may try again, a few times. Any other refusal of a new token stands.
func (c *Client) authorized(ctx context.Context, h *host, repo string, attempt int, open opener) (io.ReadCloser, ranges.Info, error) {
	s := c.session(h, repo)
	serial := 0
	prepare := func(ctx context.Context, req *http.Request) (err error) {
		serial, err = s.authorize(ctx, req)
		return err
	}
	body, info, err := open(prepare)
	ch, ok := errors.AsType[*challenged](err)
	if !ok {
		return body, info, err
	}
	if err := s.refused(ctx, ch.header, serial); err != nil {
		if _, ok := errors.AsType[*ranges.Fault](err); !ok && ctx.Err() == nil {
			err = denied(http.StatusUnauthorized, err)
		}
		return nil, ranges.Info{Size: -1}, err
	}
	body, info, err = open(prepare)
	if ch, ok := errors.AsType[*challenged](err); ok && attempt < freshTries && ch.outOfDate() {
		err = &ranges.Fault{Kind: ranges.Retryable, Status: http.StatusUnauthorized, Err: errors.New("a new token was refused as out of date")}
	}
	return body, info, err
}

// outOfDate reports whether the registry says that the token ran out (RFC 6750).
func (c *challenged) outOfDate() bool {
	return slices.ContainsFunc(auth.ParseAuthHeader(c.header), func(ch auth.Challenge) bool {
		return ch.Parameters["error"] == "invalid_token"
	})
}
