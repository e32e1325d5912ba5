package ztoc

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	fbs "github.com/awslabs/soci-snapshotter/ztoc/fbs/ztoc"
	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// current is the version of a zTOC that SOCI writes and reads.
const current = "0.9"

// tool is the build tool that a zTOC names.
const tool = "Penstock"

// New returns the zTOC of an index and its compressed blob, without files.
func New(x *index.Index, blob io.ReaderAt) (*Ztoc, error) {
	if err := x.Check(); err != nil {
		return nil, err
	}
	if x.Size <= 0 || x.Out < 0 {
		return nil, errors.New("a zTOC needs the sizes of the blob: record the index with them")
	}
	z := &Ztoc{Version: current, Tool: tool, Size: x.Size, Out: x.Out, SpanSize: index.DefaultSpan}
	z.Index = &index.Index{Blob: x.Blob}
	for i, p := range x.Points {
		if p.Kind == index.Member {
			// An index has more members than needed, because a member takes ten
			// bytes, and a checkpoint takes 32 KiB. A member is left out if the
			// next point is near enough.
			next := x.Out
			if i+1 < len(x.Points) {
				next = x.Points[i+1].Out
			}
			if n := len(z.Index.Points); n > 0 && next-z.Index.Points[n-1].Out <= z.SpanSize {
				continue
			}
			// A checkpoint is a position in raw DEFLATE data, so it follows the
			// header.
			if p.Header == 0 {
				return nil, fmt.Errorf("the header of the member at byte %d is not known: record the index again", p.Bits/8)
			}
			p = index.Point{Kind: index.Block, Bits: p.Bits + 8*int64(p.Header), Out: p.Out}
		}
		z.Index.Points = append(z.Index.Points, p)
	}
	if err := z.Index.Check(); err != nil {
		return nil, err
	}
	for i, p := range z.Index.Points {
		from, to := p.Bits/8, x.Size
		if i+1 < len(z.Index.Points) {
			to = (z.Index.Points[i+1].Bits + 7) / 8
		}
		d, err := digest.FromReader(io.NewSectionReader(blob, from, to-from))
		if err != nil {
			return nil, fmt.Errorf("digest of the span at byte %d: %w", from, err)
		}
		z.SpanDigests = append(z.SpanDigests, d.String())
	}
	return z, nil
}

// blob returns the encoded checkpoints.
func (z *Ztoc) blob(v Version) ([]byte, error) {
	points := z.Index.Points
	if len(points) > maxCheckpoints {
		return nil, fmt.Errorf("%d checkpoints are too many for a zTOC (%d): record with a longer span", len(points), maxCheckpoints)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(points))) //nolint:gosec // G115: bounded above
	b = binary.LittleEndian.AppendUint64(b, uint64(z.SpanSize))     //nolint:gosec // G115: positive
	if v == V1 {
		if points[0].Bits != v1Header*8 || points[0].Out != 0 {
			return nil, fmt.Errorf("the first block begins at bit %d, which version 1 cannot say: write version 2", points[0].Bits)
		}
		points = points[1:]
	}
	for _, p := range points {
		in := (p.Bits + 7) / 8
		b = binary.LittleEndian.AppendUint64(b, uint64(in))    //nolint:gosec // G115: positive
		b = binary.LittleEndian.AppendUint64(b, uint64(p.Out)) //nolint:gosec // G115: positive
		b = append(b, byte(in*8-p.Bits))                       //nolint:gosec // G115: 0 to 7
		end := len(b) + (checkpoint - 17)
		b = append(b, make([]byte, checkpoint-17-p.Window.Len())...)
		b = p.Window.Append(b)[:end]
	}
	return b, nil
}

// Marshal returns the FlatBuffer of z.
func (z *Ztoc) Marshal(v Version) ([]byte, error) {
	points, err := z.blob(v)
	if err != nil {
		return nil, err
	}
	b := flatbuffers.NewBuilder(len(points) + len(z.Files)*256)
	version, by, toc := b.CreateString(z.Version), b.CreateString(z.Tool), z.toc(b)
	checkpoints := b.CreateByteVector(points)
	var sums []flatbuffers.UOffsetT
	for _, s := range z.SpanDigests {
		sums = append(sums, b.CreateString(s))
	}
	digests := vector(b, fbs.CompressionInfoStartSpanDigestsVector, sums)
	fbs.CompressionInfoStart(b)
	fbs.CompressionInfoAddMaxSpanId(b, int32(len(z.Index.Points)-1)) //nolint:gosec // G115: bounded by blob
	fbs.CompressionInfoAddSpanDigests(b, digests)
	fbs.CompressionInfoAddCheckpoints(b, checkpoints)
	fbs.CompressionInfoAddCompressionAlgorithm(b, fbs.CompressionAlgorithmGzip)
	info := fbs.CompressionInfoEnd(b)
	fbs.ZtocStart(b)
	fbs.ZtocAddVersion(b, version)
	fbs.ZtocAddBuildToolIdentifier(b, by)
	fbs.ZtocAddToc(b, toc)
	fbs.ZtocAddCompressedArchiveSize(b, z.Size)
	fbs.ZtocAddUncompressedArchiveSize(b, z.Out)
	fbs.ZtocAddCompressionInfo(b, info)
	b.Finish(fbs.ZtocEnd(b))
	return b.FinishedBytes(), nil
}

