package registry

import (
	"bytes"
	"context"
	_ "crypto/sha256" // digests name these two
	_ "crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/httprange"
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

// ErrDigest: content is not what its digest or size says.
var ErrDigest = errors.New("digest mismatch")

// maxManifest bounds a manifest or index: 4 MiB, the limit that the
// distribution spec asks registries to accept, and so the largest that travels.
const maxManifest = 4 << 20

// maxConfig bounds an image config, whose history may be long.
const maxConfig = 8 << 20

// manifestSource is a manifest as a one-request source, so that the engine's retry,
// back-off and limits cover it too.
type manifestSource struct {
	c    *Client
	ref  Reference
	host *host

	mu     sync.Mutex // guards header
	header http.Header
}

// Open implements [ranges.Source]. Manifests have no ranges: the whole answer is
// the body, whatever was asked.
func (m *manifestSource) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	where := m.host.base + "/" + m.ref.Repository + "/manifests/" + m.ref.identifier() + m.ref.namespace(m.host)
	get := func(e endpoint) opener {
		return func(prepare httprange.Prepare) (io.ReadCloser, ranges.Info, error) {
			client := e.client
			if req.Fresh {
				client = e.fresh
			}
			return m.send(ctx, client, where, prepare)
		}
	}
	for range maxHops {
		var body io.ReadCloser
		var info ranges.Info
		var err error
		if sameHost(where, m.host.base) {
			body, info, err = m.c.authorized(ctx, m.host, m.ref.Repository, req.Attempt, get(m.host.endpoint))
		} else { // our token is not for others
			body, info, err = get(m.c.plain)(nil)
		}
		r, ok := errors.AsType[*redirect](err)
		if !ok {
			return body, info, err
		}
		where = r.to
	}
	return nil, ranges.Info{Size: -1}, &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("more than %d redirects", maxHops)}
}

// accept is what we can read; schema 1 is asked for only to be refused with a clear
// message.
var accept = strings.Join([]string{
	ocispec.MediaTypeImageIndex, dockerIndex, ocispec.MediaTypeImageManifest, dockerManifest,
	dockerSchema1S + ";q=0.1", "*/*;q=0.1",
}, ", ")

func (m *manifestSource) send(ctx context.Context, client *http.Client, where string, prepare httprange.Prepare) (io.ReadCloser, ranges.Info, error) {
	none := ranges.Info{Size: -1}
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, none, &ranges.Fault{Kind: ranges.Permanent, Err: err}
	}
	hr.Header.Set("Accept", accept)
	if prepare != nil {
		if err := prepare(ctx, hr); err != nil {
			return nil, none, err
		}
	}
	resp, err := client.Do(hr)
	if err != nil {
		return nil, none, firstContact(hr, err)
	}
	defer resp.Body.Close()
	if err := checkRedirect(resp); err != nil {
		return nil, none, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, none, httprange.StatusFault(resp, time.Now())
	}
	var buf bytes.Buffer
	switch n, err := buf.ReadFrom(io.LimitReader(resp.Body, maxManifest+1)); {
	case err != nil:
		return nil, none, &ranges.Fault{Kind: ranges.Retryable, Fresh: true, Err: err}
	case n > maxManifest:
		return nil, none, &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("manifest is larger than %d bytes", maxManifest)}
	case n == 0:
		return nil, none, &ranges.Fault{Kind: ranges.Permanent, Err: errors.New("manifest is empty")}
	}
	m.mu.Lock()
	m.header = resp.Header // of the last answer: a hedge's is as good, and content is checked anyway
	m.mu.Unlock()
	n := int64(buf.Len())
	pin := "digest:" + digest.FromBytes(buf.Bytes()).String()
	return io.NopCloser(&buf), ranges.Info{Size: n, Len: n, Pin: pin}, nil
}

