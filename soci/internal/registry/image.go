package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/ranges"
)

// Errors that callers test for.
var (
	// ErrPlatform is the error of an image that does not exist for the wanted
	// platform.
	ErrPlatform = errors.New("no image for this platform")
	// ErrUnsupported is the error of a manifest that does not describe an image
	// we can unpack.
	ErrUnsupported = errors.New("unsupported manifest")
)

// Image is a resolved image: the content to fetch and its digests.
type Image struct {
	Ref      Reference          // as requested
	Manifest ocispec.Descriptor // of the platform's manifest
	Config   ocispec.Image
	Platform ocispec.Platform // as stated in the config
	Layers   []Layer
	Notes    []string // remarks on harmless irregularities

	ConfigDescriptor       ocispec.Descriptor
	RawManifest, RawConfig []byte // verified
}

// Layer is one layer, lowest first. It carries the logins of the pull that
// resolved it.
type Layer struct {
	ocispec.Descriptor
	DiffID digest.Digest // of the uncompressed tar

	logins *logins
}

// Limits of a manifest.
const (
	maxNesting = 4    // indexes in indexes; real ones nest once
	maxEntries = 1000 // manifests of an index, layers of a manifest; overlayfs stops at 500
)

// Platform selects an image of an index.
type Platform struct {
	Spec     ocispec.Platform
	Explicit bool // set by the user; then another platform is an error, not a note
}

// ParsePlatform parses "os/arch[/variant]". "" is linux on this machine's
// processor, with its variant.
func ParsePlatform(s string) (Platform, error) {
	if s == "" {
		p := platforms.DefaultSpec()
		p.OS, p.OSVersion, p.OSFeatures = "linux", "", nil
		return Platform{Spec: p}, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return Platform{}, fmt.Errorf("platform %q is not valid: write for example linux/amd64 or linux/arm/v7", s)
	}
	return Platform{Spec: p, Explicit: true}, nil
}

// Resolve finds the manifest of ref for a platform and reads its config.
func (c *Client) Resolve(ctx context.Context, e *ranges.Engine, ref Reference, p Platform) (*Image, error) {
	l := c.newLogins(ref)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	l.wait = newAnswerTimer(c.opts.Patience, func() { end(errNoUsableAnswer) })
	defer l.wait.stop()
	doc, err := c.manifest(ctx, e, l, ref)
	if err != nil {
		return nil, err
	}
	return c.resolve(ctx, e, l, doc, p, maxNesting)
}

