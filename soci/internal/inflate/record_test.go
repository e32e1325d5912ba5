package inflate

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// recordBy records an index of a small blob with the sizes that edit sets.
func recordBy(t *testing.T, blob, want []byte, span int64, opts Options, edit func(*members)) *index.Index {
	t.Helper()
	opts.Record = index.NewRecorder(span)
	m, err := newMembers(flate.NewInput(bytes.NewReader(blob)), opts.workers())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	edit(m)
	m.applyOptions(opts)
	got, err := io.ReadAll(m)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	x, err := opts.Record.Index(index.Blob{Size: int64(len(blob)), Out: int64(len(got))})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// widest returns the largest distance of two points, or of the last point and
// the end.
func widest(x *index.Index) (gap int64) {
	for i, p := range x.Points {
		end := x.Out
		if i+1 < len(x.Points) {
			end = x.Points[i+1].Out
		}
		gap = max(gap, end-p.Out)
	}
	return gap
}

// TestRecordInParallel checks that the points that several workers record exist
// in the stream, and that they are not much further apart than the span,
// wherever the workers start.
func TestRecordInParallel(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(21, 22))
	one, want := makeLayer(t, r)
	// A piece of output has at most one mark, and no mark if a segment ends in
	// its first 32 KiB or before a block does. The spacing is longer than such
	// a piece, so points may be that much further apart than with the serial
	// decoder.
	const gap = 400 << 10
	far := func(m *members) {
		m.segments = smallSegments()
		m.segments.spacing = 80 << 10
		m.sizes.out = 200 << 10 // no job holds a long member, which would have one point
	}
	near := func(m *members) { m.segments = smallSegments() } // small pieces
	jobs := func(m *members) { m.sizes = jobSizes{min: 4 << 10, max: 400 << 10, out: 4 << 20} }
	const span = 100 << 10
	tests := []struct {
		name       string
		blob, want []byte
		edit       func(*members)
		gap        int64 // or 0 for no bound
	}{
		{"one member", one, want, far, gap},
		{"one member, small pieces", one, want, near, 0},
		{"several members", slices.Concat(one, gz(t, want[:1000], nil), one), slices.Concat(want, want[:1000], want), far, gap},
		{"small members", blobOf(t, r, want, 50<<10, 6), want, jobs, gap},
	}
	for _, tt := range tests {
		serial := recordBy(t, tt.blob, tt.want, span, Options{}, tt.edit)
		known := map[int64]index.Point{} // the start of every block and member
		for _, p := range recordBy(t, tt.blob, tt.want, 1, Options{}, tt.edit).Points {
			known[p.Bits] = p
		}
		byIndex := func(m *members) {}
		for _, way := range []struct {
			name string
			opts Options
			edit func(*members)
		}{
			{"workers", Options{Workers: 3}, tt.edit},
			{"index", Options{Workers: 3, Index: serial}, byIndex},
		} {
			x := recordBy(t, tt.blob, tt.want, span, way.opts, way.edit)
			if g := widest(x); tt.gap > 0 && g > span+tt.gap {
				t.Errorf("%s, %s: %d points, two of them %d bytes apart; the serial decoder has %d", tt.name, way.name, len(x.Points), g, len(serial.Points))
			}
			for _, p := range x.Points {
				k, ok := known[p.Bits]
				if !ok && p.Kind == index.Member { // the empty block before it has the same output offset
					rest, _, err := inflateAll(tt.blob[p.Bits/8:])
					if err != nil || !bytes.Equal(rest, tt.want[p.Out:]) || p.Header < headerLen {
						t.Errorf("%s, %s: byte %d: %v", tt.name, way.name, p.Bits/8, err)
					}
					continue
				}
				if !ok || k.Kind != p.Kind || k.Out != p.Out || k.Header != p.Header || k.Window.Kept() > 0 && !bytes.Equal(k.Window.Append(nil), p.Window.Append(nil)) {
					t.Errorf("%s, %s: bit %d, byte %d: there is no such point (%v)", tt.name, way.name, p.Bits, p.Out, ok)
				}
			}
			got, stats, err := readBy(bytes.NewReader(tt.blob), x, 3, 1<<30)
			if err != nil || !bytes.Equal(got, tt.want) || stats.dropped > 0 || len(x.Points) < 3 || stats.spans < len(x.Points)-2 {
				t.Errorf("%s, %s: %d bytes, %v, %+v of %d points", tt.name, way.name, len(got), err, stats, len(x.Points))
			}
		}
	}
}
