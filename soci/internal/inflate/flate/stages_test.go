package flate

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"
)

// BenchmarkStages measures each part of decoding one member on several cores,
// in ns per byte of output: serial decoding, decoding symbols (while there are
// markers), resolving them, and the sequential chain, which is the table and
// the history for each segment. The search is in ns per segment. The input is
// the gzip file in PENSTOCK_STAGES_LAYER, with a header of ten bytes.
func BenchmarkStages(b *testing.B) {
	data, err := os.ReadFile(os.Getenv("PENSTOCK_STAGES_LAYER"))
	if err != nil || len(data) < 10 {
		b.Skip("needs a gzip file in PENSTOCK_STAGES_LAYER")
	}
	const spacing = 1 << 20 // compressed bytes between segments, as in package inflate
	data = data[10:min(len(data), 64<<20)]
	var serial, symbols, resolve, chain, search part
	t, f, blind, d := new(Table), NewFinder(), NewSymbolDecoder(), NewDecoder(NewInput(nil))
	for b.Loop() {
		d.Reset(NewInput(bytes.NewReader(data)))
		serial.do(func() int { return drain(d.Next) })
		for from := spacing; from+2*spacing < len(data); from += spacing {
			at := -1
			search.do(func() int { at = f.Find(data[:from+spacing/2], from*8); return 1 })
			if at < 0 {
				continue
			}
			blind.Reset(NewInput(bytes.NewReader(data[at/8:])), uint(at%8))
			blind.StopAt(spacing * 8)
			var err error
			for err == nil && blind.ByteDecoder() == nil {
				var p []byte
				symbols.do(func() int { p, err = blind.Next(); return len(p) / symLen })
				resolve.do(func() int { return len(t.Resolve(p)) })
			}
			begin := time.Now()
			t.Fill(d.History())
			blind.Resolve(t)
			chain.took += time.Since(begin)
			chain.n++
			if !errors.Is(err, ErrStopped) && err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(serial.per(), "serial-ns/B")
	b.ReportMetric(symbols.per(), "symbols-ns/B")
	b.ReportMetric(resolve.per(), "resolve-ns/B")
	b.ReportMetric(search.per(), "search-ns/segment")
	b.ReportMetric(chain.per(), "chain-ns/segment")
	b.ReportMetric(float64(serial.n)/float64(len(data))*spacing/float64(b.N), "B/segment")
	b.ReportMetric(float64(symbols.n)/float64(serial.n)*100, "symbols-%")
}

// part adds up the time and the size of a stage.
type part struct {
	took time.Duration
	n    int
}

func (p *part) do(f func() int) {
	begin := time.Now()
	n := f()
	p.took += time.Since(begin)
	p.n += n
}

func (p *part) per() float64 { return float64(p.took) / float64(max(1, p.n)) }

func drain(next func() ([]byte, error)) (n int) {
	for {
		p, err := next()
		if n += len(p); err != nil {
			return n
		}
	}
}
