package registry

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Reference is a parsed image reference.
type Reference struct {
	Host       string        // as written, "docker.io" for the hub
	Repository string        // with "library/" for the hub's own images
	Tag        string        // "latest" if neither tag nor digest was given; "" with a digest
	Digest     digest.Digest // "" with a tag
}

// ParseReference parses a name with optional registry, tag and digest.
func ParseReference(s string) (Reference, error) {
	if s != strings.TrimSpace(s) || s == "" {
		return Reference{}, fmt.Errorf("image reference %q is empty or has spaces around it", s)
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return Reference{}, fmt.Errorf("image reference %q must not have a scheme: write %q", s, rest)
	}
	r, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		return Reference{}, fmt.Errorf("image reference %q is not valid (want [registry/]name[:tag][@digest]): %w", s, err)
	}
	ref := Reference{Host: r.Context().RegistryStr(), Repository: r.Context().RepositoryStr()}
	if !repositoryPattern.MatchString(ref.Repository) {
		return Reference{}, fmt.Errorf("image reference %q: repository %q is not valid (lower case, digits, and single . _ - between them)", s, ref.Repository)
	}
	if _, port, err := net.SplitHostPort(ref.Host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Reference{}, fmt.Errorf("image reference %q: port %q is not one of 1 to 65535", s, port)
		}
	}
	if ref.Host == name.DefaultRegistry {
		ref.Host = hub
	}
	if d, ok := r.(name.Digest); ok {
		ref.Digest = digest.Digest(d.DigestStr())
		// The parser accepts any algorithm; content can be verified only with
		// known ones.
		if !ref.Digest.Algorithm().Available() {
			return Reference{}, fmt.Errorf("image reference %q: digest algorithm %q is not supported (use sha256 or sha512)", s, ref.Digest.Algorithm())
		}
		return ref, nil
	}
	ref.Tag = r.Identifier()
	return ref, nil
}

// repositoryPattern is the grammar of the distribution spec. The parser accepts
// more, such as "a/../b", which would end up in a URL.
var repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

// hub is the common name of index.docker.io.
const hub = "docker.io"

// identifier returns the digest or tag that the manifest is requested by.
func (r Reference) identifier() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// String returns the full form of the reference.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Host + "/" + r.Repository + "@" + r.Digest.String()
	}
	return r.Host + "/" + r.Repository + ":" + r.Tag
}

// At returns the reference of a digest in the same repository.
func (r Reference) At(d digest.Digest) Reference {
	r.Tag, r.Digest = "", d
	return r
}
