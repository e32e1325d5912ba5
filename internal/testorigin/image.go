package testorigin

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PutImage stores an OCI image of uncompressed layers in a tagged index and
// returns the digest of the manifest. All digests are of one algorithm. Tests
// use it for other algorithms than sha256, because registry clients push sha256
// only.
func (o *Origin) PutImage(repo, tag string, by digest.Algorithm, platform ocispec.Platform, layers ...[]byte) (digest.Digest, error) {
	put := func(mediaType string, body []byte) ocispec.Descriptor {
		d := by.FromBytes(body)
		o.registry.addBlob(repo, d, memContent(body))
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
	}
	cfg := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		d := put(ocispec.MediaTypeImageLayer, l)
		m.Layers = append(m.Layers, d)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, d.Digest)
	}
	body, err := json.Marshal(cfg)
	if err != nil {
		return "", err
	}
	m.Config = put(ocispec.MediaTypeImageConfig, body)
	if body, err = json.Marshal(m); err != nil {
		return "", err
	}
	d := by.FromBytes(body)
	stored := &manifest{mediaType: m.MediaType, body: body}
	if err := json.Unmarshal(body, &stored.doc); err != nil {
		return "", err
	}
	o.registry.mu.Lock()
	o.registry.repoLocked(repo).manifests[d] = stored
	o.registry.mu.Unlock()
	index, err := json.Marshal(ocispec.Index{
		Versioned: m.Versioned, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: m.MediaType, Digest: d, Size: int64(len(body)), Platform: &platform}},
	})
	if err != nil {
		return "", err
	}
	_, err = o.PutManifest(repo, tag, ocispec.MediaTypeImageIndex, index)
	return d, err
}
