package testorigin

import (
	"net/http"
	"strings"
)

// copySource finds the object in X-Amz-Copy-Source and checks the conditions on
// it; the caller releases it.
func (rq *request) copySource() (opened, *s3Error) {
	src := rq.r.Header.Get("X-Amz-Copy-Source")
	path, query, _ := strings.Cut(src, "?")
	path, err := unescapePath(path)
	if err != nil {
		return opened{}, s3err(http.StatusBadRequest, "InvalidArgument", "Invalid copy source encoding")
	}
	bucketName, key, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || key == "" {
		return opened{}, s3err(http.StatusBadRequest, "InvalidArgument", "Invalid copy source object key")
	}
	own := rq.w.Header().Get("X-Amz-Version-Id")
	v, e := rq.openVersion(bucketName, key, strings.TrimPrefix(query, "versionId="))
	if e != nil {
		return opened{}, e
	}
	if id := rq.w.Header().Get("X-Amz-Version-Id"); id != own { // openVersion has set the source's version here
		rq.w.Header().Del("X-Amz-Version-Id")
		rq.w.Header().Set("X-Amz-Copy-Source-Version-Id", id)
	}
	etag, err := v.etagOf()
	if err != nil {
		v.content.release()
		return opened{}, s3err(http.StatusInternalServerError, "InternalError", err.Error())
	}
	h := rq.r.Header
	if m := h.Get("X-Amz-Copy-Source-If-Match"); m != "" && !etagMatches(m, etag) {
		e = errPrecondition
	}
	if m := h.Get("X-Amz-Copy-Source-If-None-Match"); m != "" && etagMatches(m, etag) {
		e = errPrecondition
	}
	if e != nil {
		v.content.release()
		return opened{}, e
	}
	return v, nil
}

func (rq *request) copyObject() {
	v, e := rq.copySource()
	if e != nil {
		rq.fail(e)
		return
	}
	defer v.content.release()
	etag, _ := v.etagOf()
	sums, sumType, err := v.checksums()
	if err != nil {
		rq.internal(err)
		return
	}
	// A copy is a plain object even if its source has parts, and shares its
	// bytes. It also shares the hash, unless that is a hash of parts. Then the
	// hash is computed at the first request for it.
	n := &version{
		key: rq.key, content: newContent(v.content.segs), header: v.header, sums: sums, sumType: sumType,
		sseKey: rq.r.Header.Get("X-Amz-Server-Side-Encryption-Customer-Key-Md5"),
	}
	if len(v.parts) == 0 {
		n.etag = strings.Trim(etag, `"`)
	}
	if sumType == composite {
		n.sums, n.sumType, n.want = nil, "", true
	}
	if rq.r.Header.Get("X-Amz-Metadata-Directive") == "REPLACE" {
		n.header = storedHeaders(rq.r.Header)
	}
	if e := rq.commit(n, rq.r.Header); e != nil {
		n.content.release()
		rq.fail(e)
		return
	}
	if etag, err = n.etagOf(); err != nil {
		rq.internal(err)
		return
	}
	x := newXML("CopyObjectResult", s3Namespace)
	x.text("ETag", etag)
	x.time("LastModified", n.modified)
	for a, sum := range sums {
		if sumType == fullObject {
			x.text("Checksum"+a, sum)
		}
	}
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) uploadPartCopy() {
	n, e := rq.partNumber()
	if e != nil {
		rq.fail(e)
		return
	}
	algorithm, e := rq.uploadAlgorithm()
	if e != nil {
		rq.fail(e)
		return
	}
	v, e := rq.copySource()
	if e != nil {
		rq.fail(e)
		return
	}
	defer v.content.release()
	rng := parseRange(rq.r.Header.Get("X-Amz-Copy-Source-Range"), v.content.size)
	if rng.kind == rangeUnsatisfiable {
		rq.fail(s3err(http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "The requested range is not satisfiable"))
		return
	}
	c := newContent(v.content.slice(rng.off, rng.n))
	ub, err := hashContent(c, algorithm)
	if err != nil {
		c.release()
		rq.internal(err)
		return
	}
	p := &upPart{body: ub, modified: rq.o.opts.Now()}
	if e := rq.addPart(n, p); e != nil {
		rq.fail(e)
		return
	}
	x := newXML("CopyPartResult", s3Namespace)
	x.text("ETag", p.etag())
	x.time("LastModified", p.modified)
	for a, sum := range ub.sums {
		x.text("Checksum"+a, sum)
	}
	rq.sendXML(http.StatusOK, x)
}
