package testorigin

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// opened is a version with a reference to its bytes.
type opened struct {
	*version
	content *content
}

// openVersion returns the requested version with a reference to its content,
// which the caller must release. Later changes of the bucket, swaps included,
// do not affect it.
func (rq *request) openVersion(bucketName, key, versionID string) (opened, *s3Error) {
	s := &rq.o.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.buckets[bucketName]
	if b == nil {
		return opened{}, errNoSuchBucket
	}
	v := b.findLocked(key, versionID)
	switch {
	case v == nil && versionID != "":
		return opened{}, s3err(http.StatusNotFound, "NoSuchVersion", "The specified version does not exist.")
	case v == nil && !rq.quirks.may("s3:ListBucket"):
		return opened{}, errS3Denied // the client may not learn whether the key exists
	case v == nil:
		return opened{}, errNoSuchKey
	case v.marker:
		e := *errNoSuchKey
		if versionID != "" {
			e = *s3err(http.StatusMethodNotAllowed, "MethodNotAllowed", "The specified method is not allowed against this resource.")
		}
		e.header = map[string]string{"X-Amz-Delete-Marker": "true", "X-Amz-Version-Id": v.id}
		return opened{}, &e
	}
	if b.versioning != "" {
		rq.w.Header().Set("X-Amz-Version-Id", v.id)
	}
	return opened{v, v.content.retain()}, nil
}

// getObject serves GET and HEAD of an object.
func (rq *request) getObject() {
	v, e := rq.openVersion(rq.bucket, rq.key, rq.q.Get("versionId"))
	if e != nil {
		rq.fail(e)
		return
	}
	defer v.content.release()
	if e := rq.checkCustomerKey(v.version); e != nil {
		rq.fail(e)
		return
	}
	if err := v.content.intact(); err != nil {
		rq.internal(err)
		return
	}
	etag, err := v.etagOf()
	if err != nil {
		rq.internal(err)
		return
	}
	rq.objectHeaders(v.version, etag)
	if e := rq.preconditions(etag, v.modified); e != nil {
		rq.fail(e)
		return
	}
	rng, e := rq.selectRange(v.version)
	if e != nil {
		rq.fail(e)
		return
	}
	if rng.kind == rangeNone && rq.r.Header.Get("X-Amz-Checksum-Mode") == "ENABLED" {
		sums, sumType, err := v.checksums()
		if err != nil {
			rq.internal(err)
			return
		}
		for a, sum := range sums {
			rq.w.Header().Set(checksumHeader(a), sum)
		}
		if len(sums) > 0 {
			rq.w.Header().Set("X-Amz-Checksum-Type", sumType)
		}
	}
	rq.serve(v.content, rng)
}

// objectHeaders sets the headers that describe the object, and the response-*
// overrides of a signed query.
func (rq *request) objectHeaders(v *version, etag string) {
	h := rq.w.Header()
	h.Set("Etag", etag)
	h.Set("Last-Modified", v.modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "binary/octet-stream")
	h.Set("X-Amz-Request-Id", strconv.FormatUint(mix(rq.o.serial.Add(1)), 16))
	for name, value := range v.header {
		h.Set(name, value)
	}
	for _, name := range []string{"content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding"} {
		if value := rq.q.Get("response-" + name); value != "" {
			h.Set(name, value)
		}
	}
}

// preconditions evaluates the conditional headers in the order of RFC 9110
// section 13.2.2, as S3 does.
func (rq *request) preconditions(etag string, modified time.Time) *s3Error {
	h := rq.r.Header
	modified = modified.Truncate(time.Second)
	if rq.quirks.IgnoreConditions {
		return nil
	}
	if m := h.Get("If-Match"); m != "" {
		if !rq.quirks.matches(m, etag) {
			return errPrecondition
		}
	} else if t, err := http.ParseTime(h.Get("If-Unmodified-Since")); err == nil && modified.After(t) {
		return errPrecondition
	}
	notModified := false
	if m := h.Get("If-None-Match"); m != "" {
		notModified = etagMatches(m, etag)
	} else if t, err := http.ParseTime(h.Get("If-Modified-Since")); err == nil {
		notModified = !modified.After(t)
	}
	if notModified {
		return &s3Error{
			status: http.StatusNotModified,
			header: map[string]string{"Etag": etag, "Last-Modified": modified.UTC().Format(http.TimeFormat)},
		}
	}
	return nil
}

// etagMatches reports whether the list of ETags in a conditional header has
// etag. Like S3 it accepts ETags without quotes.
func etagMatches(list, etag string) bool {
	for m := range strings.SplitSeq(list, ",") {
		m = strings.TrimPrefix(strings.TrimSpace(m), "W/")
		if m == "*" || m == etag || `"`+m+`"` == etag {
			return true
		}
	}
	return false
}