// firstContact classifies a request that got no answer. What a wrong name, port or
// scheme causes is permanent here, though it may be a passing failure in the middle
// of a pull: people who mistype should not wait for ten attempts.
func firstContact(hr *http.Request, err error) *ranges.Fault {
	f := &ranges.Fault{Kind: ranges.Retryable, Fresh: true}
	reason, hint := cause(err), ""
	_, badRecord := errors.AsType[tls.RecordHeaderError](reason)
	_, badCert := errors.AsType[*tls.CertificateVerificationError](reason)
	dns, isDNS := errors.AsType[*net.DNSError](reason)
	switch {
	case badRecord:
		f.Kind, hint = ranges.Permanent, " (the registry does not speak TLS; is plain http meant?)"
	case badCert, errors.Is(reason, syscall.ECONNREFUSED), isDNS && dns.IsNotFound:
		f.Kind = ranges.Permanent
	case strings.Contains(reason.Error(), "server gave HTTP response to HTTPS client"): // net/http has no type for it
		f.Kind, hint = ranges.Permanent, " (is plain http meant?)"
	}
	f.Err = fmt.Errorf("GET %s: %w%s", httprange.RedactURL(hr.URL.String()), reason, hint)
	return f
}

// cause drops the *url.Error around a client's error: it repeats the URL.
func cause(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}

// document is a manifest, index or config that has been checked against a digest.
type document struct {
	desc ocispec.Descriptor // media type as served, digest and size as computed
	data []byte
}

// manifest fetches a manifest from the first host that has it, and checks it.
func (c *Client) manifest(ctx context.Context, e *ranges.Engine, ref Reference) (document, error) {
	hs, err := c.hostsOf(ref)
	if err != nil {
		return document{}, err
	}
	if ref.Digest == "" {
		if hs = resolvers(hs); len(hs) == 0 {
			return document{}, fmt.Errorf("registry %s: hosts.toml leaves no host that may resolve tags", ref.Host)
		}
	}
	var last error
	for _, h := range hs {
		doc, err := c.manifestFrom(ctx, e, h, ref)
		if err == nil || ctx.Err() != nil {
			return doc, err
		}
		// The registry itself comes last and knows best; a mirror's failure is
		// worth telling only when there is nothing else to tell.
		last = err
	}
	return document{}, last
}

func (c *Client) manifestFrom(ctx context.Context, e *ranges.Engine, h *host, ref Reference) (document, error) {
	src := &manifestSource{c: c, ref: ref, host: h}
	obj := e.Object(src, ranges.Spec{Name: ref.String(), Host: h.name, Size: -1})
	defer obj.Close()
	data, err := read(ctx, obj, maxManifest)
	if err != nil {
		return document{}, err
	}
	src.mu.Lock()
	header := src.header
	src.mu.Unlock()
	if err := checkDigest(data, ref.Digest); err != nil {
		return document{}, err
	}
	algorithm := digest.Canonical
	if ref.Digest != "" {
		algorithm = ref.Digest.Algorithm()
	}
	got := algorithm.FromBytes(data)
	if said := digest.Digest(header.Get("Docker-Content-Digest")); said != "" && said.Algorithm() == algorithm && said != got {
		return document{}, fmt.Errorf("%w: the registry announced %s and sent %s", ErrDigest, said, got)
	}
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return document{
		desc: ocispec.Descriptor{MediaType: strings.TrimSpace(mediaType), Digest: got, Size: int64(len(data))},
		data: data,
	}, nil
}

// blob fetches a small blob whole and checks it.
func (c *Client) blob(ctx context.Context, e *ranges.Engine, ref Reference, d ocispec.Descriptor, most int64) ([]byte, error) {
	if d.Size < 0 || d.Size > most {
		return nil, fmt.Errorf("%s of %d bytes: at most %d are accepted", d.MediaType, d.Size, most)
	}
	src, err := c.Blob(ref, d.Digest)
	if err != nil {
		return nil, err
	}
	obj := e.Object(src, ranges.Spec{Name: d.Digest.String(), Host: src.Host(), Size: d.Size})
	defer obj.Close()
	data, err := read(ctx, obj, most)
	if err != nil {
		return nil, err
	}
	return data, checkDigest(data, d.Digest)
}

// read reads an object of at most most bytes.
func read(ctx context.Context, obj *ranges.Object, most int64) ([]byte, error) {
	s := obj.Stream(ctx, 0, -1, ranges.StreamOptions{PartBytes: most, NoVerify: true})
	defer s.Close()
	var buf bytes.Buffer
	if _, err := s.WriteTo(&buf); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > most {
		return nil, fmt.Errorf("more than %d bytes", most)
	}
	return buf.Bytes(), nil
}

// checkDigest compares content with the digest that it was asked by; "" passes.
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
