package inflate

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// TestResume goes on from every point that was recorded, with what follows cut or
// damaged too.
func TestResume(t *testing.T) {
	data := slices.Repeat(text(t), 6)
	one := gz(t, data, nil)
	blobs := map[string][]byte{
		"one member": one,
		"members":    blobOf(t, rand.New(rand.NewPCG(1, 2)), data, 200<<10, 6),
		"padded":     append(bytes.Clone(one), 0, 0, 0),
		"two":        slices.Concat(one, one),
		"garbage":    append(bytes.Clone(one), "garbage"...),
		"cut":        one[:len(one)-9],
		"no trailer": one[:len(one)-3],
	}
	for name, blob := range blobs {
		rec := index.NewRecorder(50 << 10)
		read := func(r *Reader, err error) ([]byte, error) {
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		}
		want, werr := read(NewReader(bytes.NewReader(blob), Options{Record: rec}))
		if len(rec.Points()) < 10 {
			t.Fatalf("%s: %d points", name, len(rec.Points()))
		}
		for i, pt := range rec.Points() {
			again := index.NewRecorder(50 << 10)
			got, err := read(Resume(bytes.NewReader(blob[pt.Bits/8:]), Gzip, pt, Options{Record: again}))
			if !sameErr(err, werr) || !bytes.Equal(got, want[pt.Out:]) {
				t.Errorf("%s, point %d: %d bytes, %v; want %d, %v", name, i, len(got), err, len(want)-int(pt.Out), werr)
			}
			for k, a := range again.Points() {
				if b := rec.Points()[i+k]; a.Bits != b.Bits || a.Out != b.Out || a.Kind != b.Kind {
					t.Errorf("%s, point %d: then %v, want %v", name, i, a, b)
					break
				}
			}
		}
	}
	if _, err := Resume(bytes.NewReader(nil), Zstd, index.Point{}, Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
