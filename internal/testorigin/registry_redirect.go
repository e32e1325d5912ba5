package testorigin

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// redirect redirects a blob GET to a presigned URL on the second host. Every
// redirect has a URL of its own, so that its uses can be counted.
func (rq *request) redirect(expired bool) {
	u := &url.URL{
		Scheme: "http", Host: rq.o.host2, Path: "/" + rq.repo + "/blobs/" + rq.ref,
		RawQuery: "x-serial=" + strconv.FormatUint(rq.o.serial.Add(1), 10),
	}
	ttl := rq.o.opts.Registry.RedirectTTL
	if expired {
		ttl = -time.Second
	}
	rq.w.Header().Set("Location", rq.o.presign(http.MethodGet, u, ttl))
	rq.write(http.StatusTemporaryRedirect, "", nil)
}

// serveRedirected serves the second host, which takes only presigned GETs of
// blobs. Like S3 it refuses a request that also has an Authorization header,
// which a client sends if it wrongly forwards the registry's.
//
// With the quirk Redirect it also serves S3 requests.
func (o *Origin) serveRedirected(w http.ResponseWriter, r *http.Request) {
	if o.quirks.Load().Redirect != 0 && !r.URL.Query().Has("x-serial") {
		rq := o.newRequest(w, r)
		rq.second = true
		o.run(rq, rq.classify())
		return
	}
	rq := o.newRequest(w, r)
	rq.op = opUnknown
	path := strings.TrimPrefix(r.URL.Path, "/")
	if i := strings.LastIndex(path, "/blobs/"); i > 0 && r.Method == http.MethodGet {
		rq.op, rq.repo, rq.ref = opFetchBlob, path[:i], path[i+len("/blobs/"):]
		rq.ckey = rq.repo + "@" + rq.ref
	}
	o.run(rq, (*request).fetchBlob)
}

func (rq *request) fetchBlob() {
	if rq.op != opFetchBlob || !rq.q.Has("X-Amz-Signature") {
		rq.fail(errS3Denied)
		return
	}
	if _, e := rq.o.authenticate(rq.r); e != nil {
		rq.fail(e)
		return
	}
	if !rq.o.registry.useURL(rq.q.Get("X-Amz-Signature"), rq.o.opts.Registry.RedirectUses) {
		rq.fail(s3err(http.StatusForbidden, "AccessDenied", "Request has expired"))
		return
	}
	d, c := rq.openBlob(rq.ref)
	if c == nil {
		rq.fail(errNoSuchKey)
		return
	}
	defer c.release()
	if err := c.intact(); err != nil {
		rq.internal(err)
		return
	}
	rq.serveBlob(d, c)
}

// useURL counts one fetch of a redirect URL and reports whether the limit
// allows it; 0 allows any number.
func (g *registry) useURL(signature string, limit int) bool {
	if limit <= 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.urls[signature]++
	return g.urls[signature] <= limit
}
