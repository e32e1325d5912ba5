package bench

import (
	"encoding/json"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/testorigin"
)

// Layer is a gzip layer in a file.
type Layer struct {
	Path   string
	Digest digest.Digest // of the file
	DiffID digest.Digest
	Size   int64 // of the file, in bytes
}

// PushImage puts an image for this machine into the origin's registry; the layers stay
// where they are.
func PushImage(o *testorigin.Origin, repo, tag string, layers []Layer) error {
	var cfg ocispec.Image
	cfg.OS, cfg.Architecture = runtime.GOOS, runtime.GOARCH
	cfg.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		if _, err := o.PutBlobFile(repo, l.Path, l.Digest); err != nil {
			return err
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.DiffID)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: l.Digest, Size: l.Size})
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: o.PutBlob(repo, config), Size: int64(len(config))}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = o.PutManifest(repo, tag, ocispec.MediaTypeImageManifest, body)
	return err
}
