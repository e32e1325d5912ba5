package registry

import (
	"bytes"
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
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
)

// Blob is the content of one digest in one repository. It implements
// [ranges.Source].
type Blob struct {
	c     *Client
	l     *logins
	ref   Reference
	dgst  digest.Digest
	hosts []*host
	own   *host    // the registry itself
	good  int      // hosts[:good] never sent wrong bytes
	spare []*host  // hosts that this Blob does not ask, see WrongBytes
	urls  []string // of a foreign layer, asked if no host has it

	mu     sync.Mutex    // guards the fields below; a leaf lock
	origin origin        // target of the blob's redirect
	start  int           // index of the host that answered last
	served []string      // names of the hosts that sent the blob's bytes
	failed map[int64]int // index of the host that failed last, by offset of the request
	absent bool          // no host has the blob, so only the URLs are asked
}

// origin is a presigned URL.
type origin struct {
	url     string
	referer string // the redirecting URL; some stores refuse requests without it
	serial  int    // counts origins, so that a refusal drops only the URL that was refused
	host    int    // index of the redirecting host, or foreignURL
}

// foreignURL is the value of origin.host if the URL comes from the manifest.
const foreignURL = -1

// source returns the source of a digest for a pull.
func (c *Client) source(l *logins, dgst digest.Digest) (*Blob, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", dgst, err)
	}
	hs, err := c.hostsOf(l.ref)
	if err != nil {
		return nil, err
	}
	b := &Blob{c: c, l: l, ref: l.ref, dgst: dgst, own: hs[len(hs)-1]}
	b.hosts, b.good = c.trusted(hs)
	return b, nil
}

// Layer returns the source of a layer of an image. A foreign layer
// (non-distributable in the image spec) comes from the registry if it has it,
// otherwise from the URLs of its descriptor, which must be https unless the
// registry itself is plain http.
func (c *Client) Layer(ref Reference, d Layer) (*Blob, error) {
	l := d.logins
	if l == nil {
		l = c.newLogins(ref)
	}
	b, err := c.source(l, d.Digest)
	if err != nil || !isForeign(d.MediaType) {
		return b, err
	}
	for _, u := range d.URLs {
		if strings.HasPrefix(u, "https://") || strings.HasPrefix(u, "http://") && b.hosts[len(b.hosts)-1].insecure {
			b.urls = append(b.urls, u)
		}
	}
	return b, nil
}

func isForeign(mediaType string) bool {
	base := layerType(mediaType)
	return base == ociForeignLayer || base == dockerForeign
}

// Host returns the key by which the engine limits requests. For a foreign layer
// it is the host of its URLs, so that requests to a slow server do not use up
// the limit of the registry.
func (b *Blob) Host() string {
	if len(b.urls) > 0 {
		return hostOf(b.urls[0])
	}
	return b.hosts[0].name
}

// maxHops bounds a chain of redirects. One redirect is usual; registries behind
// a CDN need two.
const maxHops = 4

// Open implements [ranges.Source]. The pin is the digest, because all hosts and
// origins of a blob serve the same bytes, which the digest verifies.
//
// A retry or hedge goes to another host, if there is one, so that each part
// avoids a slow or dying host.
func (b *Blob) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	req.Pin = ""
	aside := len(b.hosts) > 1 && (req.Fresh || req.Attempt > 0)
	b.mu.Lock()
	start, absent := b.start, b.absent
	b.mu.Unlock()
	if aside {
		start = b.otherHost(req)
	} else if body, info, ok, err := b.fromOrigin(ctx, req); ok {
		return body, b.pinned(info), err
	}
	if absent {
		return b.fromURLs(ctx, req, &ranges.Fault{Kind: ranges.NotFound, Status: http.StatusNotFound})
	}
	start = b.reachable(start)
	var errs *hostErrors
	var own error
	for i := range b.hosts {
		n := (start + i) % len(b.hosts)
		h := b.hosts[n]
		began := time.Now()
		body, info, err := b.fromHost(ctx, n, req)
		switch {
		case err == nil || ctx.Err() == nil:
			b.c.recordOutcome(ctx, h, b.ref, err)
		case time.Since(began) >= silentAfter: // given up by the engine
			b.fellSilent(ctx, n, req.Off)
		}
		switch {
		case err == nil:
			b.recordServer(h.name)
			if !aside {
				b.prefer(n)
			}
			if len(b.hosts) > 1 {
				body = &watchedBody{ReadCloser: body, b: b, host: n, off: req.Off, last: time.Now()}
			}
			return body, b.pinned(info), nil
		case ctx.Err() != nil:
			return nil, info, err
		case len(b.hosts) == 1 && temporary(err):
			return nil, info, err
		}
		if errs == nil {
			errs = new(hostErrors)
		}
		errs.add(h, err, h == b.own)
		if h == b.own {
			own = err
		}
		if temporary(err) {
			b.avoid(n, req.Off) // in the retry of the engine
			if next := b.hosts[(n+1)%len(b.hosts)]; !b.c.health.up(next, time.Now()) {
				break // rather than wait for a host in an outage
			}
		}
	}
	f := outcome(errs, own)
	if len(b.urls) > 0 && f.Kind != ranges.Retryable && f.Kind != ranges.Throttled {
		b.mu.Lock()
		b.absent = f.Kind == ranges.NotFound
		b.mu.Unlock()
		return b.fromURLs(ctx, req, f)
	}
	return nil, ranges.Info{Size: -1}, f
}

