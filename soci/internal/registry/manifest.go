package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "crypto/sha256" // for digests
	_ "crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
)

// Media types of Docker's registry that OCI does not name.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1   = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1S  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeign   = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	ociLayer        = "application/vnd.oci.image.layer.v1.tar"
	ociForeignLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// ErrDigest is the error of content that does not match its digest or size.
var ErrDigest = errors.New("digest mismatch")

// maxManifest bounds a manifest or index, in bytes. It is the size up to which
// the distribution spec asks registries to accept manifests.
const maxManifest = 4 << 20

// maxConfig bounds an image config, whose history may be long.
const maxConfig = 8 << 20

// documentSource is a manifest or config at all hosts that may have it. It is a
// source of one byte, so that the retries, back-off and limits of the engine
// apply. Each attempt asks the hosts in a race.
type documentSource struct {
	c     *Client
	l     *logins
	ref   Reference
	path  string        // below the repository
	want  digest.Digest // "" if the document is requested by tag
	most  int64         // bytes
	hosts []*host       // mirrors first; the last is the registry itself

	busy chan struct{} // a lock with a context, held while hosts are asked; capacity 1
	doc  document      // guarded by busy; its digest is "" before the first answer
}

// Open implements [ranges.Source]. It returns one byte and keeps the document.
// The size of a manifest is unknown before its answer, and the engine would
// request further ranges if it read the document itself.
func (m *documentSource) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	none := ranges.Info{Size: -1}
	// The engine hedges late requests. A hedge waits here, because each attempt
	// asks the other hosts itself, and registries limit the manifest requests
	// of a user.
	select {
	case m.busy <- struct{}{}:
		defer func() { <-m.busy }()
	case <-ctx.Done():
		return nil, none, context.Cause(ctx)
	}
	one := func() (io.ReadCloser, ranges.Info, error) {
		return io.NopCloser(strings.NewReader("x")), ranges.Info{Size: 1, Len: 1}, nil
	}
	if m.doc.desc.Digest != "" {
		return one()
	}
	hosts := m.c.health.order(m.hosts, time.Now())
	if m.l.wait != nil && req.Attempt == 0 {
		if errs := m.c.health.allSilent(m.hosts, time.Now()); errs != nil {
			return nil, none, &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("not asked again so soon: %w", errs)}
		}
	}
	doc, ok, errs := race(ctx, len(hosts), m.l.wait.silence(), func(rctx context.Context, i int) (document, error) {
		doc, err := m.from(rctx, hosts[i], req)
		if err == nil || rctx.Err() == nil {
			m.c.recordOutcome(rctx, hosts[i], m.ref, err)
		}
		return doc, err
	})
	all := new(hostErrors)
	var own error
	for i, h := range hosts {
		err := errs[i]
		if errors.Is(err, errSilent) {
			m.c.recordOutcome(ctx, h, m.ref, err)
		}
		if err == nil {
			continue
		}
		last := h == m.hosts[len(m.hosts)-1]
		all.add(h, err, last)
		if last {
			own = err
		}
	}
	if ok {
		m.doc = doc
		return one()
	}
	if len(all.all) == 0 {
		return nil, none, context.Cause(ctx)
	}
	m.l.wait.remember(all)
	if ctx.Err() != nil {
		return nil, none, &ranges.Fault{Kind: ranges.Retryable, Fresh: true, Err: all}
	}
	return nil, none, outcome(all, own)
}

// recordOutcome logs the outcome of a request and records it for the order in
// which hosts are asked. err is nil after a success.
func (c *Client) recordOutcome(ctx context.Context, h *host, ref Reference, err error) {
	c.health.record(h, time.Now(), err)
	if err == nil {
		h.answered.Store(true)
		return
	}
	c.opts.Log.DebugContext(ctx, "host failed", "host", h.name, "image", ref.String(), "err", err)
}

// from requests the document from one host and checks it.
func (m *documentSource) from(ctx context.Context, h *host, req ranges.Request) (document, error) {
	where := h.base + "/" + m.ref.Repository + "/" + m.path + m.ref.namespace(h)
	var doc document
	get := func(e endpoint) opener {
		return func(prepare httprange.Prepare) (io.ReadCloser, ranges.Info, error) {
			client := e.client
			if req.Fresh {
				client = e.fresh
			}
			var err error
			doc, err = m.send(ctx, h, client, where, prepare)
			return nil, ranges.Info{Size: -1}, err
		}
	}
	from := where
	for range maxHops {
		var err error
		if sameHost(where, h.base) {
			_, _, err = m.c.authorized(ctx, m.l, h, req.Attempt, get(h.endpoint))
		} else { // a different host, which must not see our token
			_, _, err = get(m.c.plain)(referred(from))
			if _, ok := errors.AsType[*redirect](err); !ok && err != nil {
				err = explainNewURL(req, err)
			}
		}
		r, ok := errors.AsType[*redirect](err)
		if !ok {
			return doc, err
		}
		from, where = where, r.to
	}
	return document{}, &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("more than %d redirects", maxHops)}
}

