package testorigin

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Names of the S3 operations, as fault rules and counters use them.
const (
	opListBuckets             = "ListBuckets"
	opCreateBucket            = "CreateBucket"
	opHeadBucket              = "HeadBucket"
	opDeleteBucket            = "DeleteBucket"
	opGetBucketLocation       = "GetBucketLocation"
	opGetBucketVersioning     = "GetBucketVersioning"
	opPutBucketVersioning     = "PutBucketVersioning"
	opListObjects             = "ListObjects"
	opListObjectsV2           = "ListObjectsV2"
	opListObjectVersions      = "ListObjectVersions"
	opListMultipartUploads    = "ListMultipartUploads"
	opGetObject               = "GetObject"
	opHeadObject              = "HeadObject"
	opPutObject               = "PutObject"
	opCopyObject              = "CopyObject"
	opDeleteObject            = "DeleteObject"
	opDeleteObjects           = "DeleteObjects"
	opGetObjectAttributes     = "GetObjectAttributes"
	opCreateMultipartUpload   = "CreateMultipartUpload"
	opUploadPart              = "UploadPart"
	opUploadPartCopy          = "UploadPartCopy"
	opCompleteMultipartUpload = "CompleteMultipartUpload"
	opAbortMultipartUpload    = "AbortMultipartUpload"
	opListParts               = "ListParts"
	opUnknown                 = "Unknown"
)

// s3Error is an answer in the error format of S3.
type s3Error struct {
	status        int
	code, message string
	region        string // correct region, for PermanentRedirect and AuthorizationHeaderMalformed
	header        map[string]string
}

func s3err(status int, code, message string) *s3Error {
	return &s3Error{status: status, code: code, message: message}
}

