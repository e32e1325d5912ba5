package flate

import (
	"bytes"
	stdflate "compress/flate"
	"io"
	"syscall"
	"testing"

	kflate "github.com/klauspost/compress/flate"
)

// BenchmarkDecode compares decoders on a program and a source file. The metric
// that counts is cpu-MB/s, output per second of CPU time, because a busy
// machine does not change it.
func BenchmarkDecode(b *testing.B) {
	for name, data := range corpus(b) {
		if len(data) == 0 {
			continue
		}
		var buf bytes.Buffer
		w, _ := stdflate.NewWriter(&buf, 6)
		w.Write(data)
		w.Close()
		bench := func(decoder string, open func(io.Reader) io.Reader) {
			b.Run(name+"/"+decoder, func(b *testing.B) {
				begin := cpuNanos(b)
				n := 0
				for b.Loop() {
					io.Copy(io.Discard, open(bytes.NewReader(buf.Bytes())))
					n++
				}
				b.ReportMetric(float64(n)*float64(len(data))*1e3/float64(cpuNanos(b)-begin), "cpu-MB/s")
			})
		}
		d := NewDecoder(NewInput(nil))
		bench("penstock", func(r io.Reader) io.Reader { d.Reset(NewInput(r)); return d })
		k := kflate.NewReader(bytes.NewReader(nil))
		bench("klauspost", func(r io.Reader) io.Reader { k.(kflate.Resetter).Reset(r, nil); return k })
		bench("std", stdReader)
	}
}

func stdReader(r io.Reader) io.Reader { return stdflate.NewReader(r) }

func cpuNanos(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Skip("needs getrusage: ", err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
