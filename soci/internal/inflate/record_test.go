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

// recordBy records an index in the way that edit makes a small blob decode.
func recordBy(t *testing.T, blob, want []byte, span int64, opts Options, edit func(*members)) *index.Index {
	t.Helper()
	opts.Record = index.NewRecorder(span)
	m, err := newMembers(flate.NewInput(bytes.NewReader(blob)), opts.workers())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	edit(m)
	m.use(opts)
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

// TestRecordInParallel: what several workers record is what the stream has, and is
// enough to decode by.
func TestRecordInParallel(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(21, 22))
	one, want := layer(t, r)
	small := func(m *members) { m.hops = smallHops() }
	jobs := func(m *members) { m.sizes = jobSizes{min: 4 << 10, max: 400 << 10, out: 4 << 20} }
	const span = 100 << 10
	tests := []struct {
		name       string
		blob, want []byte
		edit       func(*members)
	}{
		{"one member", one, want, small},
		{"several members", slices.Concat(one, gz(t, want[:1000], nil), one), slices.Concat(want, want[:1000], want), small},
		{"small members", blobOf(t, r, want, 50<<10, 6), want, jobs},
	}
	for _, tt := range tests {
		serial := recordBy(t, tt.blob, tt.want, span, Options{}, tt.edit)
		known := map[int64]index.Point{} // every place where a block or member begins
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
			if len(x.Points) < 3 || len(x.Points) < len(serial.Points)/3 {
				t.Errorf("%s, %s: %d points, the serial decoder has %d", tt.name, way.name, len(x.Points), len(serial.Points))
			}
			for _, p := range x.Points {
				k, ok := known[p.Bits]
				if !ok && p.Kind == index.Member { // the empty block before it is at the same byte of output
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
			if err != nil || !bytes.Equal(got, tt.want) || stats.dropped > 0 || stats.spans < len(x.Points)-2 {
				t.Errorf("%s, %s: %d bytes, %v, %+v of %d points", tt.name, way.name, len(got), err, stats, len(x.Points))
			}
		}
	}
}