// selectRange turns partNumber or Range into the span to send.
func (rq *request) selectRange(v *version) (byteRange, *s3Error) {
	size := v.content.size
	whole := byteRange{0, size, rangeNone}
	rangeHeader := rq.r.Header.Get("Range")
	if p := rq.q.Get("partNumber"); p != "" {
		if rangeHeader != "" {
			return whole, s3err(http.StatusBadRequest, "InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
		}
		return rq.selectPart(v, p)
	}
	if ir := rq.r.Header.Get("If-Range"); ir != "" && rangeHeader != "" {
		etag := rq.w.Header()["Etag"]
		if !slices.Contains(etag, ir) && ir != v.modified.UTC().Format(http.TimeFormat) {
			return whole, nil
		}
	}
	rng := parseRange(rangeHeader, size)
	if rng.kind == rangeUnsatisfiable {
		e := s3err(http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "The requested range is not satisfiable")
		if rq.quirks.BareRange {
			return whole, e
		}
		e.header = map[string]string{"Content-Range": "bytes */" + strconv.FormatInt(size, 10)}
		return whole, e
	}
	return rng, nil
}

func (rq *request) selectPart(v *version, number string) (byteRange, *s3Error) {
	bad := s3err(http.StatusRequestedRangeNotSatisfiable, "InvalidPartNumber", "The requested partnumber is not satisfiable")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > maxPartNumber {
		return byteRange{}, s3err(http.StatusBadRequest, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
	}
	if len(v.parts) == 0 { // a plain object is its own only part
		if n != 1 {
			return byteRange{}, bad
		}
		if v.content.size == 0 {
			return byteRange{}, nil
		}
		return byteRange{0, v.content.size, rangePartial}, nil
	}
	rq.w.Header().Set("X-Amz-Mp-Parts-Count", strconv.Itoa(len(v.parts)))
	if n > len(v.parts) {
		return byteRange{}, bad
	}
	p := v.parts[n-1] // by position, because S3 renumbers parts on completion
	if rq.r.Header.Get("X-Amz-Checksum-Mode") == "ENABLED" {
		for a, sum := range p.sums {
			rq.w.Header().Set(checksumHeader(a), sum)
		}
	}
	return byteRange{p.off, p.n, rangePartial}, nil
}

// serve sends a whole content or a range of it, with the faults in headers.
// Objects and blobs share it.
func (rq *request) serve(c *content, rng byteRange) {
	if rq.fx.find(ActEmpty) != nil {
		rq.answer(http.StatusOK, c, 0, 0)
		return
	}
	if rng.kind == rangeNone || rq.fx.find(ActIgnoreRange) != nil {
		rng = byteRange{0, c.size, rangeNone}
		if f := rq.fx.find(ActShort); f != nil {
			rng.n -= f.size(rng.n)
		}
		rq.answer(http.StatusOK, c, rng.off, rng.n)
		return
	}
	if f := rq.fx.find(ActShort); f != nil {
		rng.n = max(1, rng.n-f.size(rng.n))
	}
	off, total := rng.off, c.size
	if f := rq.fx.find(ActWrongRange); f != nil {
		off += max(1, f.Bytes)
	}
	if f := rq.fx.find(ActWrongTotal); f != nil {
		total += max(1, f.Bytes)
	}
	cr := contentRange(off, rng.n, total)
	if rq.fx.find(ActMultipart) != nil {
		rq.serveMultipart(c, rng, cr)
		return
	}
	rq.w.Header().Set("Content-Range", cr)
	rq.answer(http.StatusPartialContent, c, rng.off, rng.n)
}

// serveMultipart answers one range in the format for several ranges.
func (rq *request) serveMultipart(c *content, rng byteRange, contentRange string) {
	const boundary = "PENSTOCKORIGIN"
	h := rq.w.Header()
	head := "\r\n--" + boundary + "\r\nContent-Type: " + h.Get("Content-Type") + "\r\nContent-Range: " + contentRange + "\r\n\r\n"
	segs := []segment{{b: &backing{mem: []byte(head)}, n: int64(len(head))}}
	segs = append(segs, c.slice(rng.off, rng.n)...)
	tail := "\r\n--" + boundary + "--\r\n"
	segs = append(segs, segment{b: &backing{mem: []byte(tail)}, n: int64(len(tail))})
	whole := newContent(segs)
	defer whole.release()
	h.Set("Content-Type", "multipart/byteranges; boundary="+boundary)
	rq.document = true
	rq.answer(http.StatusPartialContent, whole, 0, whole.size)
}

// checkCustomerKey refuses a request without the SSE-C key that the object was
// stored with.
func (rq *request) checkCustomerKey(v *version) *s3Error {
	given := rq.r.Header.Get("X-Amz-Server-Side-Encryption-Customer-Key-Md5")
	switch {
	case v.sseKey == "" && given == "":
		return nil
	case given == "":
		return s3err(http.StatusBadRequest, "InvalidRequest", "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.")
	case v.sseKey == "":
		return s3err(http.StatusBadRequest, "InvalidRequest", "The encryption parameters are not applicable to this object.")
	case given != v.sseKey:
		return errS3Denied
	}
	rq.w.Header().Set("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256")
	rq.w.Header().Set("X-Amz-Server-Side-Encryption-Customer-Key-Md5", given)
	return nil
}