// acceptHeader lists the supported media types, and schema 1, for which we can
// then give a clear error.
var acceptHeader = strings.Join([]string{
	ocispec.MediaTypeImageIndex, dockerIndex, ocispec.MediaTypeImageManifest, dockerManifest,
	dockerSchema1S + ";q=0.1", "*/*;q=0.1",
}, ", ")

func (m *documentSource) send(ctx context.Context, h *host, client *http.Client, where string, prepare httprange.Prepare) (document, error) {
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return document{}, &ranges.Fault{Kind: ranges.Permanent, Err: cause(err)}
	}
	hr.Header.Set("Accept", acceptHeader)
	hr.Header.Set("Accept-Encoding", "identity")
	if prepare != nil {
		if err := prepare(ctx, hr); err != nil {
			return document{}, err
		}
	}
	resp, err := client.Do(hr)
	if err != nil {
		return document{}, m.c.firstContact(ctx, h, hr, err, m.l.wait != nil)
	}
	defer resp.Body.Close()
	m.l.wait.answered(resp.StatusCode)
	h.answered.Store(true)
	if err := checkRedirect(resp); err != nil {
		return document{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return document{}, statusFault(resp)
	}
	var buf bytes.Buffer
	switch n, err := buf.ReadFrom(io.LimitReader(resp.Body, m.most+1)); {
	case err != nil:
		return document{}, &ranges.Fault{Kind: ranges.Retryable, Fresh: true, Err: fmt.Errorf("GET %s: %w", httprange.RedactURL(where), err)}
	case n > m.most:
		return document{}, &ranges.Fault{Kind: ranges.Permanent, Status: resp.StatusCode, Err: fmt.Errorf("GET %s: the answer is larger than %d bytes", httprange.RedactURL(where), m.most)}
	case n == 0 && m.want == "":
		return document{}, &ranges.Fault{Kind: ranges.Permanent, Status: resp.StatusCode, Err: errors.New("manifest is empty")}
	}
	return verified(buf.Bytes(), resp.Header, m.want, m.most)
}

// verified returns the document of an answer. It checks the requested digest,
// if any, and the digest that the registry announced.
//
// Some proxies compress answers although identity was requested. If only the
// decompressed form matches the digest, verified returns the decompressed form.
func verified(data []byte, header http.Header, want digest.Digest, most int64) (document, error) {
	doc, err := verify(data, header, want)
	if err == nil || !strings.EqualFold(header.Get("Content-Encoding"), "gzip") {
		return doc, err
	}
	plain, gerr := gunzip(data, most)
	if gerr != nil {
		return document{}, fmt.Errorf("%w (the answer has Content-Encoding gzip, and cannot be decoded: %w)", err, gerr)
	}
	return verify(plain, header, want)
}

func verify(data []byte, header http.Header, want digest.Digest) (document, error) {
	if err := checkDigest(data, want); err != nil {
		return document{}, err
	}
	algorithm := digest.Canonical
	if want != "" {
		algorithm = want.Algorithm()
	}
	got := algorithm.FromBytes(data)
	said := digest.Digest(header.Get("Docker-Content-Digest"))
	switch {
	case said != "" && said.Algorithm() == algorithm && said != got:
		return document{}, fmt.Errorf("%w: the registry announced %s and sent %s", ErrDigest, printable.Line(said.String(), maxQuoted), got)
	case said == "" && want == "" && bytes.HasPrefix(data, gzipMagic):
		return document{}, fmt.Errorf("%w: a manifest that is compressed", ErrDigest) // without a digest, neither form can be verified
	}
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return document{
		desc: ocispec.Descriptor{MediaType: strings.TrimSpace(mediaType), Digest: got, Size: int64(len(data))},
		data: data,
	}, nil
}

var gzipMagic = []byte{0x1f, 0x8b}

// gunzip decompresses data. It fails if the result exceeds most bytes.
func gunzip(data []byte, most int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("it decompresses to more than %d bytes", most)
	}
	return buf.Bytes(), err
}

// statusFault classifies an answer without a manifest. It recognizes the text
// that TLS servers written in Go send to plain HTTP requests.
func statusFault(resp *http.Response) *ranges.Fault {
	f := httprange.StatusFault(resp, time.Now())
	if resp.StatusCode == http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		if bytes.Contains(text, []byte("HTTP request to an HTTPS server")) {
			f.Err = fmt.Errorf("%w%s", f.Err, wantsTLS)
		}
	}
	return f
}

const (
	wantsHTTP = " (is plain http meant?)"
	wantsTLS  = " (the registry speaks TLS, and plain http was used: loopback registries get https by server = \"https://...\" in hosts.toml)"
)

