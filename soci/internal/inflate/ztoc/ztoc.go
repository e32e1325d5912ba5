package ztoc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	fbs "github.com/awslabs/soci-snapshotter/ztoc/fbs/ztoc"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// ErrFormat: the bytes are no zTOC of a gzip layer.
var ErrFormat = errors.New("not a valid zTOC")

// Version is that of the blob of checkpoints.
type Version int

// The versions.
const (
	V2 Version = iota // all checkpoints
	V1                // all but the first, which is said to be behind a header of 10 bytes
)

const (
	// The blob: an int32, how many checkpoints, and an int64, the size of a span;
	// then each.
	blobHeader = 4 + 8
	checkpoint = 8 + 8 + 1 + flate.History
	// v1Header is the header of a member without options, which V1 takes for granted.
	v1Header = 10 // bytes
	// maxCheckpoints keeps sizes in int32.
	maxCheckpoints = 1 << 16
)

// Ztoc is what a zTOC says.
type Ztoc struct {
	Version     string // of the zTOC
	Tool        string // that made it
	Size, Out   int64  // compressed and uncompressed bytes
	SpanSize    int64  // bytes of output between checkpoints, as it was wanted
	SpanDigests []string
	Files       []File
	Index       *index.Index
}

// File is an entry of the tar.
type File struct {
	Name, Type   string // type: reg, dir, symlink, hardlink, char, block, fifo
	Offset, Size int64  // of its content, in the tar
	Link         string
	Mode         int64
	UID, GID     uint32
	Uname, Gname string
	ModTime      time.Time
	DevMajor     int64
	DevMinor     int64
	PAX          map[string]string
}

// Parse reads a zTOC.
func Parse(data []byte) (z *Ztoc, err error) {
	defer func() {
		// The accessors index a hostile buffer as they are told to.
		if p := recover(); p != nil {
			z, err = nil, fmt.Errorf("%w: %v", ErrFormat, p)
		}
	}()
	if len(data) < 8 {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(data))
	}
	root := fbs.GetRootAsZtoc(data, 0)
	info, toc := root.CompressionInfo(nil), root.Toc(nil)
	if info == nil || toc == nil {
		return nil, fmt.Errorf("%w: it lacks compression_info or toc", ErrFormat)
	}
	if a := info.CompressionAlgorithm(); a != fbs.CompressionAlgorithmGzip {
		return nil, fmt.Errorf("%w: the layer is %v, expected gzip", ErrFormat, a)
	}
	z = &Ztoc{Version: string(root.Version()), Tool: string(root.BuildToolIdentifier()), Size: root.CompressedArchiveSize(), Out: root.UncompressedArchiveSize()}
	if z.Index, err = z.points(info.CheckpointsBytes()); err != nil {
		return nil, err
	}
	// Each element takes 4 bytes at least: more are a lie.
	if n := info.SpanDigestsLength(); n > len(data)/4 || n != 0 && n != len(z.Index.Points) {
		return nil, fmt.Errorf("%w: %d digests of %d spans", ErrFormat, n, len(z.Index.Points))
	}
	for i := range info.SpanDigestsLength() {
		z.SpanDigests = append(z.SpanDigests, string(info.SpanDigests(i)))
	}
	z.Files, err = files(toc, len(data))
	return z, err
}

// files reads the table of contents. A hostile buffer may let many entries share
// their bytes: together they are no larger than the buffer.
func files(toc *fbs.TOC, most int) ([]File, error) {
	n := toc.MetadataLength()
	if n > most/4 {
		return nil, fmt.Errorf("%w: %d files in %d bytes", ErrFormat, n, most)
	}
	var out []File
	var e fbs.FileMetadata
	var x fbs.Xattr
	left := most
	text := func(b []byte) string {
		left -= len(b)
		if left < 0 {
			panic("its strings share bytes")
		}
		return string(b)
	}
	for i := range n {
		toc.Metadata(&e, i)
		f := File{
			Name: text(e.Name()), Type: text(e.Type()), Offset: e.UncompressedOffset(), Size: e.UncompressedSize(),
			Link: text(e.Linkname()), Mode: e.Mode(), UID: e.Uid(), GID: e.Gid(), Uname: text(e.Uname()), Gname: text(e.Gname()),
			DevMajor: e.Devmajor(), DevMinor: e.Devminor(),
		}
		if t := e.ModTime(); len(t) > 0 {
			if err := f.ModTime.UnmarshalText(t); err != nil {
				return nil, fmt.Errorf("%w: time of file %d: %w", ErrFormat, i, err)
			}
			f.ModTime = f.ModTime.UTC()
		}
		if k := e.XattrsLength(); k > 0 {
			if left -= 4 * k; left < 0 {
				return nil, fmt.Errorf("%w: %d attributes of file %d", ErrFormat, k, i)
			}
			f.PAX = make(map[string]string)
			for j := range k {
				e.Xattrs(&x, j)
				f.PAX[text(x.Key())] = text(x.Value())
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// points reads the blob of checkpoints.
func (z *Ztoc) points(b []byte) (*index.Index, error) {
	if len(b) < blobHeader {
		return nil, fmt.Errorf("%w: %d bytes of checkpoints", ErrFormat, len(b))
	}
	n := int64(int32(binary.LittleEndian.Uint32(b)))      //nolint:gosec // G115: what it is
	z.SpanSize = int64(binary.LittleEndian.Uint64(b[4:])) //nolint:gosec // G115: what it is
	b = b[blobHeader:]
	have := int64(len(b) / checkpoint)
	if len(b)%checkpoint != 0 || n < 1 || n > maxCheckpoints || n != have && n != have+1 {
		return nil, fmt.Errorf("%w: %d checkpoints in %d bytes", ErrFormat, n, len(b))
	}
	x := &index.Index{Blob: index.Blob{Size: max(0, z.Size)}}
	if n == have+1 {
		x.Points = append(x.Points, index.Point{Kind: index.Block, Bits: v1Header * 8})
	}
	for ; len(b) > 0; b = b[checkpoint:] {
		in, out, bits := int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), int64(b[16]) //nolint:gosec // G115: checked
		if in < 1 || in > 1<<50 || out < 0 || bits > 7 {
			return nil, fmt.Errorf("%w: checkpoint %d at byte %d less %d bits", ErrFormat, len(x.Points), in, bits)
		}
		past := b[17:checkpoint]
		past = past[flate.History-min(flate.History, out):]
		x.Points = append(x.Points, index.Point{Kind: index.Block, Bits: in*8 - bits, Out: out, Window: index.NewWindow(past, nil)})
	}
	if err := x.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return x, nil
}
