package index

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// ErrFormat is the error of a malformed or inconsistent index.
var ErrFormat = errors.New("not a valid layer index")

// DefaultSpan is the distance of points in bytes of output. Recording a point
// takes 0.1 ms, which is 1 % of the time to decode a span. Its window takes
// about 2.5 KiB, which is 0.1 % of the compressed bytes of a span. Larger spans
// would take more memory while they are decoded ahead.
const DefaultSpan = 8 << 20 // bytes

// MemberSpan is the distance of a member from the previous point in bytes of
// output. A member has no window, so it costs no time to record and takes ten
// bytes. A span of this size stays in the second-level cache when it is decoded
// ahead.
const MemberSpan = 1 << 20 // bytes

const (
	// maxPoints bounds the number of points. A layer of 8 TB has that many at
	// the default span.
	maxPoints = 1 << 20
	// maxSize bounds offsets, so that their number of bits fits in an int64.
	maxSize = 1 << 56 // bytes
	// maxDigest bounds the text of a digest; the text of a SHA-512 takes 135
	// bytes.
	maxDigest = 256 // bytes
)

// Blob identifies the layer of an index.
type Blob struct {
	Digest string // of the compressed bytes, as in the manifest
	DiffID string // digest of the output
	Size   int64  // compressed bytes, or 0 if unknown
	Out    int64  // bytes of output, or 0 if unknown
}

// Index is a list of points.
type Index struct {
	Blob
	Points []Point
}

// Kind is the kind of a point.
type Kind uint8

// The kinds of points.
const (
	Member Kind = iota // the header of a gzip member starts here
	Block              // a DEFLATE block starts here
)

// Point is a position where decoding can start.
type Point struct {
	Kind   Kind
	Bits   int64 // bits of the compressed stream before it
	Out    int64 // bytes of output before it
	Header int   // length of the header of a member, or 0 if unknown
	Window Window
}

// Check returns an ErrFormat if x is inconsistent, for example if points are
// out of order.
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

// Window is the history of a point. Only some of its bytes are kept.
type Window struct {
	n    int // length of the history
	runs []run
	data []byte // the bytes of all runs
}

// run is a kept part of a history: n bytes after skip bytes that are left out.
type run struct{ skip, n uint16 } // 32 KiB at most

// NewWindow returns a window that keeps the bytes of past that refs marks, or
// all bytes if refs is nil. It copies them. Only the last 32 KiB of past count.
// The last byte of refs belongs to the last byte of past.
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
	end := 0 // end of the last run
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

// Len returns the length of the history, at most 32 KiB.
func (w Window) Len() int { return w.n }

// Kept returns the number of bytes that are kept.
func (w Window) Kept() int { return len(w.data) }

// Append appends the history to dst, with zeros for the bytes that are not
// kept.
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

// check verifies that the runs fit the window, so that Append stays within
// bounds.
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
