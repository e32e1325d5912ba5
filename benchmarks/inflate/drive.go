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
	oursName      = "penstock, one core"
	twoName       = "penstock, two cores"
	recordName    = "penstock, one core, writing an index"
	klauspostName = "klauspost/compress"
	stdName       = "compress/gzip"
	igzipName     = "igzip"
)

// oursProgram runs the decoder of soci, which only soci can import.
const oursProgram = "./soci/internal/inflate/cmd/gunzip"

// layerNeeds bounds the size of the layer and its tar.
const layerNeeds = 512 << 20 // bytes

// The targets are ratios: our CPU time on one core to klauspost's CPU time, our
// time on two cores to klauspost's time, and our time on two cores to our time
// on one.
const (
	maxCPU  = 1 / 1.3
	maxWall = 1 / 1.15
	maxSlow = 1 / 0.95
	// Our CPU time with recording an index to our CPU time without it, and our
	// CPU time to the CPU time of igzip.
	maxRecord = 1.03
	maxIgzip  = 1.0
)

// memberBytes is the size of the tar in a small member, as in eStargz.
const memberBytes = 256 << 10

var notes = []string{
	"From a file in memory to nowhere; programs write to /dev/null. Only penstock has a decoder that uses a second core; pigz uses it for reading and writing.",
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
	ours := filepath.Join(work, "gunzip")
	if err := bench.Build(ctx, ours, oursProgram); err != nil {
		return err
	}
	for _, kind := range []struct {
		name   string
		member int64
	}{{"one member", 0}, {"members of 256 KiB of tar", memberBytes}} {
		layer := filepath.Join(work, "layer.tar.gz")
		size, sum, err := makeLayer(layer, top, kind.member)
		if err != nil {
			return err
		}
		cs := ourWays(ours, layer, filepath.Join(work, "layer.index"))
		m, err := measure(ctx, o, kind.name, append(cs, contestants(ctx, exe, layer, sum)...), size)
		if err != nil {
			return err
		}
		report(&res, m, size)
	}
	for _, sh := range shapes() {
		if err := sh.compare(ctx, o, ours, filepath.Join(work, "layer.tar.gz"), &res); err != nil {
			return err
		}
	}
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

// ourWays returns the ways of our decoder.
func ourWays(ours, layer, index string) []bench.Contestant {
	return []bench.Contestant{
		{Name: oursName, Ours: true, Argv: []string{ours, "-file", layer}},
		{Name: twoName, Ours: true, Argv: []string{ours, "-file", layer, "-workers", "2"}},
		{Name: recordName, Ours: true, Argv: []string{ours, "-file", layer, "-write-index", index}},
	}
}

// measure runs the contestants and checks the number of bytes that they report.
func measure(ctx context.Context, o options, name string, cs []bench.Contestant, size int64) (bench.Measured, error) {
	c := bench.Case{Name: name, Rounds: o.rounds, Warmup: 1, Contestants: cs}
	c.After = func(_ context.Context, _ bench.Contestant, s *bench.Sample) error {
		if s.Outcome == bench.OutcomeOK {
			if s.Bytes != 0 && s.Bytes != size {
				s.Outcome, s.Error = bench.OutcomeCorrupt, fmt.Sprintf("%d bytes instead of %d", s.Bytes, size)
			}
			s.Bytes = size
		}
		return nil
	}
	return bench.Measure(ctx, c, os.Stdout)
}

// inGo returns the peers written in Go, which are roles of this program.
func inGo(exe, layer string) []bench.Contestant {
	return []bench.Contestant{
		{Name: klauspostName, Argv: []string{exe, "gunzip", "-decoder", "klauspost", "-file", layer}},
		{Name: stdName, Argv: []string{exe, "gunzip", "-decoder", "std", "-file", layer}},
	}
}

// contestants returns the other decoders whose output is correct on this
// machine.
func contestants(ctx context.Context, exe, layer string, sum [sha256.Size]byte) []bench.Contestant {
	out := inGo(exe, layer)
	for _, p := range []struct{ program, pkg string }{{"pigz", "pigz"}, {igzipName, "isal"}, {"libdeflate-gunzip", "libdeflate-tools"}} {
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

// checkOutput compares the hash of the output of the program.
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

// makeLayer writes a layer of the files below top, in members of so many bytes
// of tar, or in one member if that is 0. It returns the size and the hash of
// the tar.
func makeLayer(path, top string, member int64) (size int64, sum [sha256.Size]byte, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, sum, err
	}
	zw := &splitter{w: f, z: gzip.NewWriter(f), most: member}
	h := sha256.New()
	n := &counter{}
	tw := tar.NewWriter(io.MultiWriter(zw, h, n))
	err = errors.Join(tw.AddFS(os.DirFS(top)), tw.Close(), zw.Close(), f.Close())
	return n.n, [sha256.Size]byte(h.Sum(nil)), err
}

// splitter starts a new member after most bytes, or never if most is 0.
type splitter struct {
	w       io.Writer
	z       *gzip.Writer
	most, n int64
}

func (s *splitter) Write(p []byte) (int, error) {
	if s.most > 0 && s.n >= s.most {
		if err := s.z.Close(); err != nil {
			return 0, err
		}
		s.z.Reset(s.w)
		s.n = 0
	}
	n, err := s.z.Write(p)
	s.n += int64(n)
	return n, err
}

func (s *splitter) Close() error { return s.z.Close() }

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func report(res *bench.Result, m bench.Measured, size int64) {
	t := bench.Table{
		Title:   fmt.Sprintf("gunzip of a layer with %d MiB of tar, %s", size>>20, m.Name),
		Columns: []string{"decoder", "MB/s of tar", "MB/s per CPU-s", "CPU-s/GB", "max RSS MiB", "outcome"},
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
			name, bench.FormatSpread(rate, 1, 0), bench.FormatSpread(bench.SpreadOf(s, perCPU), 1, 0), bench.FormatSpread(bench.SpreadOf(s, bench.CPUPerGB), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0), bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: rate, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	against := func(ours, base string, get func(bench.Sample) (float64, bool)) float64 {
		if b := bench.SpreadOf(m.Of(base), get).Median; b > 0 {
			return bench.SpreadOf(m.Of(ours), get).Median / b
		}
		return 0
	}
	res.Verdicts = append(res.Verdicts,
		bench.AtMost(m.Name+": CPU on one core against klauspost/compress", against(oursName, klauspostName, bench.CPUPerGB), maxCPU, "x"),
		bench.AtMost(m.Name+": time on two cores against klauspost/compress", against(twoName, klauspostName, bench.Wall), maxWall, "x"),
		bench.AtMost(m.Name+": time on two cores against one", against(twoName, oursName, bench.Wall), maxSlow, "x"),
		bench.AtMost(m.Name+": CPU of writing an index against not", against(recordName, oursName, bench.CPUPerGB), maxRecord, "x"))
	if v := against(oursName, igzipName, bench.CPUPerGB); v > 0 {
		res.Verdicts = append(res.Verdicts, bench.AtMost(m.Name+": CPU on one core against igzip", v, maxIgzip, "x"))
	}
}

// perCPU returns MB of tar per second of CPU time.
func perCPU(s bench.Sample) (float64, bool) {
	v, ok := bench.CPUPerGB(s)
	if !ok || v <= 0 {
		return 0, false
	}
	return 1e3 / v, true
}
