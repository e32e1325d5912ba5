package testorigin

import (
	"bytes"
	"crypto/md5" //nolint:gosec // Content-MD5 and the ETag are defined by MD5
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	// memoryBody is the size of the largest upload that is kept in memory
	// instead of a scratch file, because there are many small objects.
	memoryBody = 64 << 10
	// maxXMLBody bounds request documents. The largest valid one lists 10,000
	// parts with about 200 bytes each.
	maxXMLBody = 4 << 20
)

// upBody is an uploaded body that passed all its checks.
type upBody struct {
	content *content
	md5     []byte
	sums    map[string]string // the client's sums, which the body matches, or CRC64NVME if it sent none
}

// receive reads the request's body, decodes aws-chunked, and checks length,
// payload hash, Content-MD5 and checksums. extra names one more checksum to
// compute, or is "".
func (rq *request) receive(extra string) (upBody, *s3Error) {
	src, err := rq.bodySource()
	if err != nil {
		return upBody{}, s3ErrorOf(err)
	}
	want, trailer := rq.claimedSums()
	if extra != "" && want[extra] == "" && !slices.Contains(trailer, extra) {
		want[extra] = ""
	}
	if len(want) == 0 && len(trailer) == 0 {
		want["CRC64NVME"] = "" // S3 adds it since 2024
	}
	sinks := map[string]hash.Hash{}
	for _, a := range trailer {
		sinks[a] = newChecksum(a)
	}
	for a := range want {
		sinks[a] = newChecksum(a)
	}
	sum := md5.New() //nolint:gosec // as above
	writers := []io.Writer{sum}
	payload := rq.r.Header.Get("X-Amz-Content-Sha256")
	var payloadHash hash.Hash
	if len(payload) == sha256.Size*2 && !rq.id.anonymous {
		payloadHash = sha256.New()
		writers = append(writers, payloadHash)
	}
	for _, h := range sinks {
		writers = append(writers, h)
	}
	c, err := rq.store(io.TeeReader(src, io.MultiWriter(writers...)))
	if err != nil {
		return upBody{}, s3ErrorOf(err)
	}
	ub := upBody{content: c, md5: sum.Sum(nil), sums: map[string]string{}}
	if e := rq.checkBody(ub, src, payloadHash, payload); e != nil {
		c.release()
		return upBody{}, e
	}
	for a, h := range sinks {
		got := base64.StdEncoding.EncodeToString(h.Sum(nil))
		claimed := want[a]
		if cr, ok := src.(*chunkedReader); ok && slices.Contains(trailer, a) {
			claimed = cr.trailer.Get(checksumHeader(a))
		}
		if claimed != "" && claimed != got {
			c.release()
			return upBody{}, s3err(http.StatusBadRequest, "BadDigest", "The "+a+" you specified did not match the calculated checksum.")
		}
		ub.sums[a] = got
	}
	return ub, nil
}

