package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// zstdOf compresses each part as a frame, some after skippable frames, some
// without a size, some without a checksum.
func zstdOf(t testing.TB, r *rand.Rand, parts ...[]byte) []byte {
	t.Helper()
	var blob bytes.Buffer
	for _, p := range parts {
		if r.IntN(3) == 0 {
			blob.Write(skippable(r.IntN(40)))
		}
		w, err := zstd.NewWriter(&blob, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(r.IntN(4) > 0), zstd.WithWindowSize(1<<(10+r.IntN(8))), zstd.WithZeroFrames(true))
		if err != nil {
			t.Fatal(err)
		}
		if r.IntN(2) == 0 {
			w.ResetContentSize(&blob, int64(len(p)))
		}
		w.Write(p)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return blob.Bytes()
}

func skippable(n int) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{0x53, 0x2a, 0x4d, 0x18}, uint32(n)), make([]byte, n)...)
}

// splitParts cuts data into parts of at most size bytes. Some are empty.
func splitParts(r *rand.Rand, data []byte, size int) (parts [][]byte) {
	for len(data) > 0 {
		n := min(len(data), r.IntN(size+1))
		parts, data = append(parts, data[:n]), data[n:]
	}
	return parts
}

// readZstd decodes with a number of workers, serially for 0, and serially while
// recording for a negative number.
func readZstd(in io.Reader, workers int, sizes frameSizes, most int64) ([]byte, *parallelFrames, error) {
	const window = 8 << 20
	src := flate.NewInput(in)
	if workers <= 0 {
		var rec *index.Recorder
		if workers < 0 {
			rec = index.NewRecorder(1)
		}
		s, err := newSerial(src, Options{MaxWindow: window, Record: rec}, 0)
		if err != nil {
			return nil, nil, err
		}
		defer s.close()
		if rec != nil {
			s.scan.every = int64(sizes.min) / 4
		}
		out, err := io.ReadAll(io.LimitReader(s, most))
		return out, nil, err
	}
	f := newFrames(src, Options{MaxWindow: window}, workers)
	f.sizes = sizes
	defer f.close()
	out, err := io.ReadAll(io.LimitReader(f, most))
	return out, f, err
}

// TestFrames compares the output with the serial decoder.
func TestFrames(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(1, 2))
	data := slices.Repeat(sourceText(t), 8)
	small := zstdOf(t, r, splitParts(r, data, 20<<10)...)
	giant := zstdOf(t, r, data)
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	flip := func(at int) []byte {
		b := bytes.Clone(small)
		b[len(b)*at/100] ^= 4
		return b
	}
	sizes := frameSizes{min: 8 << 10, in: 100 << 10, out: 200 << 10, held: 2 << 20}
	for name, tt := range map[string]struct {
		blob []byte
		jobs bool
	}{
		"small frames":    {small, true},
		"one frame":       {giant, false},
		"giant between":   {slices.Concat(small, giant, small), true},
		"zeros":           {zstdOf(t, r, splitParts(r, make([]byte, 8<<20), 150<<10)...), true},
		"noise":           {zstdOf(t, r, splitParts(r, noise, 5<<10)...), true},
		"a long frame":    {slices.Concat(small, zstdOf(t, r, noise), small), true},
		"one small frame": {zstdOf(t, r, data[:1000]), false},
		"only skippable":  {slices.Concat(skippable(9), skippable(0)), false},
		"long skippable":  {slices.Concat(skippable(200<<10), small), false},
		"cut skippable":   {slices.Concat(small, skippable(9)[:12]), true},
		"garbage":         {append(bytes.Clone(small), "garbage"...), true},
		"a few bytes":     {append(bytes.Clone(small), 0x28), true},
		"cut":             {small[:len(small)*7/10], true},
		"cut at the end":  {small[:len(small)-1], true},
		"flipped":         {flip(40), true},
		"flipped late":    {flip(99), true},
	} {
		want, _, werr := readZstd(bytes.NewReader(tt.blob), 0, sizes, 1<<40)
		for _, workers := range []int{-1, 2, 5} {
			for i, src := range []io.Reader{bytes.NewReader(tt.blob), iotest.HalfReader(bytes.NewReader(tt.blob))} {
				got, f, err := readZstd(src, workers, sizes, 1<<40)
				if !sameErr(err, werr) || !bytes.Equal(got, want) {
					t.Errorf("%s, %d workers, source %d: %d bytes, %v; want %d, %v", name, workers, i, len(got), err, len(want), werr)
				}
				if f == nil {
					continue
				}
				if used := f.idle == 0; used != tt.jobs {
					t.Errorf("%s: workers were used: %v", name, used)
				}
			}
		}
	}
}

