package testorigin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Names of the registry operations, as fault rules and counters use them.
// FetchBlob is the redirected GET of a blob.
const (
	opPing           = "Ping"
	opToken          = "Token"
	opGetBlob        = "GetBlob"
	opHeadBlob       = "HeadBlob"
	opDeleteBlob     = "DeleteBlob"
	opFetchBlob      = "FetchBlob"
	opStartUpload    = "StartUpload"
	opPatchUpload    = "PatchUpload"
	opPutUpload      = "PutUpload"
	opGetUpload      = "GetUpload"
	opCancelUpload   = "CancelUpload"
	opGetManifest    = "GetManifest"
	opHeadManifest   = "HeadManifest"
	opPutManifest    = "PutManifest"
	opDeleteManifest = "DeleteManifest"
	opListTags       = "ListTags"
	opReferrers      = "Referrers"
	opCatalog        = "Catalog"
)

// registry holds repositories. Repositories share blobs: each one has the set
// of blobs that it may serve.
type registry struct {
	mu     sync.RWMutex // guards the fields below; never held during I/O
	blobs  map[digest.Digest]*content
	repos  map[string]*repository
	urls   map[string]int // fetches of each redirect URL, by signature
	secret []byte         // signs tokens
}

type repository struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]*manifest
	tags      map[string]digest.Digest
	uploads   map[string]*blobUpload
}

type manifest struct {
	mediaType string
	body      []byte
	doc       manifestDoc
}

func (g *registry) init() {
	g.blobs = map[digest.Digest]*content{}
	g.repos = map[string]*repository{}
	g.urls = map[string]int{}
	// Tokens protect no secret, so the key is fixed: a test can make tokens,
	// and they survive a restart of the origin.
	g.secret = []byte("penstock origin token key")
}

// drop releases all blobs and upload sessions.
func (g *registry) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.blobs {
		c.release()
	}
	for _, r := range g.repos {
		for _, u := range r.uploads {
			u.drop()
		}
	}
	g.blobs, g.repos = map[digest.Digest]*content{}, map[string]*repository{}
}

// repoLocked returns the repository and makes a missing one. mu must be held.
func (g *registry) repoLocked(name string) *repository {
	r := g.repos[name]
	if r == nil {
		r = &repository{
			blobs: map[digest.Digest]bool{}, manifests: map[digest.Digest]*manifest{}, tags: map[string]digest.Digest{},
			uploads: map[string]*blobUpload{},
		}
		g.repos[name] = r
	}
	return r
}

// addBlob links the blob into the repository and takes over the caller's
// reference to c.
func (g *registry) addBlob(name string, d digest.Digest, c *content) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.blobs[d] != nil {
		c.release() // the blob exists already
	} else {
		g.blobs[d] = c
	}
	g.repoLocked(name).blobs[d] = true
}

// PutBlob stores a blob in memory and returns its sha256 digest. The origin
// keeps body, which must not be changed.
func (o *Origin) PutBlob(repo string, body []byte) digest.Digest {
	d := digest.FromBytes(body)
	o.registry.addBlob(repo, d, memContent(body))
	return d
}

// PutBlobFile serves the file at path as a blob without copying it. If d is "",
// the file is read once for its sha256 digest. Otherwise d is not checked, so
// that a test can serve bytes that do not match their digest.
func (o *Origin) PutBlobFile(repo, path string, d digest.Digest) (digest.Digest, error) {
	c, err := fileContent(path, false)
	if err != nil {
		return "", err
	}
	if d == "" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		d, err = digest.FromReader(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", err
		}
	}
	o.registry.addBlob(repo, d, c)
	return d, nil
}

// PutManifest stores a manifest or index, tags it unless tag is "", and returns
// its digest. Unlike a push, it does not check that the blobs exist. If
// mediaType is "", the document's own mediaType is used.
func (o *Origin) PutManifest(repo, tag, mediaType string, body []byte) (digest.Digest, error) {
	m := &manifest{mediaType: mediaType, body: body}
	if err := json.Unmarshal(body, &m.doc); err != nil {
		return "", fmt.Errorf("testorigin: manifest for %s: %w", repo, err)
	}
	if m.mediaType == "" {
		m.mediaType = m.doc.MediaType
	}
	d := digest.FromBytes(body)
	o.registry.mu.Lock()
	defer o.registry.mu.Unlock()
	r := o.registry.repoLocked(repo)
	r.manifests[d] = m
	if tag != "" {
		r.tags[tag] = d
	}
	return d, nil
}