// bodySource returns the decoded body.
func (rq *request) bodySource() (io.Reader, error) {
	payload := rq.r.Header.Get("X-Amz-Content-Sha256")
	switch {
	case strings.HasPrefix(payload, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"):
		if rq.id.anonymous {
			return newChunkedReader(rq.body, nil), nil
		}
		return newChunkedReader(rq.body, newChunkVerifier(rq.id)), nil
	case payload == "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
		return newChunkedReader(rq.body, nil), nil
	case strings.HasPrefix(payload, "STREAMING-"):
		return nil, s3err(http.StatusNotImplemented, "NotImplemented", "The payload signing "+payload+" is not implemented")
	}
	if rq.r.ContentLength < 0 {
		return nil, s3err(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
	}
	return rq.body, nil
}

// claimedSums returns the checksums in headers and the names of the checksums
// in the trailer.
func (rq *request) claimedSums() (headers map[string]string, trailer []string) {
	headers = map[string]string{}
	for _, a := range checksumAlgorithms {
		if v := rq.r.Header.Get(checksumHeader(a)); v != "" {
			headers[a] = v
		}
		if strings.EqualFold(strings.TrimSpace(rq.r.Header.Get("X-Amz-Trailer")), checksumHeader(a)) {
			trailer = append(trailer, a)
		}
	}
	if a := strings.ToUpper(rq.r.Header.Get("X-Amz-Sdk-Checksum-Algorithm")); newChecksum(a) != nil && len(headers)+len(trailer) == 0 {
		headers[a] = ""
	}
	return headers, trailer
}

func (rq *request) checkBody(ub upBody, src io.Reader, payloadHash hash.Hash, payload string) *s3Error {
	if _, ok := src.(*chunkedReader); ok {
		want, err := strconv.ParseInt(rq.r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
		if err != nil {
			return s3err(http.StatusLengthRequired, "MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
		}
		if want != ub.content.size {
			return s3err(http.StatusBadRequest, "IncompleteBody", "The decoded body is not as long as x-amz-decoded-content-length says.")
		}
	}
	if payloadHash != nil && hex.EncodeToString(payloadHash.Sum(nil)) != payload {
		return s3err(http.StatusBadRequest, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
	}
	if want := rq.r.Header.Get("Content-Md5"); want != "" {
		raw, err := base64.StdEncoding.DecodeString(want)
		if err != nil || len(raw) != md5.Size {
			return s3err(http.StatusBadRequest, "InvalidDigest", "The Content-MD5 you specified is not valid.")
		}
		if !bytes.Equal(raw, ub.md5) {
			return errBadDigest
		}
	}
	return nil
}

// store reads src to its end into memory or, if it is large, a scratch file.
func (rq *request) store(src io.Reader) (*content, error) {
	buf, err := io.ReadAll(io.LimitReader(src, memoryBody+1))
	if err != nil {
		return nil, err
	}
	if len(buf) <= memoryBody {
		return memContent(buf), nil
	}
	f, err := rq.o.scratch()
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, io.MultiReader(bytes.NewReader(buf), src))
	err = errors.Join(err, f.Close())
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, err
	}
	return fileContent(f.Name(), true)
}

// putObject serves PUT. It decides If-Match and If-None-Match when it stores
// the object.
func (rq *request) putObject() {
	ub, e := rq.receive("")
	if e != nil {
		rq.fail(e)
		return
	}
	v := &version{
		key: rq.key, content: ub.content, etag: hex.EncodeToString(ub.md5), header: storedHeaders(rq.r.Header),
		sums: ub.sums, sumType: fullObject, sseKey: rq.r.Header.Get("X-Amz-Server-Side-Encryption-Customer-Key-Md5"),
	}
	if e := rq.commit(v, rq.r.Header); e != nil {
		ub.content.release()
		rq.fail(e)
		return
	}
	h := rq.w.Header()
	h.Set("Etag", `"`+v.etag+`"`)
	for a, sum := range v.sums {
		h.Set(checksumHeader(a), sum)
	}
	h.Set("X-Amz-Checksum-Type", v.sumType)
	rq.echoEncryption(v)
	rq.write(http.StatusOK, "", nil)
}

func (rq *request) echoEncryption(v *version) {
	h := rq.w.Header()
	for _, name := range sseHeaders {
		if value := v.header[name]; value != "" {
			h.Set(name, value)
		}
	}
	if v.sseKey != "" {
		h.Set("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256")
		h.Set("X-Amz-Server-Side-Encryption-Customer-Key-Md5", v.sseKey)
	}
}

// commit stores v if the conditions in h hold for the current version,
// atomically with the check.
func (rq *request) commit(v *version, h http.Header) *s3Error {
	o := rq.o
	for {
		// The ETag of the current version may have to be computed, which must
		// not happen under the lock. So the loop checks, computes, and checks
		// again.
		o.store.mu.Lock()
		b := o.store.buckets[rq.bucket]
		if b == nil {
			o.store.mu.Unlock()
			return errNoSuchBucket
		}
		cur := b.findLocked(v.key, "")
		if cur != nil && cur.marker {
			cur = nil
		}
		var known string
		ok := true
		if cur != nil && h.Get("If-Match") != "" {
			known, ok = cur.knownETag()
		}
		if ok {
			e := writeConditions(h, cur != nil, known)
			if e == nil {
				o.store.putLocked(b, v, o)
				if b.versioning != "" {
					rq.w.Header().Set("X-Amz-Version-Id", v.id)
				}
			}
			o.store.mu.Unlock()
			return e
		}
		hold := cur.content.retain()
		o.store.mu.Unlock()
		_, err := cur.etagOf()
		hold.release()
		if err != nil {
			return s3err(http.StatusInternalServerError, "InternalError", err.Error())
		}
	}
}

// knownETag returns the ETag with quotes if it is known without reading the object.
func (v *version) knownETag() (string, bool) {
	if !v.lazy.TryLock() {
		return "", false
	}
	defer v.lazy.Unlock()
	return `"` + v.etag + `"`, v.etag != ""
}

// writeConditions decides whether a conditional write may replace the current
// version.
func writeConditions(h http.Header, exists bool, etag string) *s3Error {
	if m := h.Get("If-None-Match"); m != "" {
		if m != "*" {
			return s3err(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented")
		}
		if exists {
			return errPrecondition
		}
	}
	if m := h.Get("If-Match"); m != "" {
		if !exists {
			return errNoSuchKey
		}
		if !etagMatches(m, etag) {
			return errPrecondition
		}
	}
	return nil
}

var (
	systemHeaders = []string{
		"Content-Type", "Content-Language", "Content-Disposition", "Cache-Control", "Expires", "X-Amz-Storage-Class",
		"X-Amz-Website-Redirect-Location",
	}
	sseHeaders = []string{
		"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id",
		"X-Amz-Server-Side-Encryption-Bucket-Key-Enabled",
	}
)

// storedHeaders returns the request headers that a GET returns.
func storedHeaders(h http.Header) map[string]string {
	out := map[string]string{}
	for _, list := range [][]string{systemHeaders, sseHeaders} {
		for _, name := range list {
			if v := h.Get(name); v != "" {
				out[name] = v
			}
		}
	}
	for name, values := range h {
		if strings.HasPrefix(name, "X-Amz-Meta-") {
			out[name] = strings.Join(values, ",")
		}
	}
	// aws-chunked describes the transfer of the body and not the object.
	var codings []string
	for c := range strings.SplitSeq(h.Get("Content-Encoding"), ",") {
		if c = strings.TrimSpace(c); c != "" && c != "aws-chunked" {
			codings = append(codings, c)
		}
	}
	if len(codings) > 0 {
		out["Content-Encoding"] = strings.Join(codings, ",")
	}
	return out
}

// deleteObject serves DELETE of an object or of one version.
func (rq *request) deleteObject() {
	rq.o.store.mu.Lock()
	b := rq.o.store.buckets[rq.bucket]
	if b == nil {
		rq.o.store.mu.Unlock()
		rq.fail(errNoSuchBucket)
		return
	}
	asked := rq.q.Get("versionId")
	id, marker := rq.o.store.removeLocked(b, rq.key, asked, rq.o)
	versioned := b.versioning != "" || asked != ""
	rq.o.store.mu.Unlock()
	if versioned {
		rq.w.Header().Set("X-Amz-Version-Id", id)
		if marker {
			rq.w.Header().Set("X-Amz-Delete-Marker", "true")
		}
	}
	rq.header(http.StatusNoContent)
}
