package index

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// ErrFormat: the bytes are no index, or one that cannot be right.
var ErrFormat = errors.New("not a valid layer index")

// DefaultSpan is the distance of points, in bytes of output. Recording one costs 0.1 ms,
// which is 1 % of the time to decode so much, and a window about 2.5 KiB: 0.1 % of the
// compressed bytes between two. A span that is decoded ahead has to be held in memory.
const DefaultSpan = 8 << 20 // bytes

// MemberSpan is the distance from a point to one that is a member, in bytes of output: it
// costs nothing to record, and ten bytes, for it has no window. What is decoded ahead
// stays in the second cache level.
const MemberSpan = 1 << 20 // bytes

const (
	// maxPoints is what a layer of 8 TB has.
	maxPoints = 1 << 20
	// maxSize bounds offsets: their bits are counted in int64.
	maxSize = 1 << 56 // bytes
	// maxDigest is the longest text of a digest: sha512 takes 135.
	maxDigest = 256 // bytes
)

// Blob is what an index belongs to.
type Blob struct {
	Digest string // of the compressed bytes, as in the manifest
	DiffID string // digest of the output
	Size   int64  // compressed bytes; 0: not known
	Out    int64  // bytes of output; 0: not known
}

// Index is a list of points.
type Index struct {
	Blob
	Points []Point
}

// Kind is what begins at a point.
type Kind uint8

// The kinds of points.
const (
	Member Kind = iota // a gzip member: its header
	Block              // a DEFLATE block
)

// Point is a place where decoding can begin.
type Point struct {
	Kind   Kind
	Bits   int64 // bits of the compressed stream before it
	Out    int64 // bytes of output before it
	Header int   // of a member: the length of its header; 0: not known
	Window Window
}

// Check reports what cannot be right in x: points that are out of order.
func (x *Index) Check() error {
	if len(x.Points) == 0 || len(x.Points) > maxPoints {
		return fmt.Errorf("%w: %d points, expected 1 to %d", ErrFormat, len(x.Points), maxPoints)
	}
	if x.Size < 0 || x.Out < 0 || x.Size > maxSize || x.Out > maxSize {
		return fmt.Errorf("%w: sizes of %d and %d bytes", ErrFormat, x.Size, x.Out)
	}
	last := Point{Bits: -1}
	for i, p := range x.Points {
		switch {
		case p.Kind > Block, p.Kind == Member && p.Bits%8 != 0, p.Header < 0:
			return fmt.Errorf("%w: point %d is neither a member nor a block", ErrFormat, i)
		case p.Bits <= last.Bits, p.Out < last.Out, p.Bits > maxSize*8, p.Out > maxSize:
			return fmt.Errorf("%w: point %d at bit %d, byte %d of the output, follows bit %d, byte %d", ErrFormat, i, p.Bits, p.Out, last.Bits, last.Out)
		}
		if err := p.Window.check(); err != nil {
			return fmt.Errorf("%w (point %d)", err, i)
		}
		last = p
	}
	return nil
}

// Window is the history of a point, of which some bytes are kept.
type Window struct {
	n    int // length of the history
	runs []run
	data []byte // of the runs
}

// run is a part of a history that is kept.
type run struct{ skip, n uint16 } // 32 KiB at most

// NewWindow keeps of a history, of which at most the last 32 KiB count, the bytes
// that are referred to: all for nil. The bytes are copied. The last byte of refs
// belongs to the last of the history.
//
//nolint:gosec // G115: nothing is longer than 32 KiB
func NewWindow(past []byte, refs *flate.Refs) Window {
	past = past[max(0, len(past)-flate.History):]
	w := Window{n: len(past)}
	if refs == nil {
		if len(past) > 0 {
			w.runs, w.data = []run{{0, uint16(len(past))}}, append([]byte(nil), past...)
		}
		return w
	}
	used := refs[flate.History-len(past):]
	w.data = make([]byte, 0, bytes.Count(used, []byte{1}))
	end := 0 // of the last run
	for end < len(used) {
		skip := bytes.IndexByte(used[end:], 1)
		if skip < 0 {
			break
		}
		from := end + skip
		n := bytes.IndexByte(used[from:], 0)
		if n < 0 {
			n = len(used) - from
		}
		w.runs = append(w.runs, run{uint16(skip), uint16(n)})
		w.data = append(w.data, past[from:from+n]...)
		end = from + n
	}
	return w
}

// Len is the length of the history, at most 32 KiB.
func (w Window) Len() int { return w.n }

// Kept is how many bytes of it are there.
func (w Window) Kept() int { return len(w.data) }

// Append appends the history to dst, with zeros for bytes that are not kept.
func (w Window) Append(dst []byte) []byte {
	begin, data := len(dst), w.data
	dst = append(dst, make([]byte, w.n)...)
	at := begin
	for _, r := range w.runs {
		at += int(r.skip)
		n := copy(dst[at:at+int(r.n)], data)
		at, data = at+n, data[n:]
	}
	return dst
}

// check makes sure that Append stays within bounds.
func (w Window) check() error {
	at, n := 0, 0
	for _, r := range w.runs {
		if r.n == 0 {
			return fmt.Errorf("%w: run of a window", ErrFormat)
		}
		at, n = at+int(r.skip)+int(r.n), n+int(r.n)
	}
	if w.n < 0 || w.n > flate.History || at > w.n || n != len(w.data) {
		return fmt.Errorf("%w: window of %d bytes", ErrFormat, w.n)
	}
	return nil
}
