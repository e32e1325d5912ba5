package inflate

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// benchEnv names a gzip file for the benchmarks.
const benchEnv = "PENSTOCK_STAGES_LAYER"

// BenchmarkWays decodes one layer from memory in each way, once per round, and
// reports the medians of ratios within a round:
//
//	record-%      CPU that recording and saving an index adds to serial decoding
//	indexed-x     rate of two workers with the index, relative to twice the serial rate
//	ceiling-x     rate of two concurrent serial decoders, relative to twice the serial rate
//	hashed-x      rate with the index while the SHA-256 of the output is computed, relative
//	              to the rate of SHA-256 alone
//	index-%       size of the index, relative to the layer
func BenchmarkWays(b *testing.B) {
	data, err := os.ReadFile(os.Getenv(benchEnv))
	if err != nil {
		b.Skip("needs a gzip file in " + benchEnv)
	}
	file, x := recorded(b, data)
	ratios := map[string][]float64{}
	note := func(name string, v float64) { ratios[name] = append(ratios[name], v) }
	for b.Loop() {
		serial, cpu := timed(b, func() { decodeAll(b, data, Options{}, io.Discard) })
		_, more := timed(b, func() { recorded(b, data) })
		note("record-%", 100*(more/cpu-1))
		indexed, _ := timed(b, func() { decodeAll(b, data, Options{Workers: 2, Index: x}, io.Discard) })
		note("indexed-x", serial/indexed/2)
		both, _ := timed(b, func() {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { decodeAll(b, data, Options{}, io.Discard) })
			}
			wg.Wait()
		})
		note("ceiling-x", serial/both)
		note("hashed-x", hashAlone(b, data, x)/hashWhileDecoding(b, data, x))
	}
	for name, v := range ratios {
		slices.Sort(v)
		b.ReportMetric(v[len(v)/2], name)
	}
	b.ReportMetric(100*float64(file)/float64(len(data)), "index-%")
}

// timed returns the wall time and the CPU time of f in seconds.
func timed(b *testing.B, f func()) (wall, cpu float64) {
	b.Helper()
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Skip("needs getrusage: ", err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	begin, before := time.Now(), used()
	f()
	return time.Since(begin).Seconds(), used() - before
}

// decodeAll reads a MiB at a time by Read, as soci does.
func decodeAll(b *testing.B, data []byte, opts Options, to io.Writer) int64 {
	r, err := NewReader(bytes.NewReader(data), opts)
	if err != nil {
		b.Error(err)
		return 0
	}
	return copyAll(b, r, to)
}

// copyAll reads r to its end and closes it.
func copyAll(b *testing.B, r *Reader, to io.Writer) int64 {
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err != nil || r.IndexWrong() {
		b.Error(err, r.IndexWrong())
	}
	return n
}

// recorded returns the size of the index file of data, and the index.
func recorded(b *testing.B, data []byte) (int, *index.Index) {
	rec := index.NewRecorder(0)
	n := decodeAll(b, data, Options{Record: rec}, io.Discard)
	x, err := rec.Index(index.Blob{Size: int64(len(data)), Out: n})
	if err != nil {
		b.Fatal(err)
	}
	var file bytes.Buffer
	if err := x.Save(&file); err != nil {
		b.Fatal(err)
	}
	return file.Len(), x
}

// hashAlone returns the time of SHA-256 for as many bytes as the output, from a
// MiB that stays in the cache.
func hashAlone(b *testing.B, data []byte, x *index.Index) float64 {
	p := make([]byte, 1<<20)
	wall, _ := timed(b, func() {
		h := sha256.New()
		for n := x.Out; n > 0; n -= int64(len(p)) {
			h.Write(p[:min(n, int64(len(p)))])
		}
	})
	return wall
}

// hashWhileDecoding returns the time of decoding by the index while another
// goroutine computes the hash, as in soci.
func hashWhileDecoding(b *testing.B, data []byte, x *index.Index) float64 {
	wall, _ := timed(b, func() {
		pr, pw := io.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.CopyBuffer(sha256.New(), pr, make([]byte, 1<<20)); err != nil {
				b.Error(err)
			}
		})
		decodeAll(b, data, Options{Workers: 2, Index: x}, pw)
		if err := pw.Close(); err != nil {
			b.Error(err)
		}
		wg.Wait()
	})
	return wall
}
