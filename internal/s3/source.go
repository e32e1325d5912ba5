package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
)

// SourceOptions select the version that a source reads.
type SourceOptions struct {
	// VersionID is the version to read. The default is the current one, which
	// the ETag pins from the first answer on.
	VersionID string
	// PreferVersion is the version that had the pinned ETag. Requests ask for
	// it, so that the source can still read an object that was replaced. If the
	// identity has no right to read versions (s3:GetObjectVersion), the source
	// reads the current version, and only if it has the ETag.
	PreferVersion string
}

// Source returns the source of one object for the engine. It makes no request.
func (c *Client) Source(bucket, key string, o SourceOptions) ranges.Source {
	s := &source{c: c, bucket: bucket, key: key, version: o.VersionID, prefer: o.PreferVersion}
	s.getter = httprange.Getter{Client: c.client, FreshClient: c.fresh, Check: s.check, Sum: sumOf}
	s.long = httprange.Getter{Client: sdkClient(s), Check: s.check, Sum: sumOf}
	if s.version != "" {
		pin := "version:" + s.version
		s.getter.Pin = func(http.Header) string { return pin }
		s.long.Pin = s.getter.Pin
	}
	return s
}

// Spec describes an object to the engine. If info has no ETag, time and size, the
// engine takes size and validator from its first answer. Without an ETag, the time
// of the last change is the validator.
func (c *Client) Spec(bucket, key string, info ObjectInfo) ranges.Spec {
	spec := ranges.Spec{Name: "s3://" + bucket + "/" + key, Host: c.Host(bucket), Size: -1}
	if info.ETag == "" && info.LastModified.IsZero() && info.Size == 0 {
		return spec
	}
	spec.Size, spec.Sum = info.Size, info.Checksum
	switch {
	case info.ETag != "":
		spec.Pin = ranges.PinETag + info.ETag
	case !info.LastModified.IsZero():
		spec.Pin = ranges.PinModified + info.LastModified.UTC().Format(http.TimeFormat)
	}
	return spec
}

// SpecVersion is Spec for a source of one version.
func (c *Client) SpecVersion(bucket, key, versionID string, info ObjectInfo) ranges.Spec {
	spec := c.Spec(bucket, key, info)
	spec.Pin = "version:" + versionID
	return spec
}

// Host returns the host that serves a bucket, which is the key of the engine's
// limits.
func (c *Client) Host(bucket string) string {
	t, err := c.target(context.Background(), bucket)
	if err != nil {
		return bucket // a GET will report the error
	}
	return t.host
}

// objectHeader makes the header lines that all GETs of a client share. Requests
// share the slices, so they must not be changed.
func (c *Client) objectHeader() http.Header {
	h := http.Header{"User-Agent": {userAgent}, "X-Amz-Content-Sha256": {unsigned}}
	if c.opts.RequesterPays {
		h["X-Amz-Request-Payer"] = []string{"requester"}
	}
	if o := c.opts.ExpectedBucketOwner; o != "" {
		h["X-Amz-Expected-Bucket-Owner"] = []string{o}
	}
	if c.sseC.key != nil {
		h["X-Amz-Server-Side-Encryption-Customer-Algorithm"] = []string{*c.sseC.algorithm}
		h["X-Amz-Server-Side-Encryption-Customer-Key"] = []string{*c.sseC.key}
		h["X-Amz-Server-Side-Encryption-Customer-Key-Md5"] = []string{*c.sseC.md5}
	}
	return h
}

// unsigned is the payload hash of a request whose body is not signed.
const unsigned = "UNSIGNED-PAYLOAD"

// source is one object. After its creation only place and gone change.
type source struct {
	c            *Client
	bucket, key  string
	version      string // version that must be read, or ""
	prefer       string // version to ask for as long as it can be read, or ""
	getter, long httprange.Getter
	place        atomic.Pointer[place]
	gone         atomic.Bool // set if prefer is deleted
}

// place is the target and the URL of a source, which are resolved once.
type place struct {
	*target
	version string // in url
	url     string
	sign    httprange.Prepare
}

// locate returns the source's place in the bucket's current region.
func (s *source) locate(ctx context.Context) (*place, error) {
	t, err := s.c.target(ctx, s.bucket)
	if err != nil {
		return nil, err
	}
	version := s.version
	if version == "" && !t.noVersions.Load() && !s.gone.Load() {
		version = s.prefer
	}
	if p := s.place.Load(); p != nil && p.target == t && p.version == version {
		return p, nil
	}
	p := &place{target: t, version: version, url: t.url(s.key, version)}
	p.sign = func(ctx context.Context, req *http.Request) error { return s.sign(ctx, req, t) }
	s.place.Store(p)
	return p, nil
}

