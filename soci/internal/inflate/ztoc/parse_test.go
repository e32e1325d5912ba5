package ztoc

import (
	"encoding/binary"
	"errors"
	"fmt"

	fbs "github.com/awslabs/soci-snapshotter/ztoc/fbs/ztoc"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// parse reads a zTOC that Marshal has written.
func parse(data []byte) (*Ztoc, error) {
	root := fbs.GetRootAsZtoc(data, 0)
	info, toc := root.CompressionInfo(nil), root.Toc(nil)
	if info == nil || toc == nil {
		return nil, errors.New("compression_info or toc is missing")
	}
	if a := info.CompressionAlgorithm(); a != fbs.CompressionAlgorithmGzip {
		return nil, fmt.Errorf("the layer is %v, expected gzip", a)
	}
	z := &Ztoc{Version: string(root.Version()), Tool: string(root.BuildToolIdentifier()), Size: root.CompressedArchiveSize(), Out: root.UncompressedArchiveSize()}
	var err error
	if z.SpanSize, z.Index, err = parseCheckpoints(info.CheckpointsBytes()); err != nil {
		return nil, err
	}
	if n := info.SpanDigestsLength(); n != len(z.Index.Points) {
		return nil, fmt.Errorf("%d digests of %d spans", n, len(z.Index.Points))
	}
	for i := range info.SpanDigestsLength() {
		z.SpanDigests = append(z.SpanDigests, string(info.SpanDigests(i)))
	}
	z.Files, err = parseFiles(toc)
	return z, err
}

// parseFiles reads the table of contents.
func parseFiles(toc *fbs.TOC) ([]File, error) {
	var out []File
	var e fbs.FileMetadata
	var x fbs.Xattr
	for i := range toc.MetadataLength() {
		toc.Metadata(&e, i)
		f := File{
			Name: string(e.Name()), Type: string(e.Type()), Offset: e.UncompressedOffset(), Size: e.UncompressedSize(),
			Link: string(e.Linkname()), Mode: e.Mode(), UID: e.Uid(), GID: e.Gid(), Uname: string(e.Uname()), Gname: string(e.Gname()),
			DevMajor: e.Devmajor(), DevMinor: e.Devminor(),
		}
		if err := f.ModTime.UnmarshalText(e.ModTime()); err != nil {
			return nil, fmt.Errorf("time of file %d: %w", i, err)
		}
		f.ModTime = f.ModTime.UTC()
		if k := e.XattrsLength(); k > 0 {
			f.PAX = make(map[string]string)
			for j := range k {
				e.Xattrs(&x, j)
				f.PAX[string(x.Key())] = string(x.Value())
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// parseCheckpoints reads the blob of checkpoints, whose length tells its
// version.
func parseCheckpoints(b []byte) (spanSize int64, x *index.Index, err error) {
	if len(b) < blobHeader {
		return 0, nil, fmt.Errorf("%d bytes of checkpoints", len(b))
	}
	n, spanSize := int(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint64(b[4:])) //nolint:gosec // G115: as written
	b = b[blobHeader:]
	have := len(b) / checkpoint
	if len(b)%checkpoint != 0 || n < 1 || n != have && n != have+1 {
		return 0, nil, fmt.Errorf("%d checkpoints in %d bytes", n, len(b))
	}
	x = new(index.Index)
	if n == have+1 { // version 1 leaves the first one out
		x.Points = append(x.Points, index.Point{Kind: index.Block, Bits: v1Header * 8})
	}
	for ; len(b) > 0; b = b[checkpoint:] {
		in, out, bits := int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), int64(b[16]) //nolint:gosec // G115: as written
		past := b[17:checkpoint]
		past = past[flate.History-min(flate.History, out):]
		x.Points = append(x.Points, index.Point{Kind: index.Block, Bits: in*8 - bits, Out: out, Window: index.NewWindow(past, nil)})
	}
	return spanSize, x, x.Check()
}
