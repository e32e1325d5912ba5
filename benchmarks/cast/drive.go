package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// The contestants.
const (
	oursName = "penstock-cast"
	eachName = "manager in each process"
)

// The targets of this area.
const (
	maxReads = 1.01 // times the object leaves the store
	maxCPU   = 1.0  // CPU of all clients, against reading it in each
)

var notes = []string{
	"CPU is the sum over all processes of the job, without the origin; memory is the sum of their resident sets, which counts shared pages of the program once for each.",
	"Everything is on one machine over loopback, so the origin has no bandwidth limit of its own: what a broadcast is for (one reader at the store, line rate to all) shows in the origin's bytes, not in the wall time.",
	"penstock-cast compares a hash of what each worker got with the leader's; the manager's clients throw the bytes away unchecked.",
}

func drive(ctx context.Context, o options) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	res := bench.Result{Area: "cast", Command: "make bench AREA=cast", Machine: bench.ThisMachine(), Notes: notes}
	under := o.data
	if under == "" {
		under = bench.MemoryFolder(o.size)
	}
	dir, err := os.MkdirTemp(under, "penstock-cast-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("building penstock-cast and the peer")
	cast, peer := filepath.Join(dir, "penstock-cast"), filepath.Join(dir, "peers")
	if err := bench.Build(ctx, cast, "./s3stream/cmd/penstock-cast"); err != nil {
		return err
	}
	if err := bench.BuildIn(ctx, "benchmarks/engine/peers", peer); err != nil {
		return err
	}
	object := filepath.Join(dir, key)
	if err := bench.WriteObject(object, o.size, 0); err != nil {
		return err
	}
	origin, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	if err := origin.PutFile(bucket, key, object); err != nil {
		return err
	}
	m, err := bench.Measure(ctx, broadcastCase(o, origin, exe, cast, peer), os.Stdout)
	if err != nil {
		return err
	}
	report(&res, m, o)
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

func broadcastCase(o options, origin *testorigin.Origin, exe, cast, peer string) bench.Case {
	env := []string{
		"AWS_ACCESS_KEY_ID=" + testorigin.AccessKey, "AWS_SECRET_ACCESS_KEY=" + testorigin.SecretKey,
		"AWS_REGION=" + testorigin.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"PENSTOCK_TOKEN=" + filepath.Base(exe) + strconv.Itoa(os.Getpid()),
	}
	args := func(role, bin string) []string {
		return []string{exe, role, "-bin", bin, "-endpoint", origin.URL(), "-workers", strconv.Itoa(o.workers)}
	}
	return bench.Case{
		Name: fmt.Sprintf("one object to %d processes", o.workers), Rounds: o.rounds, Warmup: 1,
		Contestants: []bench.Contestant{
			{Name: oursName, Ours: true, Argv: args("job", cast), Env: env},
			{Name: eachName, Argv: args("each", peer), Env: env},
		},
		Before: func(context.Context, bench.Contestant) error {
			origin.Reset()
			return nil
		},
		After: func(_ context.Context, _ bench.Contestant, s *bench.Sample) error {
			c := origin.Count("GetObject", bucket+"/"+key)
			s.Requests, s.BytesSent = c.Requests, c.Bytes
			if want := o.size * int64(o.workers); s.Outcome == bench.OutcomeOK && s.Bytes != want {
				s.Outcome, s.Error = bench.OutcomeCorrupt, fmt.Sprintf("%d bytes delivered instead of %d", s.Bytes, want)
			}
			return nil
		},
	}
}

func report(res *bench.Result, m bench.Measured, o options) {
	t := bench.Table{
		Title:   fmt.Sprintf("One object of %d MiB to %d processes", o.size>>20, o.workers),
		Columns: []string{"client", "seconds", "GB/s in all", "CPU-s/GB delivered", "RSS of all MiB", "requests", "read from the store", "outcome"},
	}
	chart := bench.Chart{Title: t.Title + ": bytes that leave the store, lower is better", Unit: "times the object"}
	reads := func(s bench.Sample) (float64, bool) { return float64(s.BytesSent) / float64(o.size), true }
	for i, name := range m.Contestants {
		s := m.Samples[i]
		read := bench.SpreadOf(s, reads)
		t.Rows = append(t.Rows, []string{
			name,
			bench.FormatSpread(bench.SpreadOf(s, bench.Wall), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.Rate), 1e9, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.CPUPerGB), 1, 3),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0),
			fmt.Sprintf("%.0f", bench.SpreadOf(s, bench.Requests).Median),
			bench.FormatSpread(read, 1, 3) + " x", bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: read, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	cpu, base := bench.SpreadOf(m.Of(oursName), bench.CPUPerGB).Median, bench.SpreadOf(m.Of(eachName), bench.CPUPerGB).Median
	got := 0.0
	if base > 0 {
		got = cpu / base
	}
	res.Verdicts = append(res.Verdicts,
		bench.AtMost("the object leaves the store once", bench.SpreadOf(m.Of(oursName), reads).Max, maxReads, "x"),
		bench.AtMost("CPU of all clients for a delivered byte, against reading it in each", got, maxCPU, "x"),
	)
}