// manifestKind holds the fields by which manifests are classified.
type manifestKind struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	ArtifactType  string          `json:"artifactType"`
	Manifests     json.RawMessage `json:"manifests"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// classify reports whether a document is an index. It fails if the document is
// neither an index nor an image manifest.
func classify(doc document) (index bool, err error) {
	var k manifestKind
	if err := json.Unmarshal(doc.data, &k); err != nil {
		return false, fmt.Errorf("%w: not JSON: %w", ErrUnsupported, err)
	}
	for _, field := range []*json.RawMessage{&k.Manifests, &k.Config, &k.Layers, &k.FSLayers} {
		if string(*field) == "null" {
			*field = nil
		}
	}
	mediaType := doc.desc.MediaType
	if k.MediaType != "" {
		mediaType = k.MediaType
	}
	switch {
	case k.SchemaVersion == 1 || len(k.FSLayers) > 0 || mediaType == dockerSchema1 || mediaType == dockerSchema1S:
		return false, fmt.Errorf("%w: Docker schema 1, obsolete since 2017; push the image again with a current tool", ErrUnsupported)
	case len(k.Manifests) > 0 && (len(k.Layers) > 0 || len(k.Config) > 0):
		// One client could read it as an index and another as a manifest, and
		// get different images for one digest (CVE-2021-41190).
		return false, fmt.Errorf("%w: it is both an index and a manifest", ErrUnsupported)
	}
	isIndex := mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
	isManifest := mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
	switch {
	case isIndex && len(k.Layers) == 0, !isManifest && len(k.Manifests) > 0:
		return true, nil
	case isManifest && len(k.Manifests) == 0, len(k.Layers) > 0 && len(k.Config) > 0:
		return false, nil
	}
	return false, fmt.Errorf("%w: media type %q", ErrUnsupported, mediaType)
}

func (c *Client) resolve(ctx context.Context, e *ranges.Engine, l *logins, doc document, p Platform, depth int) (*Image, error) {
	index, err := classify(doc)
	if err != nil {
		return nil, err
	}
	if !index {
		return c.image(ctx, e, l, doc, p)
	}
	if depth == 0 {
		return nil, fmt.Errorf("%w: indexes nested more than %d deep", ErrUnsupported, maxNesting)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(doc.data, &idx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	candidates, err := choose(idx.Manifests, p.Spec)
	if err != nil {
		return nil, err
	}
	var last error
	for _, d := range candidates {
		child, err := c.child(ctx, e, l, d)
		if err != nil {
			return nil, err
		}
		// The platform of a descriptor without one is known only from its
		// config.
		img, err := c.resolve(ctx, e, l, child, Platform{Spec: p.Spec, Explicit: p.Explicit || d.Platform == nil}, depth-1)
		if err == nil || !errors.Is(err, ErrPlatform) {
			return img, err
		}
		last = err
	}
	return nil, last
}

func (c *Client) child(ctx context.Context, e *ranges.Engine, l *logins, d ocispec.Descriptor) (document, error) {
	if d.Size < 0 || d.Size > maxManifest {
		return document{}, fmt.Errorf("%w: manifest %s of %d bytes", ErrUnsupported, d.Digest, d.Size)
	}
	if err := d.Digest.Validate(); err != nil {
		return document{}, fmt.Errorf("%w: digest %q: %w", ErrUnsupported, d.Digest, err)
	}
	doc, err := c.manifest(ctx, e, l, l.ref.At(d.Digest))
	if err != nil {
		return document{}, err
	}
	if doc.desc.Size != d.Size {
		return document{}, fmt.Errorf("%w: manifest %s has %d bytes, the index says %d", ErrDigest, d.Digest, doc.desc.Size, d.Size)
	}
	return doc, nil
}

// choose returns the entries of an index that may hold the platform, best
// first.
func choose(all []ocispec.Descriptor, want ocispec.Platform) ([]ocispec.Descriptor, error) {
	if len(all) > maxEntries {
		return nil, fmt.Errorf("%w: index of %d manifests", ErrUnsupported, len(all))
	}
	match := platforms.Only(want)
	var fit, unnamed []ocispec.Descriptor
	var have []string
	for _, d := range all {
		switch {
		case !isImage(d.MediaType) || !isConfig(d.ArtifactType):
			continue // SOCI indexes, signatures
		case d.Platform == nil:
			unnamed = append(unnamed, d)
		case d.Platform.OS == "unknown": // BuildKit's attestations
		default:
			have = append(have, platforms.Format(*d.Platform))
			if match.Match(platforms.Normalize(*d.Platform)) {
				fit = append(fit, d)
			}
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case match.Less(platforms.Normalize(*a.Platform), platforms.Normalize(*b.Platform)):
			return -1
		case match.Less(platforms.Normalize(*b.Platform), platforms.Normalize(*a.Platform)):
			return 1
		}
		return 0
	})
	if fit = append(fit, unnamed...); len(fit) > 0 {
		return fit, nil
	}
	slices.Sort(have)
	return nil, fmt.Errorf("%w: wanted %s, the index has %s", ErrPlatform, platforms.Format(want), orNone(slices.Compact(have)))
}

func isImage(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerIndex, dockerSchema1, dockerSchema1S:
		return true
	}
	return false
}

// isConfig reports whether an artifact type denotes an image. It is then empty,
// or the media type of an image config, which go-containerregistry writes.
func isConfig(artifactType string) bool {
	return artifactType == "" || artifactType == ocispec.MediaTypeImageConfig || artifactType == dockerConfig
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// image reads a manifest and its config.
func (c *Client) image(ctx context.Context, e *ranges.Engine, l *logins, doc document, p Platform) (*Image, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(doc.data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	raw, err := c.blob(ctx, e, l, m.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	img := &Image{Ref: l.ref, Manifest: doc.desc, ConfigDescriptor: m.Config, RawManifest: doc.data, RawConfig: raw}
	if m.MediaType != "" {
		img.Manifest.MediaType = m.MediaType
	}
	if err := json.Unmarshal(raw, &img.Config); err != nil {
		return nil, fmt.Errorf("%w: config: %w", ErrUnsupported, err)
	}
	if isOldConfig(m) && img.Config.RootFS.Type == "" {
		return nil, fmt.Errorf("%w: config of type %q without a root file system: this is not a container image", ErrUnsupported, m.Config.MediaType)
	}
	if img.Config.OS == "" && img.Config.Architecture == "" && len(img.Config.RootFS.DiffIDs) > 0 {
		img.Platform = p.Spec
		img.Notes = append(img.Notes, fmt.Sprintf("the image does not state its platform; %s is assumed", platforms.Format(p.Spec)))
		return img, layersOf(img, m, l)
	}
	img.Platform = platforms.Normalize(img.Config.Platform)
	if !platforms.Only(p.Spec).Match(img.Platform) {
		said := fmt.Sprintf("wanted %s, the image is for %s", platforms.Format(p.Spec), platforms.Format(img.Platform))
		if p.Explicit {
			return nil, fmt.Errorf("%w: %s", ErrPlatform, said)
		}
		img.Notes = append(img.Notes, said)
	}
	return img, layersOf(img, m, l)
}

// layersOf sets the layers of an image.
func layersOf(img *Image, m ocispec.Manifest, l *logins) error {
	ids := img.Config.RootFS.DiffIDs
	if len(ids) != len(m.Layers) {
		return fmt.Errorf("%w: %d layers, but the config lists %d", ErrUnsupported, len(m.Layers), len(ids))
	}
	for i, d := range m.Layers {
		if err := ids[i].Validate(); err != nil {
			return fmt.Errorf("%w: DiffID %q: %w", ErrUnsupported, ids[i], err)
		}
		img.Layers = append(img.Layers, Layer{Descriptor: d, DiffID: ids[i], logins: l})
	}
	return nil
}

// layerType returns a layer's media type without its compression, which is
// detected from the first bytes instead.
func layerType(mediaType string) string {
	base, _, _ := strings.Cut(mediaType, "+")
	return strings.TrimSuffix(strings.TrimSuffix(base, ".gzip"), ".zstd")
}

// isOldConfig reports whether a config has a media type that registries and
// builders used before the types were standardized. Its content then decides.
func isOldConfig(m ocispec.Manifest) bool {
	base, _, _ := strings.Cut(m.Config.MediaType, ";")
	switch strings.TrimSpace(base) {
	case "", "application/octet-stream", "application/json", "text/html", "text/plain":
		return m.ArtifactType == ""
	}
	return false
}

func checkManifest(m ocispec.Manifest) error {
	if (m.Config.MediaType == "" || !isConfig(m.Config.MediaType)) && !isOldConfig(m) {
		return fmt.Errorf("%w: config of type %q: this is not a container image", ErrUnsupported, m.Config.MediaType)
	}
	if len(m.Layers) > maxEntries {
		return fmt.Errorf("%w: %d layers", ErrUnsupported, len(m.Layers))
	}
	for _, d := range m.Layers {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("%w: layer digest %q: %w", ErrUnsupported, d.Digest, err)
		}
		if d.Size < 0 {
			return fmt.Errorf("%w: layer %s of %d bytes", ErrUnsupported, d.Digest, d.Size)
		}
		switch layerType(d.MediaType) {
		case ociLayer, ociForeignLayer, dockerLayer, dockerForeign:
		default:
			return fmt.Errorf("%w: layer of type %q", ErrUnsupported, d.MediaType)
		}
		if strings.HasSuffix(d.MediaType, "+encrypted") {
			return fmt.Errorf("%w: layer %s is encrypted", ErrUnsupported, d.Digest)
		}
	}
	return nil
}
