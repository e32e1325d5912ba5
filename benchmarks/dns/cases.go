package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// A turn is one contestant of a case: a role of the load generator against a
// server.
type turn struct {
	name string
	on   *server
	ours bool
	cpus string   // of the load generator
	role []string // the role and its flags
}

// cpuCase takes the turns again and again. The CPU of a sample is the server's.
func cpuCase(name, exe string, turns []turn, o options) bench.Case {
	servers := map[string]*server{}
	before, user, batches := map[string]time.Duration{}, map[string]time.Duration{}, map[string]float64{}
	c := bench.Case{Name: name, Rounds: o.rounds, Warmup: 1, Deadline: time.Now().Add(o.patience)}
	c.Line = func(s bench.Sample) string {
		us, _ := perAnswer(s)
		return fmt.Sprintf("%9.0f answers/s  %6.2f us CPU", s.Rate(), us)
	}
	for _, t := range turns {
		servers[t.name] = t.on
		argv, _ := placement{cpus: t.cpus}.argv(append([]string{exe}, t.role...))
		c.Contestants = append(c.Contestants, bench.Contestant{Name: t.name, Ours: t.ours, Argv: argv})
	}
	c.Before = func(ctx context.Context, x bench.Contestant) error {
		s := servers[x.Name]
		var err error
		if batches[x.Name], err = s.batches(ctx); err != nil {
			return err
		}
		before[x.Name], user[x.Name] = s.cpu(), s.userCPU()
		return nil
	}
	c.After = func(ctx context.Context, x bench.Contestant, sample *bench.Sample) error {
		s := servers[x.Name]
		if sample.Extra == nil {
			sample.Extra = map[string]float64{}
		}
		sample.Extra[extraUser] = (s.userCPU() - user[x.Name]).Seconds()
		sample.CPU, sample.MaxRSS = s.cpu()-before[x.Name], s.proc.RSS()
		n, err := s.batches(ctx)
		if n -= batches[x.Name]; n > 0 {
			sample.Extra[extraBatch] = float64(sample.Bytes) / n
		}
		return err
	}
	return c
}

// questions are the flags of a role that asks the mix.
func (o options) questions(role string, s *server, queries int, more ...string) []string {
	return append([]string{role, "-addr", s.addr, "-services", strconv.Itoa(o.services), "-queries", strconv.Itoa(queries)}, more...)
}

// perAnswer is the CPU for an answer in microseconds. Bytes are answers in
// this area.
func perAnswer(s bench.Sample) (float64, bool) {
	v, ok := bench.CPUPerGB(s)
	return v / 1e9 * 1e6, ok
}

// userPerAnswer is the part of perAnswer outside of the kernel.
func userPerAnswer(s bench.Sample) (float64, bool) {
	if s.Bytes == 0 {
		return 0, false
	}
	return s.Extra[extraUser] / float64(s.Bytes) * 1e6, true
}

// extra returns a figure of the role's report.
func extra(name string) func(bench.Sample) (float64, bool) {
	return func(s bench.Sample) (float64, bool) {
		v, ok := s.Extra[name]
		return v, ok
	}
}

// target is a bound of a figure of ours: against theirs, or by itself.
type target struct {
	claim  string
	ours   string
	theirs string // "": the figure itself is bounded
	figure func(bench.Sample) (float64, bool)
	most   float64
	unit   string
}

// measure runs a case, and adds its table and targets to the result.
func measure(ctx context.Context, res *bench.Result, c bench.Case, targets []target) (bench.Measured, error) {
	m, err := bench.Measure(ctx, c, os.Stdout)
	if err != nil {
		return m, err
	}
	report(res, c.Name, m, targets)
	return m, nil
}

func report(res *bench.Result, title string, m bench.Measured, targets []target) {
	t := bench.Table{Title: title, Columns: []string{"server", "CPU us/answer", "of it user", "answers/s", "p50 ms", "p99 ms", "RSS MiB", "lost", "a batch"}}
	chart := bench.Chart{Title: title + ": server CPU for an answer, lower is better", Unit: "microseconds"}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		cpu := bench.SpreadOf(s, perAnswer)
		t.Rows = append(t.Rows, []string{
			name,
			bench.FormatSpread(cpu, 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, userPerAnswer), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.Rate), 1, 0),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraP50)), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraP99)), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraLost)), 1, 0),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraBatch)), 1, 1),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: cpu, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	for _, v := range targets {
		ours, unit := bench.SpreadOf(m.Of(v.ours), v.figure).Median, v.unit
		if v.theirs != "" {
			theirs := bench.SpreadOf(m.Of(v.theirs), v.figure).Median
			if theirs <= 0 {
				continue
			}
			ours, unit = ours/theirs, "x"
		}
		if len(m.Of(v.ours)) > 0 {
			res.Verdicts = append(res.Verdicts, bench.AtMost(v.claim, ours, v.most, unit))
		}
	}
}
