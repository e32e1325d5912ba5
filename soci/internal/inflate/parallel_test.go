package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// read decodes with a number of workers and small jobs.
func read(in io.Reader, workers int, sizes jobSizes, most int64) ([]byte, *parallelMembers, error) {
	m, err := newMembers(flate.NewInput(in), workers)
	if err != nil {
		return nil, nil, err
	}
	defer m.close()
	m.sizes = sizes
	out, err := io.ReadAll(io.LimitReader(m, most))
	return out, m.par, err
}

// sameErr reports whether two errors have the same text and both or neither are
// ErrCorrupt.
func sameErr(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error()) && errors.Is(a, ErrCorrupt) == errors.Is(b, ErrCorrupt)
}

// blobOf compresses data into members of at most size bytes each.
func blobOf(t testing.TB, r *rand.Rand, data []byte, size, level int) []byte {
	t.Helper()
	var blob bytes.Buffer
	for len(data) > 0 {
		n := min(len(data), r.IntN(size+1)) // some are empty
		w, err := stdgzip.NewWriterLevel(&blob, level)
		if err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			w.Name, w.Extra = "member", []byte("BC\x02\x00\x00\x00") // a wrong length, which is ignored
		}
		w.Write(data[:n])
		w.Close()
		data = data[n:]
	}
	return blob.Bytes()
}

// TestParallel compares the output with the serial decoder.
func TestParallel(t *testing.T) {
	defer goleak.VerifyNone(t)
	data := slices.Repeat(sourceText(t), 8)
	r := rand.New(rand.NewPCG(1, 2))
	small := blobOf(t, r, data, 20<<10, 6)
	nested := blobOf(t, r, small, 3<<10, stdgzip.NoCompression) // full of false headers
	cut := func(b []byte, at int) []byte { return b[:len(b)*at/100] }
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[100+len(b)*at/100] ^= 4
		return b
	}
	sizes := jobSizes{16 << 10, 100 << 10, 400 << 10}
	giant := gz(t, data, nil)
	tests := map[string]struct {
		blob []byte
		jobs bool // workers are expected to decode jobs
	}{
		"one member":     {giant, false},
		"small members":  {small, true},
		"nested":         {nested, true},
		"giant between":  {slices.Concat(small, giant, small), true},
		"zeros":          {append(blobOf(t, r, make([]byte, 8<<20), 4<<20, 6), small...), true},
		"padding":        {append(bytes.Clone(small), make([]byte, 5000)...), true},
		"garbage":        {append(bytes.Clone(small), "garbage"...), true},
		"padding inside": {slices.Concat(small, make([]byte, 9), small), true},
		"cut":            {cut(small, 70), true},
		"cut at the end": {small[:len(small)-1], true},
		"flipped":        {flip(small, 40), true},
		"flipped early":  {flip(small, 0), false},
		"only headers":   {bytes.Repeat([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, 50000), false},
	}
	for name, tt := range tests {
		want, _, werr := read(bytes.NewReader(tt.blob), 0, sizes, 1<<40)
		for _, workers := range []int{2, 5} {
			for i, src := range []io.Reader{bytes.NewReader(tt.blob), iotest.HalfReader(bytes.NewReader(tt.blob))} {
				got, par, err := read(src, workers, sizes, 1<<40)
				if !sameErr(err, werr) || !bytes.Equal(got, want) {
					t.Errorf("%s, %d workers, source %d: %d bytes, %v; want %d, %v", name, workers, i, len(got), err, len(want), werr)
				}
				if tt.jobs != (par != nil && par.cuts > 0) {
					t.Errorf("%s: workers were used: %v", name, !tt.jobs)
				}
			}
		}
	}
}

// TestParallelSource checks that errors of the source follow the output before
// them, and that a Reader that is closed early leaves no goroutine.
func TestParallelSource(t *testing.T) {
	defer goleak.VerifyNone(t)
	blob := blobOf(t, rand.New(rand.NewPCG(1, 3)), slices.Repeat(sourceText(t), 20), 60<<10, 6)
	broken := errors.New("the network is gone")
	source := func() io.Reader { return io.MultiReader(bytes.NewReader(blob), iotest.ErrReader(broken)) }
	var lens []int
	for _, workers := range []int{1, 3} {
		r, err := NewReader(source(), Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		r.Close()
		if err != broken {
			t.Error(workers, err)
		}
		lens = append(lens, len(out))
	}
	if lens[0] != lens[1] {
		t.Error("bytes before the error: ", lens)
	}
	r, err := NewReader(source(), Options{Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
		t.Error(err)
	}
	r.Close()
}

// FuzzParallel compares small jobs with the serial decoder.
func FuzzParallel(f *testing.F) {
	var blob []byte
	for i := range 40 {
		blob = append(blob, gz(f, fmt.Append(nil, "member ", i*i), nil)...)
	}
	f.Add(blob, uint8(30), uint8(100))
	f.Add(append(blob, 0, 0), uint8(1), uint8(200))
	f.Add(append(bytes.Clone(blob[:300]), gz(f, blob, nil)...), uint8(50), uint8(60))
	f.Fuzz(func(t *testing.T, in []byte, least, most uint8) {
		if detectFormat(in) != Gzip {
			return
		}
		sizes := jobSizes{1 + int(least), 1 + int(least) + int(most), 1 << 10}
		want, _, werr := read(bytes.NewReader(in), 0, sizes, 1<<20)
		got, _, err := read(bytes.NewReader(in), 3, sizes, 1<<20)
		if !sameErr(err, werr) || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; serial: %d bytes, %v", len(got), err, len(want), werr)
		}
	})
}
