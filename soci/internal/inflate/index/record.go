package index

import (
	"fmt"
	"math"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// Recorder collects points while a blob is decoded.
type Recorder struct {
	span   int64
	points []Point
	probe  *flate.Probe
	refs   flate.Refs
}

// NewRecorder returns a Recorder whose points are at least span bytes of output
// apart. A point at a member may be as near as MemberSpan to the previous
// point, if that is less than span. A span of 0 means DefaultSpan.
func NewRecorder(span int64) *Recorder {
	if span <= 0 {
		span = DefaultSpan
	}
	return &Recorder{span: span}
}

// Due reports whether a point should be recorded after out bytes of output.
func (r *Recorder) Due(out int64) bool { return r.dueAfter(out, r.span) }

func (r *Recorder) dueAfter(out, span int64) bool {
	n := len(r.points)
	return n == 0 || out-r.points[n-1].Out >= span && n < maxPoints
}

// Member records a gzip member at an offset, if a point is due there. header is
// the length of its header in bytes.
func (r *Recorder) Member(offset, out int64, header int) {
	if r.dueAfter(out, min(r.span, MemberSpan)) {
		r.points = append(r.points, Point{Kind: Member, Bits: offset * 8, Out: out, Header: header})
	}
}

// Block records a block that starts at a bit offset, after out bytes of output.
// past is the output of the member before the block; only its last 32 KiB are
// used. ahead holds the compressed bytes from the block on; the block starts
// skip bits after their start.
func (r *Recorder) Block(bits, out int64, past, ahead []byte, skip uint) {
	if !r.Due(out) || len(r.points) == 0 || bits <= r.points[len(r.points)-1].Bits {
		return
	}
	if r.probe == nil {
		r.probe = flate.NewProbe()
	}
	var w Window
	if r.probe.Refs(ahead, skip, math.MaxInt64, &r.refs) {
		w = NewWindow(past, &r.refs)
	} else {
		w = NewWindow(past, nil)
	}
	r.points = append(r.points, Point{Kind: Block, Bits: bits, Out: out, Window: w})
}

// Add records a point, if one is due there.
func (r *Recorder) Add(p Point) {
	if n := len(r.points); r.Due(p.Out) && (n == 0 || p.Bits > r.points[n-1].Bits) {
		r.points = append(r.points, p)
	}
}

// Span returns the least output between two points, in bytes.
func (r *Recorder) Span() int64 { return r.span }

// Points returns the recorded points. The caller must not modify them.
func (r *Recorder) Points() []Point { return r.points }

// Index returns the index of the recorded points. It must be called only after
// the blob was decoded to its end and its digests were verified.
func (r *Recorder) Index(b Blob) (*Index, error) {
	x := &Index{Blob: b, Points: r.points}
	if err := x.Check(); err != nil {
		return nil, fmt.Errorf("recorded index: %w", err)
	}
	return x, nil
}
