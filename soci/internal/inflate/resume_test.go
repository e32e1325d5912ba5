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

// TestResume resumes from every recorded point, also with a blob that is cut or
// damaged after it.
func TestResume(t *testing.T) {
	data := slices.Repeat(sourceText(t), 6)
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
	if _, err := Resume(bytes.NewReader(nil), Zstd, index.Point{Kind: index.Block}, Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestResumeFrames resumes from every recorded frame, serially and with
// workers.
func TestResumeFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	data := slices.Repeat(sourceText(t), 8)
	frames := zstdOf(t, r, splitParts(r, data, 300<<10)...)
	for name, blob := range map[string][]byte{
		"frames":    frames,
		"one frame": zstdOf(t, r, data),
		"between":   slices.Concat(frames, zstdOf(t, r, data), frames),
		"garbage":   append(bytes.Clone(frames), "garbage"...),
		"cut":       frames[:len(frames)-9],
	} {
		read := func(r *Reader, err error) ([]byte, error) {
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		}
		want, werr := read(NewReader(bytes.NewReader(blob), Options{}))
		for _, workers := range []int{0, 3} {
			rec := index.NewRecorder(200 << 10)
			opts := Options{Workers: workers, Record: rec}
			got, err := read(NewReader(bytes.NewReader(blob), opts))
			if !sameErr(err, werr) || !bytes.Equal(got, want) {
				t.Errorf("%s, %d workers: %d bytes, %v; want %d, %v", name, workers, len(got), err, len(want), werr)
			}
			points := rec.Points()
			if len(points) == 0 || points[0].Bits != 0 || name != "one frame" && len(points) < 2 {
				t.Errorf("%s, %d workers: %d points", name, workers, len(points))
			}
			for i, pt := range points {
				again := index.NewRecorder(200 << 10)
				opts := Options{Workers: 3 - workers, Record: again}
				got, err := read(Resume(bytes.NewReader(blob[pt.Bits/8:]), Zstd, pt, opts))
				if !sameErr(err, werr) || !bytes.Equal(got, want[pt.Out:]) {
					t.Errorf("%s, point %d: %d bytes, %v; want %d, %v", name, i, len(got), err, len(want)-int(pt.Out), werr)
				}
				if p := again.Points(); len(p) == 0 || p[0].Bits != pt.Bits || p[0].Out != pt.Out {
					t.Errorf("%s, point %d: then %v", name, i, p)
				}
			}
		}
	}
}
