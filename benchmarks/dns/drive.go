package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// maxCPU is the target: a cached answer of ours costs no more CPU than one of
// the cache that it replaces. Deeper targets belong to deeper work.
const maxCPU = 1.0

// ttlTolerance: two servers filled their caches at different seconds.
const ttlTolerance = 60 // seconds

func drive(ctx context.Context, o options) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	res := bench.Result{Area: "dns", Command: "make bench AREA=dns", Machine: bench.ThisMachine(), Notes: notes}
	dir, err := os.MkdirTemp("", "penstock-dns-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mix := newMix(o.services, o.queries)
	servers, stop, err := startAll(ctx, dir, mix)
	defer stop()
	if err != nil {
		return err
	}
	if err := compare(ctx, servers, mix, &res); err != nil {
		return err
	}
	m, err := bench.Measure(ctx, loadCase(exe, servers, o), os.Stdout)
	if err != nil {
		return err
	}
	report(&res, m)
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

var notes = []string{
	"Server CPU only: user and system time of the server process between the first question and the last answer. The load generator runs on the same cores.",
	"Loopback: the receive path of a real card is not in these figures.",
	"Every name has been asked before: these are answers from the cache. Misses cost what the upstream costs.",
	"Rates are what is left of the machine beside the load generator; CPU for an answer is the figure to compare.",
}

// startAll builds and starts the upstream and the servers. stop ends those that
// were started, also after an error.
func startAll(ctx context.Context, dir string, mix *dnsload.Mix) (servers []*server, stop func(), err error) {
	var started []*server
	stop = func() {
		for _, s := range started {
			s.proc.Stop()
		}
	}
	add := func(s *server, err error) error {
		if err == nil {
			started = append(started, s)
		}
		return err
	}
	ours, stock := filepath.Join(dir, "coredns-penstock"), filepath.Join(dir, "coredns")
	fmt.Println("building CoreDNS with our cache and with its own (the first build takes a minute)")
	if err := bench.Build(ctx, ours, "./dnsplugin/cmd/coredns"); err != nil {
		return nil, stop, err
	}
	if err := bench.Build(ctx, stock, "github.com/coredns/coredns"); err != nil {
		return nil, stop, err
	}
	zones, err := mix.WriteZones(dir)
	if err != nil {
		return nil, stop, err
	}
	q := mix.Queries[0]
	up, err := startCoreDNS(ctx, "upstream", stock, dir, zonesBody(zones), q)
	if err := add(up, err); err != nil {
		return nil, stop, err
	}
	if err := add(startCoreDNS(ctx, oursName, ours, dir, cacheBody(up.addr), q)); err != nil {
		return nil, stop, err
	}
	if err := add(startCoreDNS(ctx, stockName, stock, dir, cacheBody(up.addr), q)); err != nil {
		return nil, stop, err
	}
	unbound, err := bench.Debian(ctx, "unbound", "unbound")
	if err != nil {
		fmt.Println("without unbound:", err)
		return started[1:], stop, nil
	}
	if err := add(startUnbound(ctx, unbound, dir, up.addr, runtime.NumCPU(), q)); err != nil {
		fmt.Println("without unbound:", err)
	}
	return started[1:], stop, nil
}

// compare asks both CoreDNS every question, which also fills their caches.
func compare(ctx context.Context, servers []*server, mix *dnsload.Mix, res *bench.Result) error {
	distinct := mix.Distinct()
	fmt.Printf("comparing the answers to %d questions\n", len(distinct))
	diff, err := dnsload.Compare(ctx, servers[0].addr, servers[1].addr, distinct, ttlTolerance)
	if err != nil {
		return err
	}
	for i, d := range diff[:min(len(diff), 5)] {
		fmt.Printf("  difference %d: %s: %s\n", i+1, d.Query, d.Text)
	}
	res.Verdicts = append(res.Verdicts, bench.Verdict{
		Claim: fmt.Sprintf("answers equal to CoreDNS with its cache, %d questions", len(distinct)), Target: "0 differ",
		Got: fmt.Sprintf("%d differ", len(diff)), OK: len(diff) == 0,
	})
	return nil
}

// loadCase asks each server in turn. The CPU of a sample is the server's.
func loadCase(exe string, servers []*server, o options) bench.Case {
	byName := map[string]*server{}
	before := map[string]time.Duration{}
	c := bench.Case{Name: "cached answers", Rounds: o.rounds, Warmup: 1}
	c.Line = func(s bench.Sample) string {
		us, _ := perAnswer(s)
		return fmt.Sprintf("%9.0f answers/s  %6.2f us CPU", s.Rate(), us)
	}
	for _, s := range servers {
		byName[s.name] = s
		c.Contestants = append(c.Contestants, bench.Contestant{
			Name: s.name, Ours: s.name == oursName,
			Argv: []string{exe, "load", "-addr", s.addr, "-services", strconv.Itoa(o.services), "-queries", strconv.Itoa(o.queries)},
		})
	}
	c.Before = func(_ context.Context, x bench.Contestant) error {
		before[x.Name] = byName[x.Name].proc.CPU()
		return nil
	}
	c.After = func(_ context.Context, x bench.Contestant, s *bench.Sample) error {
		p := byName[x.Name].proc
		s.CPU, s.MaxRSS = p.CPU()-before[x.Name], p.RSS()
		return nil
	}
	return c
}

// perAnswer is the CPU for an answer in microseconds. Bytes are answers in
// this area.
func perAnswer(s bench.Sample) (float64, bool) {
	v, ok := bench.CPUPerGB(s)
	return v / 1e9 * 1e6, ok
}

func report(res *bench.Result, m bench.Measured) {
	extra := func(name string) func(bench.Sample) (float64, bool) {
		return func(s bench.Sample) (float64, bool) {
			v, ok := s.Extra[name]
			return v, ok
		}
	}
	t := bench.Table{Title: "Cached answers", Columns: []string{"server", "CPU us/answer", "answers/s", "p50 ms", "p99 ms", "RSS MiB", "lost"}}
	chart := bench.Chart{Title: "Server CPU for a cached answer, lower is better", Unit: "microseconds"}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		cpu := bench.SpreadOf(s, perAnswer)
		t.Rows = append(t.Rows, []string{
			name,
			bench.FormatSpread(cpu, 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.Rate), 1, 0),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraP50)), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraP99)), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0),
			bench.FormatSpread(bench.SpreadOf(s, extra(extraLost)), 1, 0),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: cpu, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	got := 0.0
	if base := bench.SpreadOf(m.Of(stockName), perAnswer).Median; base > 0 {
		got = bench.SpreadOf(m.Of(oursName), perAnswer).Median / base
	}
	res.Verdicts = append(res.Verdicts, bench.AtMost("CPU for a cached answer against CoreDNS with its cache", got, maxCPU, "x"))
}
