package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The contestants.
const (
	oursName      = "penstock (soci)"
	klauspostName = "klauspost/compress"
	stdName       = "compress/gzip"
)

// oursProgram decodes with soci's decoder: nothing outside of soci may import it.
const oursProgram = "./soci/internal/inflate/cmd/gunzip"

// layerNeeds is the room that the layer takes at most, with its tar.
const layerNeeds = 512 << 20 // bytes

// maxOverKlauspost: our decoder makes at least 1.3 times klauspost's rate.
const maxOverKlauspost = 1 / 1.3

var notes = []string{
	"One stream on one core each, from a file in memory to nowhere; programs write to /dev/null.",
	"GB are of the tar, not of the compressed layer.",
	"CPU includes the start of the process, which is some milliseconds.",
}

func drive(ctx context.Context, o options) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	res := bench.Result{Area: "inflate", Command: "make bench AREA=inflate", Machine: bench.ThisMachine(), Notes: notes}
	under := o.data
	if under == "" {
		under = bench.MemoryFolder(layerNeeds)
	}
	work, err := os.MkdirTemp(under, "penstock-inflate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	fmt.Println("compressing the Go tree")
	top := filepath.Join(runtime.GOROOT(), "src")
	if o.quick {
		top = filepath.Join(top, "net")
	}
	layer := filepath.Join(work, "layer.tar.gz")
	size, sum, err := makeLayer(layer, top)
	if err != nil {
		return err
	}
	ours := filepath.Join(work, "gunzip")
	if err := bench.Build(ctx, ours, oursProgram); err != nil {
		return err
	}
	c := bench.Case{Name: "gunzip", Rounds: o.rounds, Warmup: 1, Contestants: append([]bench.Contestant{
		{Name: oursName, Ours: true, Argv: []string{ours, "-file", layer}},
	}, contestants(ctx, exe, layer, sum)...)}
	c.After = func(_ context.Context, _ bench.Contestant, s *bench.Sample) error {
		if s.Outcome == bench.OutcomeOK {
			if s.Bytes != 0 && s.Bytes != size {
				s.Outcome, s.Error = bench.OutcomeCorrupt, fmt.Sprintf("%d bytes instead of %d", s.Bytes, size)
			}
			s.Bytes = size
		}
		return nil
	}
	m, err := bench.Measure(ctx, c, os.Stdout)
	if err != nil {
		return err
	}
	report(&res, m, size)
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\nquick run: nothing is written, and the figures mean nothing")
		return nil
	}
	at, err := res.Write(o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten: %s/{table.md,result.json,plot.svg}; %d of %d targets missed\n", at, len(res.Failed()), len(res.Verdicts))
	return nil
}

// inGo returns the peers written in Go, which are roles of this program.
func inGo(exe, layer string) []bench.Contestant {
	return []bench.Contestant{
		{Name: klauspostName, Argv: []string{exe, "gunzip", "-decoder", "klauspost", "-file", layer}},
		{Name: stdName, Argv: []string{exe, "gunzip", "-decoder", "std", "-file", layer}},
	}
}

// contestants returns the decoders whose output is right on this machine.
func contestants(ctx context.Context, exe, layer string, sum [sha256.Size]byte) []bench.Contestant {
	out := inGo(exe, layer)
	for _, p := range []struct{ program, pkg string }{{"pigz", "pigz"}, {"igzip", "isal"}, {"libdeflate-gunzip", "libdeflate-tools"}} {
		bin, err := bench.Debian(ctx, p.program, p.pkg)
		if err == nil {
			err = checkOutput(ctx, bin, layer, sum)
		}
		if err != nil {
			fmt.Printf("without %s: %v\n", p.program, err)
			continue
		}
		out = append(out, bench.Contestant{Name: p.program, Argv: []string{"sh", "-c", `exec "$1" -d -c "$2" >/dev/null`, "sh", bin, layer}})
	}
	return out
}

// checkOutput compares the hash of what the program makes of the layer.
func checkOutput(ctx context.Context, bin, layer string, want [sha256.Size]byte) error {
	h := sha256.New()
	cmd := exec.CommandContext(ctx, bin, "-d", "-c", layer)
	cmd.Stdout = h
	if err := cmd.Run(); err != nil {
		return err
	}
	if [sha256.Size]byte(h.Sum(nil)) != want {
		return errors.New("its output is wrong")
	}
	return nil
}

// makeLayer writes a layer of the files below top; it returns the size and the
// hash of the tar.
func makeLayer(path, top string) (size int64, sum [sha256.Size]byte, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, sum, err
	}
	zw := gzip.NewWriter(f)
	h := sha256.New()
	n := &counter{}
	tw := tar.NewWriter(io.MultiWriter(zw, h, n))
	err = errors.Join(tw.AddFS(os.DirFS(top)), tw.Close(), zw.Close(), f.Close())
	return n.n, [sha256.Size]byte(h.Sum(nil)), err
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func report(res *bench.Result, m bench.Measured, size int64) {
	t := bench.Table{
		Title:   fmt.Sprintf("gunzip of a layer with %d MiB of tar", size>>20),
		Columns: []string{"decoder", "MB/s of tar", "CPU-s/GB", "max RSS MiB", "outcome"},
	}
	chart := bench.Chart{Title: t.Title + ", higher is better", Unit: "MB/s"}
	mbps := func(s bench.Sample) (float64, bool) {
		v, ok := bench.Rate(s)
		return v / 1e6, ok
	}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		rate := bench.SpreadOf(s, mbps)
		t.Rows = append(t.Rows, []string{
			name, bench.FormatSpread(rate, 1, 0), bench.FormatSpread(bench.SpreadOf(s, bench.CPUPerGB), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0), bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: rate, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	got := 0.0
	if base := bench.SpreadOf(m.Of(klauspostName), bench.CPUPerGB).Median; base > 0 {
		got = bench.SpreadOf(m.Of(oursName), bench.CPUPerGB).Median / base
	}
	res.Verdicts = append(res.Verdicts, bench.AtMost("CPU for a byte against klauspost/compress", got, maxOverKlauspost, "x"))
}
