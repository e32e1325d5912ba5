package soci

import ocispec "github.com/opencontainers/image-spec/specs-go/v1"

// Annotations by which layer formats with an index of their own announce themselves.
const (
	// estargzTOC is stargz-snapshotter's (docs/estargz.md, "containerd.io/snapshot/stargz/toc.digest").
	estargzTOC = "containerd.io/snapshot/stargz/toc.digest"
	// chunkedManifest and chunkedTOC are containers/storage's, chunkedPosition is of both of its forms.
	chunkedManifest = "io.github.containers.zstd-chunked.manifest-checksum"
	chunkedPosition = "io.github.containers.zstd-chunked.manifest-position"
)

// special names the format that a layer's annotations announce.
func special(d ocispec.Descriptor) string {
	switch {
	case d.Annotations[chunkedManifest] != "" || d.Annotations[chunkedPosition] != "":
		return "zstd:chunked"
	case d.Annotations[estargzTOC] != "":
		return "estargz"
	}
	return ""
}