// silentAfter is the time without bytes after which a host counts as silent
// when the engine gives up its request. It is most of the time that the engine
// allows one request, and longer than a pull-through cache takes to find a
// layer.
const silentAfter = 8 * time.Second

// fellSilent records that a host fell silent.
func (b *Blob) fellSilent(ctx context.Context, host int, off int64) {
	b.c.recordOutcome(ctx, b.hosts[host], b.ref, fmt.Errorf("%w for %v", errSilent, silentAfter))
	b.avoid(host, off)
}

// watchedBody is the body of an answer if there are other hosts to ask. It
// notices when its host falls silent. One goroutine reads it.
type watchedBody struct {
	io.ReadCloser
	b    *Blob
	host int
	off  int64
	last time.Time // of the last byte
}

func (j *watchedBody) Read(p []byte) (int, error) {
	n, err := j.ReadCloser.Read(p)
	now := time.Now()
	if err != nil && err != io.EOF && now.Sub(j.last) >= silentAfter {
		j.b.fellSilent(context.Background(), j.host, j.off)
	}
	j.last = now
	return n, err
}

// reachable returns the first host from start on without an outage, or start.
func (b *Blob) reachable(start int) int {
	now := time.Now()
	for i := range b.hosts {
		if n := (start + i) % len(b.hosts); b.c.health.up(b.hosts[n], now) {
			return n
		}
	}
	return start
}

// avoid makes the next request, and the next attempt at this offset, go to
// another host.
func (b *Blob) avoid(host int, off int64) {
	if len(b.hosts) == 1 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.start == host {
		b.start = (host + 1) % len(b.hosts)
	}
	if b.failed == nil {
		b.failed = make(map[int64]int)
	}
	b.failed[off] = host
}

// otherHost returns the index of the host for a retry or hedge. A host that has
// sent wrong bytes is used only after others have failed, and not for the first
// hedge, because late bytes are better than wrong ones.
func (b *Blob) otherHost(req ranges.Request) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n, ok := b.failed[req.Off]; ok {
		delete(b.failed, req.Off)
		return (n + 1) % len(b.hosts)
	}
	if req.Attempt <= 1 && b.start < b.good {
		return (b.start + 1) % b.good
	}
	return (b.start + max(1, req.Attempt)) % len(b.hosts)
}

// fromURLs requests the URLs that the manifest names, without credentials.
func (b *Blob) fromURLs(ctx context.Context, req ranges.Request, err error) (io.ReadCloser, ranges.Info, error) {
	for _, u := range b.urls {
		o := origin{url: u, referer: u, host: foreignURL}
		for range maxHops {
			body, info, herr := b.c.hop(ctx, b.c.plain, o, req)
			if herr == nil {
				b.remember(o)
				b.recordServer(hostOf(u))
				return body, b.pinned(info), nil
			}
			err = herr
			r, ok := errors.AsType[*redirect](herr)
			if !ok {
				break
			}
			o = origin{url: r.to, referer: o.url, host: foreignURL}
		}
		if ctx.Err() != nil || temporary(err) {
			break
		}
	}
	return nil, ranges.Info{Size: -1}, err
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "a foreign URL"
	}
	return u.Host
}

// recordServer records a host that sent bytes of the blob.
func (b *Blob) recordServer(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.served, name) {
		b.served = append(b.served, name)
	}
}

