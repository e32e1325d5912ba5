package ociconformance

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sample returns n bytes that differ from every copy shifted by a power of two.
func sample(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 % 251)
	}
	return p
}

func (s *suite) reference(tag string) string { return s.cfg.Host + "/" + s.repo + ":" + tag }

// upload pushes one blob or manifest through the pusher of containerd.
func (s *suite) upload(p remotes.Pusher, mediaType string, body []byte) ocispec.Descriptor {
	s.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	w, err := p.Push(s.ctx(), desc)
	if errdefs.IsAlreadyExists(err) {
		return desc
	}
	s.ok(err, "push %s", mediaType)
	defer w.Close()
	_, err = w.Write(body)
	s.ok(err, "write %s", mediaType)
	s.ok(w.Commit(s.ctx(), desc.Size, desc.Digest), "commit %s", mediaType)
	return desc
}

// pushImage pushes an image of one layer and returns the descriptors of its
// manifest and its layer.
func (s *suite) pushImage(tag string, layer []byte) (manifest, blob ocispec.Descriptor) {
	s.Helper()
	p, err := s.resolver().Pusher(s.ctx(), s.reference(tag))
	s.ok(err, "pusher")
	blob = s.upload(p, ocispec.MediaTypeImageLayer, layer)
	config := s.upload(p, ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["`+blob.Digest.String()+`"]}}`))
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{blob},
	})
	s.ok(err, "manifest")
	return s.upload(p, ocispec.MediaTypeImageManifest, body), blob
}

func (s *suite) fetch(f remotes.Fetcher, d ocispec.Descriptor) io.ReadCloser {
	s.Helper()
	rc, err := f.Fetch(s.ctx(), d)
	s.ok(err, "fetch %s", d.MediaType)
	s.Cleanup(func() { rc.Close() })
	return rc
}

var containerdChecks = []check{
	{"containerd/push-resolve-fetch", func(s *suite) {
		layer := sample(300_000)
		manifest, blob := s.pushImage("v1", layer)
		r := s.resolver()
		_, desc, err := r.Resolve(s.ctx(), s.reference("v1"))
		s.ok(err, "resolve")
		s.same("digest", desc.Digest, manifest.Digest)
		s.same("size", desc.Size, manifest.Size)
		s.same("type", desc.MediaType, ocispec.MediaTypeImageManifest)
		f, err := r.Fetcher(s.ctx(), s.reference("v1"))
		s.ok(err, "fetcher")
		got, err := io.ReadAll(s.fetch(f, blob))
		s.ok(err, "blob")
		s.same("bytes are equal", bytes.Equal(got, layer), true)
		_, err = io.ReadAll(s.fetch(f, desc))
		s.ok(err, "manifest")
	}},
	{"containerd/seek", func(s *suite) {
		layer := sample(300_000)
		_, blob := s.pushImage("v1", layer)
		f, err := s.resolver().Fetcher(s.ctx(), s.reference("v1"))
		s.ok(err, "fetcher")
		rc := s.fetch(f, blob)
		sk, ok := rc.(io.Seeker)
		if !ok {
			s.Fatal("the fetched blob can't seek")
		}
		for _, off := range []int64{250_000, 10, 0, 299_999} {
			_, err := sk.Seek(off, io.SeekStart)
			s.ok(err, "seek")
			got := make([]byte, min(1000, int64(len(layer))-off))
			_, err = io.ReadFull(rc, got)
			s.ok(err, "read at %d", off)
			s.same("bytes are equal", bytes.Equal(got, layer[off:off+int64(len(got))]), true)
		}
	}},
	{"containerd/fetch-by-digest", func(s *suite) {
		layer := sample(5_000)
		_, blob := s.pushImage("v1", layer)
		f, err := s.resolver().Fetcher(s.ctx(), s.reference("v1"))
		s.ok(err, "fetcher")
		fd, ok := f.(remotes.FetcherByDigest)
		if !ok {
			s.Fatal("fetcher can't fetch by digest")
		}
		rc, desc, err := fd.FetchByDigest(s.ctx(), blob.Digest)
		s.ok(err, "fetch by digest")
		defer rc.Close()
		s.same("size", desc.Size, len(layer))
	}},
	{"containerd/push-again", func(s *suite) {
		a, _ := s.pushImage("v1", sample(1000))
		b, _ := s.pushImage("v1", sample(1000))
		s.same("digest", a.Digest, b.Digest)
	}},
	{"containerd/missing", func(s *suite) {
		s.pushImage("v1", sample(10))
		_, _, err := s.resolver().Resolve(s.ctx(), s.reference("no-such-tag"))
		s.same("not found", errdefs.IsNotFound(err), true)
		f, err := s.resolver().Fetcher(s.ctx(), s.reference("v1"))
		s.ok(err, "fetcher")
		rc, err := f.Fetch(s.ctx(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("no such blob"), Size: 3})
		if err == nil { // the request for a blob is sent by the first read
			_, err = rc.Read(make([]byte, 1))
			rc.Close()
		}
		s.same("blob not found", errdefs.IsNotFound(err), true)
	}},
	{"containerd/wrong-digest", func(s *suite) {
		p, err := s.resolver().Pusher(s.ctx(), s.reference("v1"))
		s.ok(err, "pusher")
		w, err := p.Push(s.ctx(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("another"), Size: 5})
		s.ok(err, "push")
		defer w.Close()
		_, err = w.Write([]byte("wrong"))
		if err == nil {
			err = w.Commit(s.ctx(), 5, digest.FromString("another"))
		}
		s.same("refused", err != nil, true)
	}},
	{"containerd/referrers", func(s *suite) {
		manifest, _ := s.pushImage("v1", sample(10))
		p, err := s.resolver().Pusher(s.ctx(), s.reference("v1@"+manifest.Digest.String()))
		s.ok(err, "pusher")
		empty := s.upload(p, ocispec.MediaTypeEmptyJSON, []byte("{}"))
		body, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.sig",
			Config: empty, Layers: []ocispec.Descriptor{empty}, Subject: &manifest,
		})
		s.ok(err, "manifest")
		p, err = s.resolver().Pusher(s.ctx(), s.cfg.Host+"/"+s.repo+"@"+digest.FromBytes(body).String())
		s.ok(err, "pusher")
		want := s.upload(p, ocispec.MediaTypeImageManifest, body)
		f, err := s.resolver().Fetcher(s.ctx(), s.reference("v1"))
		s.ok(err, "fetcher")
		rf, ok := f.(remotes.ReferrersFetcher)
		if !ok {
			s.Fatal("fetcher can't list referrers")
		}
		refs, err := rf.FetchReferrers(s.ctx(), manifest.Digest)
		s.ok(err, "referrers")
		if len(refs) != 1 {
			s.Fatalf("%d referrers, want 1", len(refs))
		}
		s.same("digest", refs[0].Digest, want.Digest)
		s.same("artifact type", refs[0].ArtifactType, "application/vnd.example.sig")
	}},
}
