package testorigin

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// redirect sends a blob GET to a presigned URL on the second host. Every URL is different, so that each can be counted.
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

// serveRedirected is the second host: presigned GETs of blobs and nothing else. Like S3 it refuses a request that also
// carries an Authorization header, which is what a client does that forwards it to where it does not belong.
//
// With the quirk of redirecting S3 requests it serves those too.
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

// useURL counts one fetch of a redirect URL; limit 0 is none.
func (g *registry) useURL(signature string, limit int) bool {
	if limit <= 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.urls[signature]++
	return g.urls[signature] <= limit
}
