package testorigin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifestDoc has the fields of manifests and indexes that the registry reads.
type manifestDoc struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

var tagName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// findManifestLocked resolves a tag or digest. mu must be held.
func (g *registry) findManifestLocked(repo, ref string) (digest.Digest, *manifest) {
	r := g.repos[repo]
	if r == nil {
		return "", nil
	}
	d, ok := r.tags[ref]
	if !ok {
		d = digest.Digest(ref)
	}
	return d, r.manifests[d]
}

func (rq *request) getManifest() {
	rq.o.registry.mu.RLock()
	d, m := rq.o.registry.findManifestLocked(rq.repo, rq.ref)
	rq.o.registry.mu.RUnlock()
	if m == nil {
		rq.registryFail(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	h := rq.w.Header()
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", `"`+d.String()+`"`)
	rq.write(http.StatusOK, m.mediaType, m.body)
}

func (rq *request) putManifest() {
	body, err := rq.o.smallBody(rq)
	if err != nil {
		rq.registryFail(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", err.Error())
		return
	}
	m := &manifest{mediaType: rq.r.Header.Get("Content-Type"), body: body}
	if err := json.Unmarshal(body, &m.doc); err != nil {
		rq.registryFail(http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	if m.doc.MediaType != "" && m.mediaType != "" && m.doc.MediaType != m.mediaType {
		rq.registryFail(http.StatusBadRequest, "MANIFEST_INVALID", "the Content-Type is not the mediaType of the document")
		return
	}
	if m.mediaType == "" {
		m.mediaType = m.doc.MediaType
	}
	d, byDigest := digest.FromBytes(body), strings.Contains(rq.ref, ":")
	switch {
	case byDigest:
		want, err := digest.Parse(rq.ref)
		if err != nil || want.Algorithm().FromBytes(body) != want {
			rq.registryFail(http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return
		}
		d = want
	case !tagName.MatchString(rq.ref):
		rq.registryFail(http.StatusBadRequest, "TAG_INVALID", "invalid tag")
		return
	}
	g := &rq.o.registry
	g.mu.Lock()
	r := g.repoLocked(rq.repo)
	missing := r.missing(m.doc)
	if missing == "" {
		r.manifests[d] = m
		if !byDigest {
			r.tags[rq.ref] = d
		}
	}
	g.mu.Unlock()
	if missing != "" {
		rq.registryFail(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "manifest references a manifest or blob unknown to registry: "+missing.String())
		return
	}
	if m.doc.Subject != nil {
		rq.w.Header().Set("OCI-Subject", m.doc.Subject.Digest.String())
	}
	rq.created("manifests/"+rq.ref, d)
}

// missing returns a blob that the manifest needs and the repository lacks.
// Manifests of an index may be missing (sparse indexes are allowed), and so may
// foreign layers, which are stored elsewhere.
func (r *repository) missing(doc manifestDoc) digest.Digest {
	descs := doc.Layers
	if doc.Config != nil {
		descs = append(slices.Clone(descs), *doc.Config)
	}
	for _, desc := range descs {
		if len(desc.URLs) == 0 && !r.blobs[desc.Digest] {
			return desc.Digest
		}
	}
	return ""
}

func (rq *request) deleteManifest() {
	g := &rq.o.registry
	g.mu.Lock()
	r := g.repos[rq.repo]
	found := false
	if r != nil {
		if _, ok := r.tags[rq.ref]; ok {
			delete(r.tags, rq.ref)
			found = true
		} else if d := digest.Digest(rq.ref); r.manifests[d] != nil {
			delete(r.manifests, d)
			for t, td := range r.tags {
				if td == d {
					delete(r.tags, t)
				}
			}
			found = true
		}
	}
	g.mu.Unlock()
	if !found {
		rq.registryFail(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	rq.header(http.StatusAccepted)
}

// referrers lists the manifests whose subject is the given digest.
func (rq *request) referrers() {
	subject, err := digest.Parse(rq.ref)
	if err != nil {
		rq.registryFail(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	filter := rq.q.Get("artifactType")
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	rq.o.registry.mu.RLock()
	if r := rq.o.registry.repos[rq.repo]; r != nil {
		for d, m := range r.manifests {
			if m.doc.Subject == nil || m.doc.Subject.Digest != subject {
				continue
			}
			at := m.doc.ArtifactType
			if at == "" && m.doc.Config != nil {
				at = m.doc.Config.MediaType
			}
			if filter == "" || filter == at {
				index.Manifests = append(index.Manifests, ocispec.Descriptor{
					MediaType: m.mediaType, Digest: d, Size: int64(len(m.body)), ArtifactType: at, Annotations: m.doc.Annotations,
				})
			}
		}
	}
	rq.o.registry.mu.RUnlock()
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if filter != "" {
		rq.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	body, _ := json.Marshal(index) // descriptors always marshal
	rq.write(http.StatusOK, ocispec.MediaTypeImageIndex, body)
}

// PutLayout serves an OCI image layout folder as a repository: blobs in place,
// manifests of its index under the tags in their
// org.opencontainers.image.ref.name annotations ("latest" for a single manifest
// without one).
func (o *Origin) PutLayout(repo, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("testorigin: %s/index.json: %w", dir, err)
	}
	for _, desc := range index.Manifests {
		tag := desc.Annotations[ocispec.AnnotationRefName]
		if i := strings.LastIndexByte(tag, ':'); i >= 0 {
			tag = tag[i+1:] // some tools write the whole reference
		}
		if tag == "" && len(index.Manifests) == 1 {
			tag = "latest"
		}
		if err := o.putLayoutManifest(repo, dir, tag, desc, 0); err != nil {
			return err
		}
	}
	return nil
}

// maxIndexDepth bounds indexes within indexes, so that a layout that refers to
// itself ends.
const maxIndexDepth = 4

func (o *Origin) putLayoutManifest(repo, dir, tag string, desc ocispec.Descriptor, depth int) error {
	if depth > maxIndexDepth {
		return fmt.Errorf("testorigin: %s: indexes nested more than %d deep", dir, maxIndexDepth)
	}
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("testorigin: %s: digest %q: %w", dir, desc.Digest, err)
	}
	blob := func(d digest.Digest) string {
		return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
	}
	body, err := os.ReadFile(blob(desc.Digest))
	if err != nil {
		return err
	}
	if _, err := o.PutManifest(repo, tag, desc.MediaType, body); err != nil {
		return err
	}
	var doc manifestDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return fmt.Errorf("testorigin: %s: manifest %s: %w", dir, desc.Digest, err)
	}
	for _, child := range doc.Manifests {
		if _, err := os.Stat(blob(child.Digest)); os.IsNotExist(err) {
			continue // a sparse layout
		}
		if err := o.putLayoutManifest(repo, dir, "", child, depth+1); err != nil {
			return err
		}
	}
	blobs := doc.Layers
	if doc.Config != nil {
		blobs = append(slices.Clone(blobs), *doc.Config)
	}
	for _, b := range blobs {
		if err := b.Digest.Validate(); err != nil {
			return fmt.Errorf("testorigin: %s: digest %q: %w", dir, b.Digest, err)
		}
		if _, err := o.PutBlobFile(repo, blob(b.Digest), b.Digest); err != nil {
			return err
		}
	}
	return nil
}