var repoName = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

// route is the result of parsing a registry path.
type route struct {
	op      string
	actions string // actions on the repository that a token must allow
	handler func(*request)
}

// classifyRegistry determines the operation from the method and the path.
func (rq *request) classifyRegistry() func(*request) {
	rq.isRegistry = true
	path := strings.TrimSuffix(rq.r.URL.Path, "/")
	var rt route
	switch {
	case path == "/token":
		rq.op, rq.ckey = opToken, "token"
		return (*request).serveToken
	case path == "/v2":
		rt = route{opPing, "", (*request).ping}
		rq.ckey = "v2"
	case path == "/v2/_catalog":
		rt = route{opCatalog, "", (*request).catalog}
		rq.ckey = "v2"
	default:
		rt = rq.repoRoute(strings.TrimPrefix(rq.r.URL.Path, "/v2/"))
	}
	rq.op = rt.op
	if rt.handler == nil {
		rq.op = opUnknown
		rt.handler = func(rq *request) { rq.registryFail(http.StatusNotFound, "UNSUPPORTED", "no such endpoint") }
	}
	return func(rq *request) {
		rq.w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if rq.repo != "" && !repoName.MatchString(rq.repo) {
			rq.registryFail(http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
			return
		}
		if rq.authorize(rt.actions) {
			rt.handler(rq)
		}
	}
}

// repoRoute splits the path at the last word such as /blobs/, because a repository
// name may contain these words.
func (rq *request) repoRoute(path string) route {
	for _, marker := range []string{"/blobs/uploads/", "/manifests/", "/blobs/", "/referrers/", "/tags/list"} {
		i := strings.LastIndex(path, marker)
		if i < 0 {
			continue
		}
		rest := path[i+len(marker):]
		if strings.Contains(rest, "/") || (marker == "/tags/list") != (rest == "") && marker != "/blobs/uploads/" {
			continue
		}
		rq.repo, rq.ref = path[:i], rest
		rq.ckey = rq.repo
		switch marker {
		case "/manifests/", "/blobs/", "/referrers/":
			sep := "@"
			if !strings.Contains(rest, ":") {
				sep = ":" // a tag
			}
			rq.ckey += sep + rest
		}
		return rq.methodRoute(marker)
	}
	return route{}
}

func (rq *request) methodRoute(marker string) route {
	type key struct{ marker, method string }
	routes := map[key]route{
		{"/manifests/", "GET"}:    {opGetManifest, "pull", (*request).getManifest},
		{"/manifests/", "HEAD"}:   {opHeadManifest, "pull", (*request).getManifest},
		{"/manifests/", "PUT"}:    {opPutManifest, "pull,push", (*request).putManifest},
		{"/manifests/", "DELETE"}: {opDeleteManifest, "delete", (*request).deleteManifest},
		{"/blobs/", "GET"}:        {opGetBlob, "pull", (*request).getBlob},
		{"/blobs/", "HEAD"}:       {opHeadBlob, "pull", (*request).getBlob},
		{"/blobs/", "DELETE"}:     {opDeleteBlob, "delete", (*request).deleteBlob},
		{"/referrers/", "GET"}:    {opReferrers, "pull", (*request).referrers},
		{"/tags/list", "GET"}:     {opListTags, "pull", (*request).listTags},
	}
	if marker == "/blobs/uploads/" {
		if rq.ref == "" && rq.r.Method == http.MethodPost {
			return route{opStartUpload, "pull,push", (*request).startUpload}
		}
		return map[string]route{
			"PATCH":  {opPatchUpload, "pull,push", (*request).patchUpload},
			"PUT":    {opPutUpload, "pull,push", (*request).putUpload},
			"GET":    {opGetUpload, "pull,push", (*request).getUpload},
			"DELETE": {opCancelUpload, "pull,push", (*request).cancelUpload},
		}[rq.r.Method]
	}
	return routes[key{marker, rq.r.Method}]
}

// registryFail answers with an error in the format of the distribution API.
func (rq *request) registryFail(status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, _ := json.Marshal(map[string][]entry{"errors": {{code, message}}}) // strings always marshal
	for _, name := range []string{"Etag", "Docker-Content-Digest", "Accept-Ranges"} {
		rq.w.Header().Del(name)
	}
	rq.write(status, "application/json", body)
}

func (rq *request) ping() { rq.write(http.StatusOK, "application/json", []byte("{}")) }

func (rq *request) catalog() {
	rq.o.registry.mu.RLock()
	names := make([]string, 0, len(rq.o.registry.repos))
	for name := range rq.o.registry.repos {
		names = append(names, name)
	}
	rq.o.registry.mu.RUnlock()
	slices.Sort(names)
	body, _ := json.Marshal(map[string][]string{"repositories": names})
	rq.write(http.StatusOK, "application/json", body)
}

// listTags serves tags/list with n and last.
func (rq *request) listTags() {
	rq.o.registry.mu.RLock()
	r := rq.o.registry.repos[rq.repo]
	tags := []string{}
	if r != nil {
		for t := range r.tags {
			tags = append(tags, t)
		}
	}
	rq.o.registry.mu.RUnlock()
	if r == nil {
		rq.registryFail(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	slices.Sort(tags)
	if last := rq.q.Get("last"); last != "" {
		i, found := slices.BinarySearch(tags, last)
		if found {
			i++
		}
		tags = tags[i:]
	}
	if n, err := strconv.Atoi(rq.q.Get("n")); err == nil && n >= 0 && n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			rq.w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?n=%d&last=%s>; rel="next"`, rq.repo, n, tags[n-1]))
		}
	}
	body, _ := json.Marshal(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{rq.repo, tags})
	rq.write(http.StatusOK, "application/json", body)
}

// openBlob returns a reference to a blob that the repository may serve. The
// caller must release it.
func (rq *request) openBlob(ref string) (digest.Digest, *content) {
	d := digest.Digest(ref)
	rq.o.registry.mu.RLock()
	defer rq.o.registry.mu.RUnlock()
	r := rq.o.registry.repos[rq.repo]
	if r == nil || !r.blobs[d] || rq.o.registry.blobs[d] == nil {
		return d, nil
	}
	return d, rq.o.registry.blobs[d].retain()
}

// getBlob serves GET and HEAD of a blob, or redirects a GET.
func (rq *request) getBlob() {
	if _, err := digest.Parse(rq.ref); err != nil {
		rq.registryFail(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	d, c := rq.openBlob(rq.ref)
	if c == nil {
		rq.registryFail(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	defer c.release()
	expire := rq.fx.find(ActExpire) != nil
	if rq.o.opts.Registry.RedirectBlobs && rq.op == opGetBlob {
		rq.redirect(expire)
		return
	}
	if expire {
		rq.challenge(`error="invalid_token"`)
		return
	}
	if err := c.intact(); err != nil {
		rq.registryFail(http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	rq.serveBlob(d, c)
}

func (rq *request) serveBlob(d digest.Digest, c *content) {
	h := rq.w.Header()
	etag := `"` + d.String() + `"`
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Accept-Ranges", "bytes")
	h.Set("Etag", etag)
	if e := rq.preconditions(etag, time.Unix(0, 0)); e != nil {
		rq.fail(e)
		return
	}
	rng := parseRange(rq.r.Header.Get("Range"), c.size)
	if ir := rq.r.Header.Get("If-Range"); ir != "" && ir != etag {
		rng = byteRange{0, c.size, rangeNone}
	}
	if rng.kind == rangeUnsatisfiable {
		total := "bytes */" + strconv.FormatInt(c.size, 10)
		if rq.op == opFetchBlob { // the store behind the registry answers like S3
			e := s3err(http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "The requested range is not satisfiable")
			e.header = map[string]string{"Content-Range": total}
			rq.fail(e)
			return
		}
		h.Set("Content-Range", total)
		rq.registryFail(http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "the range is not satisfiable")
		return
	}
	rq.serve(c, rng)
}

func (rq *request) deleteBlob() {
	d := digest.Digest(rq.ref)
	g := &rq.o.registry
	g.mu.Lock()
	r := g.repos[rq.repo]
	ok := r != nil && r.blobs[d]
	if ok {
		delete(r.blobs, d)
	}
	g.mu.Unlock()
	if !ok {
		rq.registryFail(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	rq.w.Header().Set("Docker-Content-Digest", d.String())
	rq.header(http.StatusAccepted)
}