// firstContact classifies a request without an answer. Failures that a wrong
// name, port or scheme causes are permanent for a host that has never answered,
// so that a typing mistake is reported at once. For a host that has answered
// they may be transient. A refused connection is retried if bounded is set,
// that is, if an answer timer bounds the retries.
func (c *Client) firstContact(ctx context.Context, h *host, hr *http.Request, err error, bounded bool) *ranges.Fault {
	f := &ranges.Fault{Kind: ranges.Retryable, Fresh: true}
	reason, hint := cause(err), ""
	permanent := false
	_, badRecord := errors.AsType[tls.RecordHeaderError](reason)
	_, badCert := errors.AsType[*tls.CertificateVerificationError](reason)
	_, badAddress := errors.AsType[*net.AddrError](reason)
	dns, isDNS := errors.AsType[*net.DNSError](reason)
	switch {
	case badRecord:
		permanent, hint = true, " (the registry does not speak TLS; is plain http meant?)"
	case errors.Is(reason, http.ErrSchemeMismatch), strings.Contains(reason.Error(), "server gave HTTP response to HTTPS client"):
		permanent, hint = true, wantsHTTP
	case badCert, badAddress:
		permanent = true
	case hr.URL.Scheme == "http" && !h.answered.Load() && (strings.Contains(reason.Error(), `malformed HTTP response "\x15\x03`) || (errors.Is(reason, io.ErrUnexpectedEOF) || errors.Is(reason, syscall.ECONNRESET)) && c.speaksTLS(ctx, h)):
		permanent, hint = true, wantsTLS
	case errors.Is(reason, syscall.ENETUNREACH), errors.Is(reason, syscall.EHOSTUNREACH), isDNS && dns.IsNotFound:
		permanent = !h.answered.Load()
	case errors.Is(reason, syscall.ECONNREFUSED):
		permanent = !h.answered.Load() && !bounded
	}
	if permanent {
		f.Kind = ranges.Permanent
	}
	f.Err = fmt.Errorf("GET %s: %w%s", httprange.RedactURL(hr.URL.String()), reason, hint)
	return f
}

// speaksTLS tries a TLS handshake with a host that closed a plain HTTP
// connection. It sends no request.
func (c *Client) speaksTLS(ctx context.Context, h *host) bool {
	nc, err := h.dialer.DialContext(ctx, "tcp", h.name)
	if err != nil {
		return false
	}
	defer nc.Close()
	tc := tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // only tests whether the host speaks TLS
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return tc.HandshakeContext(ctx) == nil
}

// probeTimeout bounds speaksTLS.
const probeTimeout = 2 * time.Second

// cause drops the *url.Error around a client's error, which repeats the URL.
func cause(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}

// document is a manifest, index or config that has been checked against a
// digest.
type document struct {
	desc ocispec.Descriptor // media type as served, digest and size as computed
	data []byte
}

// manifest fetches a manifest from the first host that has it, and checks it.
func (c *Client) manifest(ctx context.Context, e *ranges.Engine, l *logins, ref Reference) (document, error) {
	hs, err := c.hostsOf(ref)
	if err != nil {
		return document{}, err
	}
	if ref.Digest == "" {
		if hs = resolvers(hs); len(hs) == 0 {
			return document{}, fmt.Errorf("registry %s: hosts.toml leaves no host that may resolve tags", ref.Host)
		}
	}
	src := &documentSource{c: c, l: l, ref: ref, path: "manifests/" + ref.identifier(), want: ref.Digest, most: maxManifest, hosts: hs}
	return src.fetch(ctx, e, ref.String())
}

// fetch fetches the document through the engine.
func (m *documentSource) fetch(ctx context.Context, e *ranges.Engine, name string) (document, error) {
	m.busy = make(chan struct{}, 1)
	obj := e.Object(m, ranges.Spec{Name: name, Host: m.hosts[0].name, Size: 1})
	if _, err := obj.Fetch(ctx, make([]byte, 1), 0); err != nil {
		return document{}, m.l.wait.explain(ctx, err)
	}
	m.busy <- struct{}{} // waits for an attempt that may still hold it
	return m.doc, nil
}

// blob fetches a small blob whole and checks it.
func (c *Client) blob(ctx context.Context, e *ranges.Engine, l *logins, d ocispec.Descriptor, most int64) ([]byte, error) {
	if d.Size < 0 || d.Size > most {
		return nil, fmt.Errorf("%s of %d bytes: at most %d are accepted", d.MediaType, d.Size, most)
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	hs, err := c.hostsOf(l.ref)
	if err != nil {
		return nil, err
	}
	src := &documentSource{c: c, l: l, ref: l.ref, path: "blobs/" + d.Digest.String(), want: d.Digest, most: most, hosts: hs}
	doc, err := src.fetch(ctx, e, d.Digest.String())
	if err == nil && doc.desc.Size != d.Size {
		err = fmt.Errorf("%w: %s has %d bytes, the manifest says %d", ErrDigest, d.Digest, doc.desc.Size, d.Size)
	}
	return doc.data, err
}

// checkDigest compares content with the requested digest, if any.
func checkDigest(data []byte, want digest.Digest) error {
	if want == "" {
		return nil
	}
	if err := want.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", want, err)
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return fmt.Errorf("%w: expected %s, got %s", ErrDigest, want, got)
	}
	return nil
}
