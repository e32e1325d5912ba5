package stargz

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// ErrFormat: the blob is no eStargz layer.
var ErrFormat = errors.New("not an eStargz layer")

const (
	// maxTOC bounds the compressed table: that of a million files takes 60 MB.
	maxTOC = 256 << 20 // bytes
	// maxJSON bounds what it may expand to.
	maxJSON = 1 << 30 // bytes
	// span is the least distance of points: output of most layers is then held in a
	// few MB.
	span = 1 << 20 // compressed bytes
)

// Index returns the index of a blob of so many bytes.
func Index(blob io.ReaderAt, size int64) (x *index.Index, err error) {
	defer func() {
		// estargz slices a footer by lengths that it does not check (FuzzIndex).
		if why := recover(); why != nil {
			x, err = nil, fmt.Errorf("%w: %v", ErrFormat, why)
		}
	}()
	toc, footer, err := estargz.OpenFooter(io.NewSectionReader(blob, 0, size))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	n := size - footer - toc
	if toc <= 0 || n <= 0 || n > maxTOC {
		return nil, fmt.Errorf("%w: a table of contents of %d bytes at byte %d of %d", ErrFormat, n, toc, size)
	}
	d := new(estargz.GzipDecompressor)
	json, err := d.DecompressTOC(io.NewSectionReader(blob, toc, n))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	defer func() {
		// A table that is cut after its JSON shows at Close only.
		if cut := json.Close(); cut != nil && err == nil {
			x, err = nil, fmt.Errorf("%w: table of contents: %w", ErrFormat, cut)
		}
	}()
	offsets, err := offsets(io.LimitReader(json, maxJSON))
	if err != nil {
		return nil, fmt.Errorf("%w: table of contents: %w", ErrFormat, err)
	}
	x = &index.Index{Blob: index.Blob{Size: size}, Points: []index.Point{{Kind: index.Member}}}
	last := int64(0)
	for _, o := range append(offsets, toc) {
		if o-last >= span && o < size {
			x.Points = append(x.Points, index.Point{Kind: index.Member, Bits: o * 8})
			last = o
		}
	}
	return x, x.Check()
}

// offsets returns where members begin, in order.
func offsets(json io.Reader) ([]int64, error) {
	toc, err := decode(json)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, e := range toc.Entries {
		if e != nil && e.Offset > 0 {
			out = append(out, e.Offset)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