// Open requests one range. It repeats the request only after an answer has
// corrected something: the region or the clock, expired credentials, a version
// that cannot be read, or the use of conditions with a store that does not
// recognize its own validator. Each of these corrections happens at most once.
func (s *source) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	learned, renewed, dropped := false, false, false
	for {
		unconditional := s.c.unconditional.Load()
		body, info, p, e, err := s.request(ctx, req, unconditional)
		switch {
		case err == nil:
			if !unconditional && !s.c.conditional.Load() && info.Pin != "" && sendsCondition(req.Pin) {
				s.c.conditional.Store(true)
			}
			return body, info, nil
		case e == nil || ctx.Err() != nil:
			return nil, info, err
		case e.Status == http.StatusPreconditionFailed && !unconditional && !s.c.conditional.Load() && sendsCondition(req.Pin):
			return s.confirm(ctx, req, err)
		case !learned && s.c.learn(e, p.region):
			learned = true
			continue
		case !dropped && req.Pin != "" && s.dropVersion(p, e):
			dropped = true
			continue
		case !renewed && s.c.mayRenew(e):
			renewed = true
			continue
		}
		return nil, info, err
	}
}

// dropVersion gives up a preferred version if e says that it cannot be read,
// and reports whether to ask again without it.
func (s *source) dropVersion(p *place, e *Error) bool {
	if s.version != "" || p.version == "" {
		return false
	}
	switch {
	case e.Code == "NoSuchVersion", e.Status == http.StatusMethodNotAllowed:
		s.gone.Store(true) // deleted, or a delete marker; other versions may exist
	case e.Status == http.StatusForbidden && (e.Code == "AccessDenied" || e.Code == ""), e.Status == http.StatusNotImplemented, e.Status == http.StatusBadRequest && e.Code == "InvalidArgument":
		if !p.noVersions.Swap(true) {
			s.c.log.Debug("s3: versions can't be read here, so only the ETag pins the object", "bucket", s.bucket, "err", e)
		}
	default:
		return false
	}
	return true
}

// sendsCondition reports whether a pin is sent as a condition that the server
// checks.
func sendsCondition(pin string) bool {
	name, _ := httprange.Condition(pin)
	return name != ""
}

// confirm asks again without a condition after a 412, and compares the answer
// itself. Some stores expect another spelling of ETags in If-Match than they send,
// or compare dates more precisely than they report them. confirm returns refused,
// the first answer's error, unless the second answer has the pinned validator. It
// is not called for a store that has accepted a condition before.
func (s *source) confirm(ctx context.Context, req ranges.Request, refused error) (io.ReadCloser, ranges.Info, error) {
	body, info, _, _, err := s.request(ctx, req, true)
	if err != nil {
		return nil, ranges.Info{Size: -1}, refused
	}
	if info.Pin == "" || !ranges.SamePin(info.Pin, req.Pin) {
		_ = body.Close() // the bytes of another version are of no use
		return nil, ranges.Info{Size: -1}, refused
	}
	if !s.c.unconditional.Swap(true) {
		s.c.log.Warn("the store refuses its own validator in If-Match or If-Unmodified-Since; requests omit it, and answers are still compared",
			"endpoint", originOf(s.place.Load().url), "validator", oneLine(req.Pin, maxCode))
	}
	return body, info, nil
}

// request makes one request. If the service fails the request, it returns the
// place of the request, and the failure both as *Error and inside a fault.
func (s *source) request(ctx context.Context, req ranges.Request, unconditional bool) (io.ReadCloser, ranges.Info, *place, *Error, error) {
	none := ranges.Info{Size: -1}
	if s.bucket == "" || s.key == "" {
		e := &Error{kind: ranges.Permanent, Err: errors.New("bucket and key must not be empty")}
		return nil, none, nil, nil, s.fault(e, nil)
	}
	p, err := s.locate(ctx)
	if err != nil {
		return nil, none, nil, nil, s.fault(&Error{kind: ranges.Permanent, Err: err}, nil)
	}
	getter, sign := &s.getter, p.sign
	if !p.plain {
		getter, sign = &s.long, nil
	}
	if unconditional {
		g := *getter
		g.Unconditional = true
		getter = &g
	}
	body, info, err := getter.Open(ctx, p.url, req, sign)
	if err == nil {
		// The answer for a range that is a part of a multipart object has the
		// part's checksum.
		if info.Off != 0 || info.Len != info.Size {
			info.Sum = ranges.Checksum{}
		}
		return body, info, p, nil, nil
	}
	if ctx.Err() != nil {
		return nil, info, nil, nil, context.Cause(ctx)
	}
	e, f := explain(err)
	if e.Endpoint == "" {
		e.Endpoint = originOf(p.url)
	}
	return nil, info, p, e, s.fault(e, f)
}

// explain returns the *Error of a failed GET, or makes one, and returns the fault
// that httprange reported, or nil.
func explain(err error) (*Error, *ranges.Fault) {
	var f *ranges.Fault
	errors.As(err, &f)
	var e *Error
	if errors.As(err, &e) {
		return e, f
	}
	e = &Error{Err: err, kind: classifyTransport(err)}
	if f != nil && f.Status != 0 { // an answer that httprange refused
		e.Status, e.kind, e.retryAfter = f.Status, f.Kind, f.RetryAfter
	}
	return e, f
}

