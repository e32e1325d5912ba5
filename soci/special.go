package soci

import ocispec "github.com/opencontainers/image-spec/specs-go/v1"

// Annotations that announce layer formats with an index of their own.
const (
	// estargzTOC is set by stargz-snapshotter (docs/estargz.md there).
	estargzTOC = "containerd.io/snapshot/stargz/toc.digest"
	// chunkedManifest and chunkedPosition are set by containers/storage.
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
