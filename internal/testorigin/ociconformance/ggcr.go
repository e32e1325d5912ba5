package ociconformance

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// image makes a small image of two layers.
func (s *suite) image() v1.Image {
	s.Helper()
	img, err := random.Image(40_000, 2)
	s.ok(err, "image")
	return mutate.MediaType(img, types.OCIManifestSchema1)
}

// push pushes a new image under the tag.
func (s *suite) push(tag string) v1.Image {
	s.Helper()
	img := s.image()
	s.ok(remote.Write(s.ref(tag), img, s.options()...), "push")
	return img
}

func (s *suite) digestOf(img interface{ Digest() (v1.Hash, error) }) v1.Hash {
	s.Helper()
	d, err := img.Digest()
	s.ok(err, "digest")
	return d
}

// status asserts the status of an error of go-containerregistry.
func (s *suite) status(err error, want int) {
	s.Helper()
	var te *transport.Error
	if !errors.As(err, &te) || te.StatusCode != want {
		s.Errorf("error %v, want status %d", err, want)
	}
}

var ggcrChecks = []check{
	{"ggcr/push-pull", func(s *suite) {
		want := s.push("v1")
		got, err := remote.Image(s.ref("v1"), s.options()...)
		s.ok(err, "pull")
		s.same("digest", s.digestOf(got), s.digestOf(want))
		s.ok(validate.Image(got), "validate") // fetches every blob and checks digests, sizes and diff ids
	}},
	{"ggcr/pull-by-digest", func(s *suite) {
		want := s.push("v1")
		ref, err := name.NewDigest(s.cfg.Host+"/"+s.repo+"@"+s.digestOf(want).String(), name.Insecure)
		s.ok(err, "reference")
		got, err := remote.Image(ref, s.options()...)
		s.ok(err, "pull")
		s.same("digest", s.digestOf(got), s.digestOf(want))
	}},
	{"ggcr/index", func(s *suite) {
		idx, err := random.Index(5_000, 1, 3)
		s.ok(err, "index")
		s.ok(remote.WriteIndex(s.ref("multi"), idx, s.options()...), "push")
		got, err := remote.Index(s.ref("multi"), s.options()...)
		s.ok(err, "pull")
		s.ok(validate.Index(got), "validate")
	}},
	{"ggcr/head", func(s *suite) {
		want := s.push("v1")
		desc, err := remote.Head(s.ref("v1"), s.options()...)
		s.ok(err, "head")
		s.same("digest", desc.Digest, s.digestOf(want))
		s.same("type", desc.MediaType, types.OCIManifestSchema1)
	}},
	{"ggcr/missing", func(s *suite) {
		s.push("v1")
		_, err := remote.Image(s.ref("no-such-tag"), s.options()...)
		s.status(err, http.StatusNotFound)
	}},
	{"ggcr/tags", func(s *suite) {
		img := s.push("a")
		for _, t := range []string{"b", "c", "d", "e"} {
			s.ok(remote.Tag(s.ref(t), img, s.options()...), "tag")
		}
		tags, err := remote.List(s.ref("a").Repository, s.options(remote.WithPageSize(2))...)
		s.ok(err, "list")
		s.same("tags", tags, []string{"a", "b", "c", "d", "e"})
	}},
	{"ggcr/mount", func(s *suite) {
		s.push("v1")
		img, err := remote.Image(s.ref("v1"), s.options()...) // its layers hold the repository to mount them from
		s.ok(err, "pull")
		other := *s
		other.repo += "-mounted"
		s.ok(remote.Write(other.ref("v1"), img, s.options()...), "push elsewhere")
		got, err := remote.Image(other.ref("v1"), s.options()...)
		s.ok(err, "pull from elsewhere")
		s.ok(validate.Image(got), "validate")
	}},
	{"ggcr/referrers", func(s *suite) {
		img := s.push("v1")
		desc, err := remote.Head(s.ref("v1"), s.options()...)
		s.ok(err, "head")
		artifact, ok := mutate.Subject(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.sbom"), *desc).(v1.Image)
		if !ok {
			s.Fatal("no image")
		}
		s.ok(remote.Write(s.ref("sbom"), artifact, s.options()...), "push")
		subject := s.ref("v1").Context().Digest(s.digestOf(img).String())
		idx, err := remote.Referrers(subject, s.options()...)
		s.ok(err, "referrers")
		m, err := idx.IndexManifest()
		s.ok(err, "index manifest")
		if len(m.Manifests) != 1 {
			s.Fatalf("%d referrers, want 1", len(m.Manifests))
		}
		s.same("digest", m.Manifests[0].Digest, s.digestOf(artifact))
		s.same("artifact type", m.Manifests[0].ArtifactType, "application/vnd.example.sbom")
		idx, err = remote.Referrers(subject, s.options(remote.WithFilter("artifactType", "application/x-other"))...)
		s.ok(err, "referrers of another type")
		m, err = idx.IndexManifest()
		s.ok(err, "index manifest")
		s.same("referrers of another type", len(m.Manifests), 0)
	}},
	{"ggcr/referrers-none", func(s *suite) {
		img := s.push("v1")
		idx, err := remote.Referrers(s.ref("v1").Context().Digest(s.digestOf(img).String()), s.options()...)
		s.ok(err, "referrers")
		m, err := idx.IndexManifest()
		s.ok(err, "index manifest")
		s.same("referrers", len(m.Manifests), 0)
	}},
	{"ggcr/delete", func(s *suite) {
		img := s.push("v1")
		s.ok(remote.Delete(s.ref("v1").Context().Digest(s.digestOf(img).String()), s.options()...), "delete")
		_, err := remote.Head(s.ref("v1"), s.options()...)
		s.status(err, http.StatusNotFound)
	}},
	{"ggcr/layer", func(s *suite) {
		img := s.push("v1")
		layers, err := img.Layers()
		s.ok(err, "layers")
		ref := s.ref("v1").Context().Digest(s.digestOf(layers[1]).String())
		l, err := remote.Layer(ref, s.options()...)
		s.ok(err, "layer")
		s.same("bytes are equal", bytes.Equal(s.compressed(l), s.compressed(layers[1])), true)
	}},
}

func (s *suite) compressed(l v1.Layer) []byte {
	s.Helper()
	rc, err := l.Compressed()
	s.ok(err, "layer")
	defer rc.Close()
	p, err := io.ReadAll(rc)
	s.ok(err, "layer bytes")
	return p
}
