package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// maxFetched bounds the bytes that random reads fetch, in multiples of the bytes
// read.
const maxFetched = 1.05

var notes = []string{
	"CPU is the sum of the reader and of the mount's process together. The origin runs in the driver, on the same cores.",
	"Each run mounts afresh: nothing is in the page cache, no peer has a disk cache. Peers run with 16 streams of 8 MiB.",
	"All read bytes are compared with the object behind them, at the same cost for all.",
	"Loopback and a store without latency: read-ahead earns nothing here that it would not earn much more of against a real store.",
}

func drive(ctx context.Context, o options) (err error) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		return fmt.Errorf("needs /dev/fuse: %w", err)
	} else if err := f.Close(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	res := bench.Result{Area: "csi", Command: "make bench AREA=csi", Machine: bench.ThisMachine(), Notes: notes}
	under := o.data
	if under == "" {
		under = bench.MemoryFolder(o.size + int64(o.small)*smallBytes)
	}
	work, err := os.MkdirTemp(under, "penstock-csi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	origin, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	ref := filepath.Join(work, "ref")
	if err := makeObjects(o, ref, origin); err != nil {
		return err
	}
	ms, err := mounters(ctx, o, work, origin)
	if err != nil {
		return err
	}
	for _, pattern := range []string{patternBig, patternSmall, patternRandom} {
		m, err := measure(ctx, o, pattern, ms, exe, work, ref, origin)
		if err != nil {
			return err
		}
		report(&res, m)
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

// makeObjects writes the files and puts them into the bucket.
func makeObjects(o options, ref string, origin *testorigin.Origin) error {
	if err := os.MkdirAll(filepath.Join(ref, smallDir), 0o755); err != nil {
		return err
	}
	big := filepath.Join(ref, bigFile)
	err := errors.Join(bench.WriteObject(big, o.size, 0), origin.PutFile(bucket, bigFile, big))
	for i := range o.small {
		key := smallDir + "/" + fmt.Sprintf("%05d", i)
		path := filepath.Join(ref, key)
		err = errors.Join(err, bench.WriteObject(path, smallBytes, int64(i+1)<<32), origin.PutFile(bucket, key, path))
	}
	return err
}

// measure runs one access pattern over every mount.
func measure(ctx context.Context, o options, pattern string, ms []mounter, exe, work, ref string, origin *testorigin.Origin) (bench.Measured, error) {
	dir := filepath.Join(work, "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return bench.Measured{}, err
	}
	byName := map[string]mounter{}
	var server *bench.Server
	var before time.Duration
	defer func() {
		if server != nil { // a run ended early
			stop(server, dir)
		}
	}()
	c := bench.Case{Name: pattern, Rounds: o.rounds, Warmup: 1}
	for _, m := range ms {
		byName[m.name] = m
		c.Contestants = append(c.Contestants, bench.Contestant{
			Name: m.name, Ours: m.name == oursName,
			Argv: []string{exe, "read", "-pattern", pattern, "-dir", dir, "-ref", ref, "-random", strconv.Itoa(o.random)},
		})
	}
	c.Before = func(ctx context.Context, x bench.Contestant) (err error) {
		server, err = byName[x.Name].start(ctx, dir)
		if err == nil {
			before = server.CPU()
			origin.Reset()
		}
		return err
	}
	c.After = func(_ context.Context, _ bench.Contestant, s *bench.Sample) error {
		s.CPU += server.CPU() - before
		s.MaxRSS = server.RSS()
		for _, n := range origin.Counters() {
			s.Requests += n.Requests
			if n.Op == "GetObject" {
				s.BytesSent += n.Bytes
			}
		}
		stop(server, dir)
		server = nil
		return nil
	}
	return bench.Measure(ctx, c, os.Stdout)
}

func report(res *bench.Result, m bench.Measured) {
	t := bench.Table{
		Title:   "Reads through a mount: " + m.Name,
		Columns: []string{"mount", "MB/s", "CPU-s/GB", "p99 ms", "RSS of the mount MiB", "requests", "fetched / read", "outcome"},
	}
	chart := bench.Chart{Title: t.Title + ", higher is better", Unit: "MB/s"}
	fetched := func(s bench.Sample) (float64, bool) {
		return float64(s.BytesSent) / float64(s.Bytes), s.Bytes > 0
	}
	p99 := func(s bench.Sample) (float64, bool) {
		v, ok := s.Extra[extraP99]
		return v, ok
	}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		rate := bench.SpreadOf(s, func(s bench.Sample) (float64, bool) {
			v, ok := bench.Rate(s)
			return v / 1e6, ok
		})
		t.Rows = append(t.Rows, []string{
			name, bench.FormatSpread(rate, 1, 0),
			bench.FormatSpread(bench.SpreadOf(s, bench.CPUPerGB), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, p99), 1, 1),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0),
			fmt.Sprintf("%.0f", bench.SpreadOf(s, bench.Requests).Median),
			bench.FormatSpread(bench.SpreadOf(s, fetched), 1, 3), bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: rate, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	if m.Name == patternRandom {
		res.Verdicts = append(res.Verdicts, bench.AtMost("random reads: bytes fetched for a byte read", bench.SpreadOf(m.Of(oursName), fetched).Max, maxFetched, "x"))
	}
}

// containsMount looks for a mount point in the text of /proc/self/mounts.
func containsMount(table, dir string) bool {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == dir {
			return true
		}
	}
	return false
}
