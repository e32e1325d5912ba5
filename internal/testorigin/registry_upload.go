package testorigin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// blobUpload is an upload session: the chunks so far, in order.
type blobUpload struct {
	chunks []*content
	size   int64
	busy   bool // set while a request adds a chunk; others are refused
}

func (u *blobUpload) drop() {
	for _, c := range u.chunks {
		c.release()
	}
}

var errBodyTooLarge = errors.New("the request document is too large")

// smallBody reads a body that must fit in memory. Manifests have at most 4 MiB,
// as in other registries.
func (o *Origin) smallBody(rq *request) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(rq.body, maxXMLBody+1))
	if err == nil && len(raw) > maxXMLBody {
		err = errBodyTooLarge
	}
	return raw, err
}

// startUpload serves POST: a mount, a whole blob at once, or a new session.
func (rq *request) startUpload() {
	if from, d := rq.q.Get("from"), digest.Digest(rq.q.Get("mount")); d != "" && rq.mount(from, d) {
		rq.created("blobs/"+d.String(), d)
		return
	}
	if rq.q.Has("digest") {
		c, err := rq.store(rq.body)
		if err != nil {
			rq.registryFail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
			return
		}
		rq.finishBlob(c)
		return
	}
	id := rq.o.newID()
	g := &rq.o.registry
	g.mu.Lock()
	g.repoLocked(rq.repo).uploads[id] = &blobUpload{}
	g.mu.Unlock()
	rq.uploadState(http.StatusAccepted, id, 0)
}

// mount links a blob of another repository, if it exists.
func (rq *request) mount(from string, d digest.Digest) bool {
	g := &rq.o.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	src := g.repos[from]
	if src == nil || !src.blobs[d] || g.blobs[d] == nil {
		return false
	}
	g.repoLocked(rq.repo).blobs[d] = true
	return true
}

func (rq *request) created(location string, d digest.Digest) {
	rq.w.Header().Set("Location", "/v2/"+rq.repo+"/"+location)
	rq.w.Header().Set("Docker-Content-Digest", d.String())
	rq.write(http.StatusCreated, "", nil)
}

// uploadState answers with the URL of the session and the bytes that it has.
func (rq *request) uploadState(status int, id string, size int64) {
	h := rq.w.Header()
	h.Set("Location", "/v2/"+rq.repo+"/blobs/uploads/"+id)
	h.Set("Docker-Upload-Uuid", id)
	h.Set("Range", "0-"+strconv.FormatInt(max(0, size-1), 10))
	if status == http.StatusNoContent {
		rq.header(status)
		return
	}
	rq.write(status, "", nil)
}

var errUploadUnknown = errors.New("blob upload unknown to registry")

// acquireUpload finds the session of the request and marks it busy, until
// releaseUpload.
func (rq *request) acquireUpload() (*blobUpload, error) {
	g := &rq.o.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.repos[rq.repo]
	if r == nil || r.uploads[rq.ref] == nil {
		return nil, errUploadUnknown
	}
	u := r.uploads[rq.ref]
	if u.busy {
		return nil, errors.New("another request is writing to this upload")
	}
	u.busy = true
	return u, nil
}

// releaseUpload reverses acquireUpload, and removes the session if done is set.
func (rq *request) releaseUpload(u *blobUpload, done bool) {
	g := &rq.o.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	u.busy = false
	if done {
		delete(g.repoLocked(rq.repo).uploads, rq.ref)
	}
}

func (rq *request) uploadFail(err error) {
	if errors.Is(err, errUploadUnknown) {
		rq.registryFail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", err.Error())
		return
	}
	rq.registryFail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
}

// appendChunk adds the request's body to the session. A Content-Range must
// begin where the session ends.
func (rq *request) appendChunk(u *blobUpload) bool {
	if cr := rq.r.Header.Get("Content-Range"); cr != "" {
		first, last, _ := strings.Cut(strings.TrimPrefix(cr, "bytes "), "-")
		from, ok1 := parseDigits(first)
		to, ok2 := parseDigits(last)
		if !ok1 || !ok2 || from != u.size || rq.r.ContentLength >= 0 && to-from+1 != rq.r.ContentLength {
			rq.w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, u.size-1), 10))
			rq.registryFail(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf("chunk %q does not begin at byte %d", cr, u.size))
			return false
		}
	}
	c, err := rq.store(rq.body)
	if err != nil {
		rq.uploadFail(err)
		return false
	}
	u.chunks, u.size = append(u.chunks, c), u.size+c.size
	return true
}

func (rq *request) patchUpload() {
	u, err := rq.acquireUpload()
	if err != nil {
		rq.uploadFail(err)
		return
	}
	defer rq.releaseUpload(u, false) // also if a fault ends the request
	if rq.appendChunk(u) {
		rq.uploadState(http.StatusAccepted, rq.ref, u.size)
	}
}

func (rq *request) getUpload() {
	u, err := rq.acquireUpload()
	if err != nil {
		rq.uploadFail(err)
		return
	}
	size := u.size
	rq.releaseUpload(u, false)
	rq.uploadState(http.StatusNoContent, rq.ref, size)
}

func (rq *request) cancelUpload() {
	u, err := rq.acquireUpload()
	if err != nil {
		rq.uploadFail(err)
		return
	}
	rq.releaseUpload(u, true)
	u.drop()
	rq.header(http.StatusNoContent)
}

// putUpload ends a session. The body may have the last chunk.
func (rq *request) putUpload() {
	u, err := rq.acquireUpload()
	if err != nil {
		rq.uploadFail(err)
		return
	}
	done := false
	defer func() { rq.releaseUpload(u, done) }()
	if rq.r.ContentLength != 0 && !rq.appendChunk(u) {
		return
	}
	var segs []segment
	for _, c := range u.chunks {
		segs = append(segs, c.segs...)
	}
	whole := newContent(segs)
	done = true
	u.drop()
	rq.finishBlob(whole)
}

// finishBlob checks the content against the digest of the request and stores
// it. It takes over the reference to c.
func (rq *request) finishBlob(c *content) {
	d, err := digest.Parse(rq.q.Get("digest"))
	if err != nil {
		c.release()
		rq.registryFail(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	v := d.Verifier()
	if _, err := c.copyTo(v, 0, c.size); err != nil || !v.Verified() {
		c.release()
		rq.registryFail(http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
		return
	}
	rq.o.registry.addBlob(rq.repo, d, c)
	rq.created("blobs/"+d.String(), d)
}