// TestFramesMemory checks that memory is bounded, however far frames expand.
func TestFramesMemory(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	blob := zstdOf(t, r, splitParts(r, make([]byte, 64<<20), 900<<10)...)
	sizes := frameSizes{min: 8 << 10, in: 100 << 10, out: 1 << 20, held: 6 << 20}
	f := newFrames(flate.NewInput(bytes.NewReader(blob)), Options{MaxWindow: 8 << 20}, 8)
	f.sizes = sizes
	defer f.close()
	most, sum := 0, int64(0)
	for p := make([]byte, 64<<10); ; {
		n, err := f.Read(p)
		sum += int64(n)
		held := 0
		for _, j := range append(slices.Concat(f.queue, f.free), f.reading) {
			if j != nil {
				held += j.held
			}
		}
		most = max(most, held)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if f.cuts < 20 || sum != 64<<20 {
		t.Errorf("%d jobs, %d bytes", f.cuts, sum)
	}
	if most > sizes.held+sizes.out*5/4+sizes.in {
		t.Errorf("%d bytes held, bound is %d", most, sizes.held)
	}
}

// TestFramesSource checks that errors of the source follow the output before
// them, and that a Reader that is closed early leaves no goroutine.
func TestFramesSource(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(1, 3))
	blob := zstdOf(t, r, splitParts(r, slices.Repeat(sourceText(t), 20), 60<<10)...)
	broken := errors.New("the network is gone")
	source := func() io.Reader { return io.MultiReader(bytes.NewReader(blob), iotest.ErrReader(broken)) }
	var lens []int
	for _, workers := range []int{1, 3} {
		d, err := NewReader(source(), Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(d)
		d.Close()
		if err != broken || d.Format() != Zstd {
			t.Error(workers, err, d.Format())
		}
		lens = append(lens, len(out))
	}
	if lens[0] != lens[1] {
		t.Error("bytes before the error: ", lens)
	}
	d, err := NewReader(source(), Options{Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, d, 1<<20); err != nil {
		t.Error(err)
	}
	d.Close()
}

// FuzzFrames compares small jobs with the serial decoder.
func FuzzFrames(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 5))
	data := bytes.Repeat([]byte("frame "), 300)
	blob := zstdOf(f, r, splitParts(r, data, 90)...)
	small := zstdOf(f, r, splitParts(r, data[:400], 90)...)
	used := 0
	add := func(in []byte, least, most uint8) {
		if _, frames, _ := readZstd(bytes.NewReader(in), 3, fuzzSizes(least, most), 1<<20); frames != nil && frames.idle == 0 {
			used++
		}
		f.Add(in, least, most)
	}
	add(blob, uint8(30), uint8(100))
	add(append(bytes.Clone(blob), skippable(3)...), uint8(1), uint8(200))
	add(append(bytes.Clone(blob[:300]), zstdOf(f, r, blob)...), uint8(50), uint8(60))
	add(slices.Concat(small, zstdOf(f, r, data), small), uint8(20), uint8(90))                          // one too large for a job
	add(slices.Concat(small, skippable(200), small), uint8(9), uint8(9))                                // and a skippable one
	add(slices.Concat(small, zstdWindowFrame(f, data, 1<<10, true), small), uint8(40), uint8(255))      // a single segment
	add(slices.Concat(small, zstdWindowFrame(f, data, 16<<20, false)), uint8(40), uint8(255))           // a window that is refused
	add(slices.Concat(small, zstdOf(f, r, make([]byte, 900), make([]byte, 10))), uint8(10), uint8(255)) // a block of one byte
	add(slices.Concat(small, []byte("garbage")), uint8(10), uint8(100))                                 // not a frame
	add(small[:len(small)-2], uint8(10), uint8(100))                                                    // cut
	if used < 5 {
		f.Fatalf("workers decode %d of the seeds: this fuzzes nothing", used)
	}
	f.Fuzz(func(t *testing.T, in []byte, least, most uint8) {
		if detectFormat(in[:min(len(in), 4)]) != Zstd {
			return
		}
		sizes := fuzzSizes(least, most)
		want, _, werr := readZstd(bytes.NewReader(in), 0, sizes, 1<<20)
		for _, workers := range []int{-1, 3} {
			got, _, err := readZstd(bytes.NewReader(in), workers, sizes, 1<<20)
			if !sameErr(err, werr) || !bytes.Equal(got, want) {
				t.Errorf("%d workers: %d bytes, %v; serial: %d bytes, %v", workers, len(got), err, len(want), werr)
			}
		}
	})
}

func fuzzSizes(least, most uint8) frameSizes {
	return frameSizes{min: 1 + int(least), in: 1 + int(least) + int(most), out: 1 << 10, held: 1 << 20}
}