// fault completes e and wraps it for the engine. from is the fault that httprange
// reported, which tells whether the connection is to blame, or nil.
func (s *source) fault(e *Error, from *ranges.Fault) *ranges.Fault {
	e.Op, e.Bucket, e.Key = opGet, s.bucket, s.key
	f := &ranges.Fault{Kind: e.kind, Status: e.Status, RetryAfter: e.retryAfter, Err: e}
	switch {
	case expired(e.Code), e.Code == "RequestTimeTooSkewed", e.region != "":
		f.Kind = ranges.Retryable // the next request uses the corrected value
	case from != nil:
		f.Fresh = from.Fresh
	}
	if e.Status >= 500 && e.kind == ranges.Retryable {
		f.Fresh = true // another connection may reach another front end
	}
	return f
}

// sign prepares one GET. In the steady state only the signer allocates.
func (s *source) sign(ctx context.Context, req *http.Request, t *target) error {
	maps.Copy(req.Header, s.c.header)
	maps.Copy(req.Header, t.header)
	if coversStart(req.Header["Range"]) {
		req.Header["X-Amz-Checksum-Mode"] = enabled
	}
	if s.c.credentials == nil {
		delete(req.Header, "X-Amz-Content-Sha256")
		return nil
	}
	if err := s.c.signPlain(ctx, req, unsigned, t.service, t.region); err != nil {
		e := &Error{Err: err, kind: classifyTransport(err)}
		if keys, ok := asCredentialError(err); ok {
			e.Err, e.retryAfter = keys, keys.wait
		}
		return e
	}
	return nil
}

// enabled is shared by requests and must not be changed.
var enabled = []string{"ENABLED"}

// coversStart reports whether a range may cover the whole object, so that the
// answer's checksum can be used.
func coversStart(ranges []string) bool {
	return len(ranges) == 1 && strings.HasPrefix(ranges[0], "bytes=0-")
}

// check reads an answer before httprange does, because S3 explains errors in
// the body.
func (s *source) check(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if v := resp.Header.Get("X-Amz-Version-Id"); s.version != "" && v != s.version {
			e := &Error{
				Status: resp.StatusCode, kind: ranges.Permanent,
				Err: fmt.Errorf("asked for version %q, got %q: the bucket does not keep versions", oneLine(s.version, maxCode), oneLine(v, maxCode)),
			}
			return s.fault(e, nil)
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		// The range is beyond the end of the object only if the answer is about
		// the pinned object, and not about a shorter one that replaced it.
		want, got := resp.Request.Header.Get("If-Match"), resp.Header.Get("Etag")
		if want == "" || got == "" || ranges.SameETag(want, got) {
			moveSize(resp)
			return nil // httprange reads the size from it
		}
		return s.fault(&Error{Status: resp.StatusCode, Code: "PreconditionFailed", kind: ranges.Changed}, nil)
	}
	e := fromAnswer(resp, time.Now())
	e.Endpoint = endpointOf(resp.Request.URL)
	return s.fault(e, nil)
}

// moveSize copies the size of the object from the body of a 416, where S3
// reports it, to the header, where HTTP does (RFC 9110 section 14.4).
func moveSize(resp *http.Response) {
	if resp.Header.Get("Content-Range") != "" {
		return
	}
	body := parseErrorBody(resp.Body)
	if n, err := strconv.ParseUint(strings.TrimSpace(body.ActualObjectSize), 10, 63); err == nil {
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes */%d", n))
	}
}

// sumOf reads the checksum of the whole object from an answer.
func sumOf(h http.Header) ranges.Checksum {
	return fullChecksum(h.Get("X-Amz-Checksum-Type"), h.Get("X-Amz-Checksum-Crc64nvme"), h.Get("X-Amz-Checksum-Crc32c"))
}

// fullChecksum decodes the checksum of a whole object. Composite checksums are
// checksums of the parts' checksums and cannot verify the bytes, so it ignores
// them.
func fullChecksum(kind, crc64, crc32c string) ranges.Checksum {
	if kind != "" && !strings.EqualFold(kind, "FULL_OBJECT") {
		return ranges.Checksum{}
	}
	if b, err := base64.StdEncoding.DecodeString(crc64); err == nil && len(b) == 8 {
		return ranges.Checksum{Algorithm: ranges.CRC64NVME, Value: binary.BigEndian.Uint64(b)}
	}
	if b, err := base64.StdEncoding.DecodeString(crc32c); err == nil && len(b) == 4 {
		return ranges.Checksum{Algorithm: ranges.CRC32C, Value: uint64(binary.BigEndian.Uint32(b))}
	}
	return ranges.Checksum{}
}

func originOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return endpointOf(u)
}