// WrongBytes records that the bytes of the blob did not match its digest. It
// returns the sender, or "" if the sender is not known, and the source for
// another attempt, or nil if there is no other host. If a single host sent all
// bytes, that host is asked last from then on.
func (b *Blob) WrongBytes() (sender string, next *Blob) {
	b.mu.Lock()
	served := slices.Clone(b.served)
	b.mu.Unlock()
	all := slices.Concat(b.spare, b.hosts)
	if len(all) == 1 && len(b.urls) == 0 && all[0].name == b.ref.Host {
		return "", nil // only the registry itself
	}
	next = &Blob{c: b.c, l: b.l, ref: b.ref, dgst: b.dgst, own: b.own, urls: b.urls}
	switch len(served) {
	case 0:
		return "", nil
	case 1:
		b.c.distrust(served[0])
		next.hosts, next.good = b.c.trusted(slices.DeleteFunc(all, func(h *host) bool { return h.name == served[0] }))
		if len(next.hosts) == 0 {
			next = nil
		}
		return served[0], next
	}
	// Several hosts sent bytes. The next attempt asks only the last one, the
	// registry, so that its outcome is unambiguous.
	last := len(all) - 1
	next.hosts, next.spare = all[last:], all[:last]
	return "one of " + strings.Join(served, ", "), next
}

// distrust makes a host the last to be asked from now on.
func (c *Client) distrust(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong == nil {
		c.wrong = make(map[string]bool)
	}
	c.wrong[name] = true
}