var (
	errNoSuchKey    = s3err(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	errNoSuchBucket = s3err(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
	errNoSuchUpload = s3err(http.StatusNotFound, "NoSuchUpload", "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.")
	errPrecondition = s3err(http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
	errS3Denied     = s3err(http.StatusForbidden, "AccessDenied", "Access Denied")
	errMalformedXML = s3err(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	errBadDigest    = s3err(http.StatusBadRequest, "BadDigest", "The Content-MD5 or checksum value that you specified did not match what the server received.")
)

// classifyS3 determines the operation from the method, the path and the query.
func (rq *request) classifyS3() func(*request) {
	r := rq.r
	path := strings.TrimPrefix(r.URL.Path, "/")
	if host, _, _ := strings.Cut(r.Host, ":"); strings.HasSuffix(host, ".localhost") { // virtual-host style
		path = strings.TrimSuffix(host, ".localhost") + "/" + path
	}
	rq.bucket, rq.key, _ = strings.Cut(path, "/")
	rq.ckey = rq.bucket
	if rq.key != "" {
		rq.ckey += "/" + rq.key
	}
	var h func(*request)
	switch {
	case rq.bucket == "":
		rq.op, h = opListBuckets, (*request).listBuckets
	case rq.key == "":
		rq.op, h = rq.bucketOp()
	default:
		rq.op, h = rq.objectOp()
	}
	if h == nil {
		rq.op = opUnknown
	}
	return func(rq *request) {
		if e := rq.admit(); e != nil {
			rq.fail(e)
			return
		}
		if h == nil {
			rq.fail(s3err(http.StatusNotImplemented, "NotImplemented", "A header or query you provided implies functionality that is not implemented"))
			return
		}
		h(rq)
	}
}

func (rq *request) bucketOp() (string, func(*request)) {
	q := rq.q
	switch rq.r.Method {
	case http.MethodHead:
		return opHeadBucket, (*request).headBucket
	case http.MethodGet:
		switch {
		case q.Has("location"):
			return opGetBucketLocation, (*request).bucketLocation
		case q.Has("versioning"):
			return opGetBucketVersioning, (*request).bucketVersioning
		case q.Has("versions"):
			return opListObjectVersions, (*request).listVersions
		case q.Has("uploads"):
			return opListMultipartUploads, (*request).listUploads
		case q.Get("list-type") == "2":
			return opListObjectsV2, (*request).listV2
		case hasAny(q, "acl", "policy", "lifecycle", "tagging", "cors", "encryption", "object-lock", "website", "replication"):
			return opUnknown, nil
		}
		return opListObjects, (*request).listV1
	case http.MethodPut:
		switch {
		case q.Has("versioning"):
			return opPutBucketVersioning, (*request).putVersioning
		case hasAny(q, "acl", "policy", "lifecycle", "tagging", "cors", "encryption", "object-lock", "website", "replication"):
			return opUnknown, nil
		}
		return opCreateBucket, (*request).createBucket
	case http.MethodDelete:
		return opDeleteBucket, (*request).deleteBucket
	case http.MethodPost:
		if q.Has("delete") {
			return opDeleteObjects, (*request).deleteObjects
		}
	}
	return opUnknown, nil
}

func (rq *request) objectOp() (string, func(*request)) {
	q := rq.q
	copied := rq.r.Header.Get("X-Amz-Copy-Source") != ""
	switch rq.r.Method {
	case http.MethodHead:
		return opHeadObject, (*request).getObject
	case http.MethodGet:
		switch {
		case q.Has("uploadId"):
			return opListParts, (*request).listParts
		case q.Has("attributes"):
			return opGetObjectAttributes, (*request).objectAttributes
		case hasAny(q, "acl", "tagging", "retention", "legal-hold", "torrent"):
			return opUnknown, nil
		}
		return opGetObject, (*request).getObject
	case http.MethodPut:
		switch {
		case q.Has("uploadId") && copied:
			return opUploadPartCopy, (*request).uploadPartCopy
		case q.Has("uploadId"):
			return opUploadPart, (*request).uploadPart
		case hasAny(q, "acl", "tagging", "retention", "legal-hold"):
			return opUnknown, nil
		case copied:
			return opCopyObject, (*request).copyObject
		}
		return opPutObject, (*request).putObject
	case http.MethodPost:
		switch {
		case q.Has("uploads"):
			return opCreateMultipartUpload, (*request).createUpload
		case q.Has("uploadId"):
			return opCompleteMultipartUpload, (*request).completeUpload
		}
	case http.MethodDelete:
		if q.Has("uploadId") {
			return opAbortMultipartUpload, (*request).abortUpload
		}
		return opDeleteObject, (*request).deleteObject
	}
	return opUnknown, nil
}

func hasAny(q map[string][]string, names ...string) bool {
	for _, n := range names {
		if _, ok := q[n]; ok {
			return true
		}
	}
	return false
}

// admit checks the signature, and then the bucket's conditions for every
// request: region, owner, payer.
func (rq *request) admit() *s3Error {
	var e *s3Error
	if rq.id, e = rq.o.authenticate(rq.r); e != nil {
		return e
	}
	if e := rq.applyQuirks(); e != nil {
		return e
	}
	if rq.bucket == "" || rq.op == opCreateBucket {
		return nil
	}
	rq.o.store.mu.RLock()
	defer rq.o.store.mu.RUnlock()
	b := rq.o.store.buckets[rq.bucket]
	if b == nil {
		return errNoSuchBucket
	}
	if !rq.id.anonymous && rq.id.sig.region != b.opts.Region && rq.op != opGetBucketLocation {
		e := s3err(http.StatusMovedPermanently, "PermanentRedirect",
			"The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.")
		e.region = b.opts.Region
		return e
	}
	if owner := rq.r.Header.Get("X-Amz-Expected-Bucket-Owner"); owner != "" && owner != b.opts.Owner {
		return errS3Denied
	}
	if b.opts.RequesterPays {
		if rq.r.Header.Get("X-Amz-Request-Payer") != "requester" && rq.q.Get("x-amz-request-payer") != "requester" {
			return errS3Denied
		}
		rq.w.Header().Set("X-Amz-Request-Charged", "requester")
	}
	return nil
}

// fail answers with an S3 error.
func (rq *request) fail(e *s3Error) {
	h := rq.w.Header()
	for _, name := range []string{"Etag", "Last-Modified", "Accept-Ranges", "Content-Range", "Content-Encoding", "Cache-Control"} {
		h.Del(name)
	}
	for name, value := range e.header {
		h.Set(name, value)
	}
	if e.region != "" {
		h.Set("X-Amz-Bucket-Region", e.region)
	}
	id := fmt.Sprintf("%016X", mix(rq.o.serial.Add(1)))
	h.Set("X-Amz-Request-Id", id)
	h.Set("X-Amz-Id-2", "penstock-origin")
	if e.status == http.StatusNotModified || rq.r.Method == http.MethodHead {
		if e.status != http.StatusNotModified {
			h.Set("Content-Type", "application/xml")
		}
		rq.header(e.status)
		return
	}
	x := newXML("Error", "")
	x.text("Code", e.code)
	x.text("Message", e.message)
	if e.region != "" {
		x.text("Region", e.region)
		x.text("Bucket", rq.bucket)
		x.text("Endpoint", rq.o.Host())
	}
	x.text("Resource", rq.r.URL.Path)
	x.text("RequestId", id)
	rq.sendXML(e.status, x)
}

// failWith is the effect of ActStatus.
func (rq *request) failWith(f *firing) {
	status := f.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	if f.RetryAfter > 0 || f.RetryDate {
		value := strconv.FormatInt(int64((f.RetryAfter+time.Second-1)/time.Second), 10)
		if f.RetryDate {
			value = rq.o.opts.Now().Add(f.RetryAfter).UTC().Format(http.TimeFormat)
		}
		rq.w.Header().Set("Retry-After", value)
	}
	code := f.Error
	if code == "" {
		code = codeOf(status)
	}
	if rq.isRegistry {
		rq.registryFail(status, code, "injected fault")
		return
	}
	rq.fail(s3err(status, code, "Injected fault."))
}

// page is the effect of ActPage, an HTML page like a proxy's.
func (rq *request) page(f *firing) {
	status := f.Status
	if status == 0 {
		status = http.StatusOK
	}
	rq.write(status, "text/html", []byte(proxyPage))
}

const proxyPage = "<html><body>The service is being maintained, please try again.</body></html>\n"

func codeOf(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "SlowDown"
	case http.StatusTooManyRequests:
		return "TooManyRequests"
	case http.StatusInternalServerError:
		return "InternalError"
	case http.StatusForbidden:
		return "AccessDenied"
	case http.StatusNotFound:
		return "NoSuchKey"
	case http.StatusPreconditionFailed:
		return "PreconditionFailed"
	case http.StatusBadRequest:
		return "InvalidRequest"
	}
	return strings.ReplaceAll(http.StatusText(status), " ", "")
}

// expire is the effect of ActExpire: S3's answers to expired credentials and to
// an expired presigned URL.
func (rq *request) expire() {
	switch {
	case rq.q.Has("X-Amz-Signature"):
		rq.fail(s3err(http.StatusForbidden, "AccessDenied", "Request has expired"))
	case rq.repo != "":
		rq.challenge(`error="invalid_token"`)
	default:
		rq.fail(s3err(http.StatusBadRequest, "ExpiredToken", "The provided token has expired."))
	}
}

// internal answers 500 for an error of the origin itself, such as a file that
// was removed.
func (rq *request) internal(err error) {
	rq.o.opts.Log.Error("origin", "op", rq.op, "key", rq.ckey, "err", err)
	rq.fail(s3err(http.StatusInternalServerError, "InternalError", err.Error()))
}

// xmlDoc writes the flat documents of S3 without reflection, because listings
// of thousands of keys are the hot path of a walk.
type xmlDoc struct {
	b    strings.Builder
	open []string
}

const s3Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

func newXML(root, namespace string) *xmlDoc {
	x := &xmlDoc{open: []string{root}}
	x.b.WriteString(xml.Header + "<" + root)
	if namespace != "" {
		x.b.WriteString(` xmlns="` + namespace + `"`)
	}
	x.b.WriteString(">")
	return x
}

func (x *xmlDoc) start(name string) {
	x.b.WriteString("<" + name + ">")
	x.open = append(x.open, name)
}

func (x *xmlDoc) end() {
	n := len(x.open) - 1
	x.b.WriteString("</" + x.open[n] + ">")
	x.open = x.open[:n]
}

func (x *xmlDoc) text(name, value string) {
	x.b.WriteString("<" + name + ">")
	if plain(value) { // true for nearly all keys in listings
		x.b.WriteString(value)
		x.b.WriteString("</" + name + ">")
		return
	}
	for _, c := range value {
		// S3 writes control characters as references that XML 1.0 forbids;
		// clients that may meet such keys must ask for encoding-type=url. The
		// origin does the same.
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			fmt.Fprintf(&x.b, "&#x%X;", c)
			continue
		}
		_ = xml.EscapeText(&x.b, []byte(string(c)))
	}
	x.b.WriteString("</" + name + ">")
}

// plain reports whether s needs no escaping in XML.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '<' || c == '>' || c == '&' || c == '"' || c == '\'' {
			return false
		}
	}
	return true
}

func (x *xmlDoc) num(name string, n int64) { x.text(name, strconv.FormatInt(n, 10)) }

func (x *xmlDoc) bytes() []byte {
	for len(x.open) > 0 {
		x.end()
	}
	return []byte(x.b.String())
}

func (rq *request) sendXML(status int, x *xmlDoc) {
	rq.write(status, "application/xml", x.bytes())
}

// s3ErrorOf maps an error of reading a body to its answer.
func s3ErrorOf(err error) *s3Error {
	var e *s3Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, errChunkSignature):
		return s3err(http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
	case errors.Is(err, errChunkSyntax):
		return s3err(http.StatusBadRequest, "InvalidRequest", err.Error())
	}
	return s3err(http.StatusBadRequest, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header")
}

func (e *s3Error) Error() string { return e.code + ": " + e.message }
