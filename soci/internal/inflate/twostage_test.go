package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// smallSegments returns sizes with which several workers decode streams of some
// KiB.
func smallSegments() segmentSizes {
	return segmentSizes{serialFirst: 1 << 10, spacing: 6 << 10, ahead: 1 << 20, queue: 200 << 10, pieces: 4 << 20}
}

// readTwo decodes with workers and also returns the counts of the twoStage.
func readTwo(in io.Reader, workers int, h segmentSizes, most int64) ([]byte, twoStageStats, error) {
	m, err := newMembers(flate.NewInput(in), workers)
	if err != nil {
		return nil, twoStageStats{}, err
	}
	defer m.close()
	m.segments = h
	out, err := io.ReadAll(io.LimitReader(m, most))
	var stats twoStageStats
	if m.two != nil {
		m.two.mu.Lock()
		stats = m.two.stats
		m.two.mu.Unlock()
	}
	return out, stats, err
}

// mixedContent returns content of changing kinds: sources, incompressible data,
// runs, and copies of data from further back than the window.
func mixedContent(t testing.TB, r *rand.Rand, size int) []byte {
	t.Helper()
	src := sourceText(t)
	var out []byte
	for len(out) < size {
		n := 1 + r.IntN(20<<10)
		switch r.IntN(6) {
		case 0:
			for range n {
				out = append(out, byte(r.Uint32()))
			}
		case 1:
			out = append(out, bytes.Repeat([]byte{byte(n)}, n)...)
		case 2:
			at := r.IntN(len(out) + 1)
			out = append(out, out[at:min(len(out), at+n)]...)
		default:
			at := r.IntN(len(src))
			out = append(out, src[at:min(len(src), at+2*n)]...)
		}
	}
	return out[:size]
}

// flusher is a gzip encoder.
type flusher interface {
	io.WriteCloser
	Flush() error
}