// toc writes the table of contents.
func (z *Ztoc) toc(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	var entries []flatbuffers.UOffsetT
	for _, f := range z.Files {
		entries = append(entries, f.entry(b))
	}
	list := vector(b, fbs.TOCStartMetadataVector, entries)
	fbs.TOCStart(b)
	fbs.TOCAddMetadata(b, list)
	return fbs.TOCEnd(b)
}

// entry writes the entry of f.
func (f *File) entry(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	name, kind, link := b.CreateString(f.Name), b.CreateString(f.Type), b.CreateString(f.Link)
	uname, gname := b.CreateString(f.Uname), b.CreateString(f.Gname)
	text, err := f.ModTime.MarshalText()
	if err != nil {
		text = nil // the year exceeds 9999; readers take empty text for no time
	}
	mtime := b.CreateByteString(text)
	var attrs []flatbuffers.UOffsetT
	for _, k := range slices.Sorted(maps.Keys(f.PAX)) {
		key, value := b.CreateString(k), b.CreateString(f.PAX[k])
		fbs.XattrStart(b)
		fbs.XattrAddKey(b, key)
		fbs.XattrAddValue(b, value)
		attrs = append(attrs, fbs.XattrEnd(b))
	}
	list := vector(b, fbs.FileMetadataStartXattrsVector, attrs)
	fbs.FileMetadataStart(b)
	fbs.FileMetadataAddName(b, name)
	fbs.FileMetadataAddType(b, kind)
	fbs.FileMetadataAddUncompressedOffset(b, f.Offset)
	fbs.FileMetadataAddUncompressedSize(b, f.Size)
	fbs.FileMetadataAddLinkname(b, link)
	fbs.FileMetadataAddMode(b, f.Mode)
	fbs.FileMetadataAddUid(b, f.UID)
	fbs.FileMetadataAddGid(b, f.GID)
	fbs.FileMetadataAddUname(b, uname)
	fbs.FileMetadataAddGname(b, gname)
	fbs.FileMetadataAddModTime(b, mtime)
	fbs.FileMetadataAddDevmajor(b, f.DevMajor)
	fbs.FileMetadataAddDevminor(b, f.DevMinor)
	fbs.FileMetadataAddXattrs(b, list)
	return fbs.FileMetadataEnd(b)
}

// vector writes a vector of offsets.
func vector(b *flatbuffers.Builder, start func(*flatbuffers.Builder, int) flatbuffers.UOffsetT, of []flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	start(b, len(of))
	for _, o := range slices.Backward(of) {
		b.PrependUOffsetT(o)
	}
	return b.EndVector(len(of))
}

// Files lists the entries of a tar. It reads the tar up to its end.
func Files(r io.Reader) ([]File, error) {
	pos := &counter{r: r}
	t := tar.NewReader(pos)
	var out []File
	for {
		h, err := t.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		kind, err := kindOf(h)
		if err != nil {
			return nil, err
		}
		out = append(out, File{
			Name: h.Name, Type: kind, Offset: pos.n, Size: h.Size, Link: h.Linkname, Mode: h.Mode,
			UID: uint32(h.Uid), GID: uint32(h.Gid), Uname: h.Uname, Gname: h.Gname, ModTime: h.ModTime.UTC(), //nolint:gosec // G115: the width of the format
			DevMajor: h.Devmajor, DevMinor: h.Devminor, PAX: h.PAXRecords,
		})
	}
}

// kindOf returns the name of the type in a zTOC.
func kindOf(h *tar.Header) (string, error) {
	switch h.Typeflag {
	case tar.TypeReg:
		return "reg", nil
	case tar.TypeDir:
		return "dir", nil
	case tar.TypeSymlink:
		return "symlink", nil
	case tar.TypeLink:
		return "hardlink", nil
	case tar.TypeChar:
		return "char", nil
	case tar.TypeBlock:
		return "block", nil
	case tar.TypeFifo:
		return "fifo", nil
	}
	return "", fmt.Errorf("%q is of type %q, which a zTOC cannot hold", h.Name, h.Typeflag)
}

// counter counts the bytes that were read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