// trusted returns the hosts, sorted so that those that have sent wrong bytes
// come last, and the number of the others.
func (c *Client) trusted(hs []*host) (all []*host, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	good := slices.DeleteFunc(slices.Clone(hs), func(h *host) bool { return c.wrong[h.name] })
	bad := slices.DeleteFunc(slices.Clone(hs), func(h *host) bool { return !c.wrong[h.name] })
	return slices.Concat(good, bad), len(good)
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

// fromOrigin requests the blob from the remembered origin. It returns false if
// no origin is remembered, or if its URL has expired.
func (b *Blob) fromOrigin(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, bool, error) {
	b.mu.Lock()
	o := b.origin
	b.mu.Unlock()
	if o.url == "" {
		return nil, ranges.Info{}, false, nil
	}
	body, info, err := b.c.hop(ctx, b.c.plain, o, req)
	if err == nil || !expired(err) {
		if err != nil && ctx.Err() == nil && len(b.hosts) > 1 && o.host >= 0 {
			b.avoid(o.host, req.Off)
			b.forget(o.serial)
		}
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

// expired reports whether an answer may mean that a presigned URL has expired.
// Stores answer 403 (S3, GCS, Azure), 401, 400 (S3 ExpiredToken) or 404 (the
// object was moved), or redirect.
func expired(err error) bool {
	if _, ok := errors.AsType[*redirect](err); ok {
		return true
	}
	f, ok := errors.AsType[*ranges.Fault](err)
	return ok && (f.Kind == ranges.Denied || f.Kind == ranges.NotFound || f.Status == http.StatusBadRequest)
}

// fromHost requests the blob from a host and follows its redirects.
func (b *Blob) fromHost(ctx context.Context, n int, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	h := b.hosts[n]
	where := h.base + "/" + b.ref.Repository + "/blobs/" + b.dgst.String() + b.ref.namespace(h)
	getter := httprange.Getter{Client: h.client, FreshClient: h.fresh, Check: checkRedirect}
	get := func(where string) opener {
		return func(prepare httprange.Prepare) (io.ReadCloser, ranges.Info, error) {
			return getter.Open(ctx, where, req, prepare)
		}
	}
	body, info, err := b.c.authorized(ctx, b.l, h, req.Attempt, get(where))
	for range maxHops {
		r, ok := errors.AsType[*redirect](err)
		if !ok {
			return body, info, err
		}
		if sameHost(r.to, h.base) { // still the same host, which needs its token
			where = r.to
			body, info, err = b.c.authorized(ctx, b.l, h, req.Attempt, get(where))
			continue
		}
		o := origin{url: r.to, referer: where, host: n}
		if body, info, err = b.c.hop(ctx, b.c.plain, o, req); err == nil {
			b.remember(o)
			return body, info, nil
		}
		where = r.to
		err = explainNewURL(req, err)
	}
	if _, ok := errors.AsType[*redirect](err); ok {
		err = &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("more than %d redirects", maxHops)}
	}
	return body, info, err
}

// newURLTries is the number of attempts in which a new URL may be refused.
const newURLTries = 3

// explainNewURL converts the refusal of a URL that the registry has just
// issued. The registry accepted our token, so the cause is the URL: it, or the
// session that signed it, has expired on the way, or the store does not know it
// yet. The engine may then retry a few times.
func explainNewURL(req ranges.Request, err error) error {
	f, ok := errors.AsType[*ranges.Fault](err)
	if !ok || f.Kind != ranges.Denied && f.Status != http.StatusBadRequest {
		return err
	}
	err = fmt.Errorf("the redirect target refused the request: %w", cmp.Or(f.Err, err))
	if req.Attempt < newURLTries {
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

// hop requests an origin, without Authorization.
func (c *Client) hop(ctx context.Context, e endpoint, o origin, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	get := httprange.Getter{Client: e.client, FreshClient: e.fresh, Check: checkRedirect}
	return get.Open(ctx, o.url, req, referred(o.referer))
}

// referred sets the Referer of a request to an origin, as a browser does: not
// from https to http, and never with a query.
func referred(by string) httprange.Prepare {
	return func(_ context.Context, hr *http.Request) error {
		if from := httprange.RedactURL(by); !strings.HasPrefix(from, "https:") || hr.URL.Scheme == "https" {
			hr.Header.Set("Referer", strings.TrimSuffix(from, "?..."))
		}
		return nil
	}
}

// namespace returns the query that names the registry to a mirror.
func (r Reference) namespace(h *host) string {
	if h.name == r.Host || (r.Host == hub && h.name == "registry-1.docker.io") {
		return ""
	}
	return "?ns=" + url.QueryEscape(r.Host)
}

// redirect is an answer with another URL.
type redirect struct{ to string }

func (r *redirect) Error() string { return "redirected to " + httprange.RedactURL(r.to) }

// checkRedirect is the Check of a Getter.
func checkRedirect(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusUnauthorized:
		return &challenged{header: resp.Header, status: resp.StatusCode}
	case http.StatusForbidden:
		if saysExpired(resp) {
			return &challenged{header: resp.Header, status: resp.StatusCode}
		}
		return nil
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

// challenged is the error of a 401, or of a 403 with the same meaning. It
// unwraps to a Fault for callers that cannot log in.
type challenged struct {
	header http.Header
	status int
}

func (c *challenged) Error() string {
	return fmt.Sprintf("status %d %s", c.status, http.StatusText(c.status))
}

func (c *challenged) Unwrap() error {
	return &ranges.Fault{Kind: ranges.Denied, Status: c.status}
}

// maxRefusal bounds the bytes read of a refusal, which is usually a line of
// JSON.
const maxRefusal = 4 << 10

// saysExpired reports whether a 403 means that our credentials have expired,
// and not that they lack rights. Amazon's registry sends it, without a
// challenge, when its password of twelve hours has expired.
func saysExpired(resp *http.Response) bool {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), resp.Body), resp.Body}
	return bytes.Contains(bytes.ToLower(text), []byte("authorization token has expired"))
}

// opener makes one request.
type opener func(httprange.Prepare) (io.ReadCloser, ranges.Info, error)

// authorized makes one request with the header of the session, and repeats it
// once if a new header may help.
//
// If a new token is refused as expired, the clocks of the servers differ, and
// the engine may retry a few times. Any other refusal of a new token is final.
func (c *Client) authorized(ctx context.Context, l *logins, h *host, attempt int, open opener) (io.ReadCloser, ranges.Info, error) {
	s := l.session(h)
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
	l.wait.answered(ch.status)
	if err := s.refused(ctx, ch, serial); err != nil {
		if _, ok := errors.AsType[*ranges.Fault](err); !ok && ctx.Err() == nil {
			err = denied(ch.status, err)
		}
		return nil, ranges.Info{Size: -1}, err
	}
	body, info, err = open(prepare)
	if ch, ok := errors.AsType[*challenged](err); ok && attempt < newURLTries && ch.outOfDate() {
		err = &ranges.Fault{Kind: ranges.Retryable, Status: http.StatusUnauthorized, Err: errors.New("a new token was refused as out of date")}
	}
	return body, info, err
}

// outOfDate reports whether the registry says that the token has expired (RFC
// 6750).
func (c *challenged) outOfDate() bool {
	return slices.ContainsFunc(auth.ParseAuthHeader(c.header), func(ch auth.Challenge) bool {
		return ch.Parameters["error"] == "invalid_token"
	})
}