// encode compresses data into one member, with a flush every so many bytes
// unless that is 0.
func encode(t testing.TB, data []byte, open func(io.Writer) (flusher, error), flush int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := open(&buf)
	if err != nil {
		t.Fatal(err)
	}
	for step := max(flush, 1<<20); len(data) > 0; {
		n := min(len(data), step)
		w.Write(data[:n])
		if data = data[n:]; flush > 0 {
			w.Flush()
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func stdEncoder(level int) func(io.Writer) (flusher, error) {
	return func(w io.Writer) (flusher, error) { return stdgzip.NewWriterLevel(w, level) }
}

func klauspost(level int) func(io.Writer) (flusher, error) {
	return func(w io.Writer) (flusher, error) { return kgzip.NewWriterLevel(w, level) }
}

// The worker of a segment can be so late that the front reaches the segment before
// its decoder has read a byte. By then the store may have dropped the first block
// of the segment, because the front reads ahead. The front then decodes the segment
// itself; it once handed over to a decoder that could never read, and no worker did
// anything else from then on.
func TestSegmentReadsLate(t *testing.T) {
	defer goleak.VerifyNone(t)
	data := mixedContent(t, rand.New(rand.NewPCG(5, 5)), 1200<<10)
	dropped := 0
	sizes := smallSegments()
	sizes.opened = func(two *twoStage, s *segment) {
		for !s.front && !s.abandoned && !two.closed && two.end == nil {
			two.wake.Wait() // until the front has arrived
		}
		if two.store.base > s.start/8 {
			dropped++
		}
	}
	for name, blob := range map[string][]byte{
		"six":     encode(t, data, stdEncoder(6), 0),
		"flushes": encode(t, data, stdEncoder(6), 3000),
		"stored":  encode(t, data, stdEncoder(0), 0),
		"text":    encode(t, slices.Repeat(sourceText(t), 6), stdEncoder(6), 0),
		"zeros":   encode(t, make([]byte, 12<<20), stdEncoder(6), 0),
		"fast":    encode(t, data, klauspost(1), 0),
		"best":    encode(t, data, stdEncoder(9), 0),
		"huffman": encode(t, data, stdEncoder(stdgzip.HuffmanOnly), 0),
	} {
		want, _, err := readTwo(bytes.NewReader(blob), 1, smallSegments(), 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		for _, workers := range []int{2, 5} {
			got, _, err := readTwo(iotest.HalfReader(bytes.NewReader(blob)), workers, sizes, 1<<40)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d workers: %d bytes, %v; want %d", name, workers, len(got), err, len(want))
			}
		}
	}
	if dropped == 0 {
		t.Error("the store had the first block of every segment: the test shows nothing")
	}
}

// TestTwoStage compares the output with the serial decoder.
func TestTwoStage(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(5, 5))
	data := mixedContent(t, r, 1200<<10)
	plain := slices.Repeat(sourceText(t), 6)
	six := encode(t, data, stdEncoder(6), 0)
	flip := func(b []byte, percent int) []byte {
		b = bytes.Clone(b)
		b[len(b)*percent/100] ^= 16
		return b
	}
	tests := map[string][]byte{
		"text":             encode(t, plain, stdEncoder(6), 0),
		"fast":             encode(t, data, klauspost(1), 0),
		"six":              six,
		"klauspost":        encode(t, data, klauspost(6), 0),
		"best":             encode(t, data, stdEncoder(9), 0),
		"flushes":          encode(t, data, stdEncoder(6), 3000),
		"literals only":    encode(t, data, stdEncoder(stdgzip.HuffmanOnly), 0),
		"stored":           encode(t, data, stdEncoder(0), 0),
		"zeros":            encode(t, make([]byte, 12<<20), stdEncoder(6), 0),
		"padded":           append(bytes.Clone(six), make([]byte, 100)...),
		"garbage":          append(bytes.Clone(six), "garbage"...),
		"members":          slices.Concat(six, gz(t, data[:9000], nil), six),
		"cut":              six[:len(six)*2/3],
		"cut in trailer":   six[:len(six)-3],
		"flipped":          flip(six, 60),
		"flipped early":    flip(six, 5),
		"flipped checksum": append(bytes.Clone(six[:len(six)-8]), make([]byte, 8)...),
	}
	hits := 0
	for name, blob := range tests {
		want, _, werr := readTwo(bytes.NewReader(blob), 1, smallSegments(), 1<<40)
		for _, workers := range []int{2, 5} {
			for i, src := range []io.Reader{bytes.NewReader(blob), iotest.HalfReader(bytes.NewReader(blob))} {
				got, stats, err := readTwo(src, workers, smallSegments(), 1<<40)
				if !sameErr(err, werr) || !bytes.Equal(got, want) {
					t.Errorf("%s, %d workers, source %d: %d bytes, %v; want %d, %v", name, workers, i, len(got), err, len(want), werr)
				}
				hits += stats.hits
			}
		}
	}
	if hits == 0 {
		t.Error("no guess was right")
	}
}

// TestTwoStageSource checks that an error of the source follows the output
// before it, and that a Reader that is closed early leaves no goroutine.
func TestTwoStageSource(t *testing.T) {
	defer goleak.VerifyNone(t)
	blob := encode(t, slices.Repeat(sourceText(t), 40), stdEncoder(6), 0)
	blob = blob[:len(blob)-1000]
	broken := errors.New("the network is gone")
	source := func() io.Reader { return io.MultiReader(bytes.NewReader(blob), iotest.ErrReader(broken)) }
	want, _, err := readTwo(source(), 1, smallSegments(), 1<<40)
	if err != broken {
		t.Error(err)
	}
	got, stats, err := readTwo(source(), 3, smallSegments(), 1<<40)
	if err != broken || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, %d hits; want %d", len(got), err, stats.hits, len(want))
	}
	for _, n := range []int64{1, 60 << 10, 1 << 20, 3 << 20} {
		if got, _, err := readTwo(source(), 4, smallSegments(), n); err != nil || !bytes.Equal(got, want[:n]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// TestReadAfterClose checks that Read returns an error after Close.
func TestReadAfterClose(t *testing.T) {
	defer goleak.VerifyNone(t)
	blob := encode(t, slices.Repeat(sourceText(t), 60), stdEncoder(6), 0)
	r, err := NewReader(bytes.NewReader(blob), Options{Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 6<<20); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
	if n, err := r.Read(make([]byte, 10)); n != 0 || err != errClosed {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestMemoryBoundsWorkers checks that Memory bounds the number of workers.
func TestMemoryBoundsWorkers(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want int
	}{
		{Options{}, 1},
		{Options{Workers: -1}, 1},
		{Options{Workers: 4}, 4},
		{Options{Workers: 4, Memory: 3 * WorkerMemory}, 3},
		{Options{Workers: 4, Memory: WorkerMemory - 1}, 1},
	} {
		if got := tt.o.workers(); got != tt.want {
			t.Errorf("%+v: %d", tt.o, got)
		}
	}
}

// TestExpansionIsNotHeld checks that output that expands a thousand times is
// not held in memory.
func TestExpansionIsNotHeld(t *testing.T) {
	data := slices.Concat(sourceText(t), make([]byte, 80<<20)) // workers start at first
	blob := encode(t, data, klauspost(6), 0)
	m, err := newMembers(flate.NewInput(bytes.NewReader(blob)), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.segments = smallSegments()
	n, err := io.Copy(io.Discard, m)
	if err != nil || n != int64(len(data)) {
		t.Error(n, err)
	}
	if most := int64(m.workers*m.segments.pieces + m.segments.queue + 8*pieceBytes); int64(len(m.two.freePieces))*pieceBytes > most {
		t.Errorf("%d pieces of output were held at a time", len(m.two.freePieces))
	}
}

// TestWorkersOnlyWhereTheyPay checks that stored data and repetitions are
// decoded serially, and that workers start at the first other data.
func TestWorkersOnlyWhereTheyPay(t *testing.T) {
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	zeros := make([]byte, 64<<20)
	for name, tt := range map[string]struct {
		data []byte
		two  bool
	}{
		"noise":          {noise, false},
		"zeros":          {zeros, false},
		"noise and text": {slices.Concat(noise, slices.Repeat(sourceText(t), 4)), true},
	} {
		m, err := newMembers(flate.NewInput(bytes.NewReader(encode(t, tt.data, klauspost(6), 0))), 4)
		if err != nil {
			t.Fatal(err)
		}
		m.segments = smallSegments()
		got, err := io.ReadAll(m)
		m.close()
		if err != nil || !bytes.Equal(got, tt.data) || (m.two != nil) != tt.two {
			t.Errorf("%s: %d bytes of %d, %v; workers: %v", name, len(got), len(tt.data), err, m.two != nil)
		}
	}
}

// FuzzTwoStage compares the output with compress/gzip on streams made from a
// seed, some of them damaged.
func FuzzTwoStage(f *testing.F) {
	for seed := range uint64(6) {
		f.Add(seed, uint32(100), uint8(0), uint8(20), uint32(1<<30))
		f.Add(seed, uint32(40000*seed), uint8(1<<seed), uint8(seed), uint32(30000*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, at uint32, flip, spacing uint8, cut uint32) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := mixedContent(t, r, r.IntN(400<<10))
		open := []func(int) func(io.Writer) (flusher, error){stdEncoder, klauspost}[r.IntN(2)]
		blob := encode(t, data, open(r.IntN(12)-2), r.IntN(2)*(1+r.IntN(50<<10)))
		if r.IntN(3) == 0 {
			blob = append(blob, encode(t, data[len(data)/2:], open(6), 0)...)
		}
		blob = headerCRC(blob)[:min(int64(cut), int64(len(blob)))]
		if len(blob) > 0 {
			blob[int64(at)%int64(len(blob))] ^= flip
		}
		agree(t, blob, int64(spacing))
	})
}

// agree fails if workers decode a blob differently from compress/gzip.
func agree(t *testing.T, blob []byte, spacing int64) {
	t.Helper()
	const most = 4 << 20
	if detectFormat(blob) != Gzip {
		return
	}
	var want []byte
	z, werr := stdgzip.NewReader(bytes.NewReader(blob))
	if werr == nil {
		want, werr = io.ReadAll(io.LimitReader(z, most))
	}
	h := smallSegments()
	h.serialFirst, h.spacing = spacing*8, 1+spacing*100
	got, _, err := readTwo(bytes.NewReader(blob), 3, h, most)
	serial, _, serr := readTwo(bytes.NewReader(blob), 1, h, most)
	if !sameErr(err, serr) || !bytes.Equal(got, serial) {
		t.Fatalf("%d bytes, %v; serial: %d bytes, %v", len(got), err, len(serial), serr)
	}
	if errors.Is(err, errReserved) || errors.Is(werr, stdgzip.ErrHeader) || werr != nil && blob[len(blob)-1] == 0 {
		return // the differences that the package documents
	}
	if (err == nil) != (werr == nil) || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; compress/gzip: %d bytes, %v", len(got), err, len(want), werr)
	}
}
