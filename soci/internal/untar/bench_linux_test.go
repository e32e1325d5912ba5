package untar

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// shapes returns layers whose extraction is bound by different costs.
func shapes(b *testing.B) map[string][]byte {
	b.Helper()
	const tiny = 20_000
	var spread, flat, huge []ent
	for i := range tiny {
		body := bigContent(100 + i%3000)
		spread = append(spread, file(fmt.Sprintf("d%02d/e%d/file-%d", i/1000, i/100%10, i), body))
		flat = append(flat, file(fmt.Sprintf("dir/file-%d", i), body))
	}
	huge = append(huge, file("model.bin", bigContent(512<<20)))
	return map[string][]byte{"tiny": archive(b, spread...), "onedir": archive(b, flat...), "huge": archive(b, huge...)}
}

// BenchmarkExtract extracts each shape, and each layer that matches the glob
// PENSTOCK_LAYERS, into the directory PENSTOCK_TARGET (best on tmpfs; the
// default is the temporary directory). cpu-ms is the user and system time of
// the process without the removal of the trees.
func BenchmarkExtract(b *testing.B) {
	in := shapes(b)
	layers, _ := filepath.Glob(os.Getenv("PENSTOCK_LAYERS"))
	for _, l := range layers {
		data, err := os.ReadFile(l)
		if err != nil {
			b.Fatal(err)
		}
		in[filepath.Base(l)] = data
	}
	for name, data := range in {
		b.Run(name, func(b *testing.B) { benchExtract(b, data) })
	}
}

func benchExtract(b *testing.B, data []byte) {
	b.Helper()
	pool := NewPool(2, 16<<20)
	defer pool.Close()
	b.SetBytes(int64(len(data)))
	var cpu int64
	for b.Loop() {
		b.StopTimer()
		dir, err := os.MkdirTemp(os.Getenv("PENSTOCK_TARGET"), "bench-") //nolint:usetesting // on the file system that is measured
		if err != nil {
			b.Fatal(err)
		}
		before := cpuNanos()
		b.StartTimer()
		l, err := Extract(b.Context(), io.Reader(bytes.NewReader(data)), dir, Options{Pool: pool, Meter: newMeter(DefaultLimits())})
		b.StopTimer()
		cpu += cpuNanos() - before
		if err == nil {
			err = RemoveAll(dir)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(l.Entries), "entries")
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu)/1e6/float64(b.N), "cpu-ms/op")
}

func cpuNanos() int64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}
