package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// shape is a stream that several workers decode hardly faster than one.
type shape struct {
	name string
	make func(w io.Writer, text []byte) error
}

// The sizes of the shapes.
const (
	shapeBytes = 96 << 20 // of output
	quickShape = 4 << 20  // of output, in a quick run
	flushEvery = 8 << 10  // bytes between two flushes: pigz has one every 128 KiB
	tinyMember = 4 << 10  // bytes
)

// shapes returns all shapes. text is shapeBytes of source code.
func shapes() []shape {
	noise := func(n int) []byte {
		p := make([]byte, n)
		rand.NewChaCha8([32]byte{1}).Read(p) //nolint:errcheck,gosec // never fails
		return p
	}
	at := func(level int, data func(text []byte) []byte) func(io.Writer, []byte) error {
		return func(w io.Writer, text []byte) error {
			z, err := gzip.NewWriterLevel(w, level)
			if err != nil {
				return err
			}
			if _, err := z.Write(data(text)); err != nil {
				return err
			}
			return z.Close()
		}
	}
	whole := func(text []byte) []byte { return text }
	return []shape{
		{"stored blocks", at(gzip.NoCompression, whole)},
		{"incompressible", at(gzip.DefaultCompression, func(text []byte) []byte { return noise(len(text)) })},
		{"Huffman codes only", at(gzip.HuffmanOnly, whole)},
		{"one byte, repeated", at(gzip.DefaultCompression, func(text []byte) []byte { return make([]byte, len(text)) })},
		{"20,000 bytes, repeated", at(gzip.DefaultCompression, func(text []byte) []byte {
			return bytes.Repeat(noise(20_000), len(text)/20_000)
		})},
		{"a flush every 8 KiB", func(w io.Writer, text []byte) error {
			z := gzip.NewWriter(w)
			for len(text) > 0 {
				n := min(len(text), flushEvery)
				if _, err := z.Write(text[:n]); err != nil {
					return err
				}
				if err := z.Flush(); err != nil {
					return err
				}
				text = text[n:]
			}
			return z.Close()
		}},
		{"members of 4 KiB", func(w io.Writer, text []byte) error {
			z := &splitter{w: w, z: gzip.NewWriter(w), most: tinyMember}
			for len(text) > 0 {
				n := min(len(text), tinyMember)
				if _, err := z.Write(text[:n]); err != nil {
					return err
				}
				text = text[n:]
			}
			return z.Close()
		}},
		{"one block", func(w io.Writer, text []byte) error { return oneBlock(w, text) }},
		{"400 KiB, below what workers are started for", func(w io.Writer, text []byte) error {
			return at(gzip.DefaultCompression, whole)(w, text[:min(len(text), 1200<<10)])
		}},
	}
}

// compare measures our decoder with one worker and with two.
func (sh shape) compare(ctx context.Context, o options, ours, layer string, res *bench.Result) error {
	size := shapeBytes
	if o.quick {
		size = quickShape
	}
	text, err := sourceText(size)
	if err != nil {
		return err
	}
	f, err := os.Create(layer)
	if err != nil {
		return err
	}
	n := &counter{}
	if err := sh.make(io.MultiWriter(f, n), text); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	out, err := outputOf(layer)
	if err != nil {
		return err
	}
	m, err := measure(ctx, o, sh.name, []bench.Contestant{
		{Name: oursName, Ours: true, Argv: []string{ours, "-file", layer}},
		{Name: twoName, Ours: true, Argv: []string{ours, "-file", layer, "-workers", "2"}},
	}, out)
	if err != nil {
		return err
	}
	row := []string{sh.name, fmt.Sprintf("%.2f", float64(out)/float64(n.n))}
	for i := range m.Contestants {
		rate := bench.SpreadOf(m.Samples[i], func(s bench.Sample) (float64, bool) {
			v, ok := bench.Rate(s)
			return v / 1e6, ok
		})
		row = append(row, bench.FormatSpread(rate, 1, 0), bench.FormatSpread(bench.SpreadOf(m.Samples[i], bench.CPUPerGB), 1, 2))
	}
	slow := 0.0
	if b := bench.SpreadOf(m.Of(oursName), bench.Wall).Median; b > 0 {
		slow = bench.SpreadOf(m.Of(twoName), bench.Wall).Median / b
	}
	const title = "shapes of streams that give a second core little to do"
	if k := len(res.Tables) - 1; k < 0 || res.Tables[k].Title != title {
		res.Tables = append(res.Tables, bench.Table{Title: title, Columns: []string{"shape", "ratio", "one core, MB/s", "CPU-s/GB", "two cores, MB/s", "CPU-s/GB"}})
	}
	t := &res.Tables[len(res.Tables)-1]
	t.Rows = append(t.Rows, row)
	res.Cases = append(res.Cases, m)
	res.Verdicts = append(res.Verdicts, bench.AtMost(sh.name+": time on two cores against one", slow, maxSlow, "x"))
	return nil
}
