package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// The targets: against dnsdist and unbound in the same run, and what a second
// core or more threads than cores may add to an answer.
const (
	maxOfPeers = 0.95
	maxSecond  = 1.05
	maxOfStock = 0.30
)

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
	servers, stop, err := startAll(ctx, dir, mix, o)
	defer stop()
	if err != nil {
		return err
	}
	if err := compare(ctx, servers, mix, &res); err != nil {
		return err
	}
	if err := warm(ctx, servers, mix); err != nil {
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
	"Server CPU only: user and system time of the server process between the first question and the last answer. A server has one core and the load generator another; only the contestants \"all cores\" and GOMAXPROCS share all cores with it, and so with its noise.",
	"Loopback: the receive path of a real card is not in these figures.",
	"Every name has been asked before: these are answers from the cache. Misses cost what the upstream costs.",
	"Rates are what is left of the machine beside the load generator; CPU for an answer is the figure to compare.",
}

// startAll builds and starts the upstream and the servers. stop ends those that
// were started, also after an error.
func startAll(ctx context.Context, dir string, mix *dnsload.Mix, o options) (servers []*server, stop func(), err error) {
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
	up, err := startCoreDNS(ctx, placement{}, "upstream", stock, dir, zonesBody(zones), q)
	if err := add(up, err); err != nil {
		return nil, stop, err
	}
	one, load := layout(o.cpu)
	core := func(how placement, name, bin, options string) error {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		return add(startCoreDNS(ctx, how, name, bin, dir, cacheBody(up.addr, port, options), q))
	}
	if err := core(one, oursName, ours, ""); err != nil {
		return nil, stop, err
	}
	if err := core(one, stockName, stock, ""); err != nil {
		return nil, stop, err
	}
	for name, run := range map[string]func(bin string) (*server, error){
		unboundName: func(bin string) (*server, error) { return startUnbound(ctx, one, bin, dir, up.addr, 1, q) },
		dnsdistName: func(bin string) (*server, error) { return startDnsdist(ctx, one, bin, dir, up.addr, q) },
	} {
		bin, err := bench.Debian(ctx, name, name)
		if err == nil {
			err = add(run(bin))
		}
		if err != nil {
			fmt.Printf("without %s: %v\n", name, err)
		}
	}
	for _, s := range started[1:] {
		s.load = load
	}
	if err := core(one, chainName, ours, "\t\tfastpath off\n"); err != nil {
		return nil, stop, err
	}
	started[len(started)-1].load = load
	// Everything on all cores, the load too: only CPU for an answer tells.
	for name, procs := range map[string]int{allName: 0, procs8Name: 8, procs32Name: 32} {
		if err := core(placement{procs: procs}, name, ours, ""); err != nil {
			return nil, stop, err
		}
	}
	return started[1:], stop, nil
}

// layout gives the servers one CPU and the load generator the next, if there
// are two.
func layout(cpu int) (one placement, load string) {
	if cpu < 0 || runtime.NumCPU() < 2 {
		return placement{}, ""
	}
	return placement{cpus: strconv.Itoa(cpu)}, strconv.Itoa(cpu + 1)
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

// warm asks every server every question twice, a few at a time, so that also
// what was lost in the first pass is in its cache.
func warm(ctx context.Context, servers []*server, mix *dnsload.Mix) error {
	distinct := mix.Distinct()
	for _, s := range servers {
		for range 2 {
			if _, err := dnsload.Run(ctx, dnsload.Options{Addr: s.addr, Queries: distinct, Count: int64(len(distinct)), Outstanding: 32}); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// loadCase asks each server in turn. The CPU of a sample is the server's.
func loadCase(exe string, servers []*server, o options) bench.Case {
	byName := map[string]*server{}
	before, user := map[string]time.Duration{}, map[string]time.Duration{}
	c := bench.Case{Name: "cached answers", Rounds: o.rounds, Warmup: 1}
	c.Line = func(s bench.Sample) string {
		us, _ := perAnswer(s)
		return fmt.Sprintf("%9.0f answers/s  %6.2f us CPU", s.Rate(), us)
	}
	for _, s := range servers {
		byName[s.name] = s
		argv, _ := placement{cpus: s.load}.argv([]string{exe, "load", "-addr", s.addr, "-services", strconv.Itoa(o.services), "-queries", strconv.Itoa(o.queries)})
		c.Contestants = append(c.Contestants, bench.Contestant{Name: s.name, Ours: strings.HasPrefix(s.name, oursName), Argv: argv})
	}
	c.Before = func(_ context.Context, x bench.Contestant) error {
		before[x.Name], user[x.Name] = byName[x.Name].proc.CPU(), byName[x.Name].userCPU()
		return nil
	}
	c.After = func(_ context.Context, x bench.Contestant, s *bench.Sample) error {
		p := byName[x.Name].proc
		if s.Extra == nil {
			s.Extra = map[string]float64{}
		}
		s.Extra[extraUser] = (byName[x.Name].userCPU() - user[x.Name]).Seconds()
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

// userPerAnswer is the part of perAnswer outside of the kernel.
func userPerAnswer(s bench.Sample) (float64, bool) {
	if s.Bytes == 0 {
		return 0, false
	}
	return s.Extra[extraUser] / float64(s.Bytes) * 1e6, true
}

func report(res *bench.Result, m bench.Measured) {
	extra := func(name string) func(bench.Sample) (float64, bool) {
		return func(s bench.Sample) (float64, bool) {
			v, ok := s.Extra[name]
			return v, ok
		}
	}
	t := bench.Table{Title: "Cached answers", Columns: []string{"server", "CPU us/answer", "of it user", "answers/s", "p50 ms", "p99 ms", "RSS MiB", "lost"}}
	chart := bench.Chart{Title: "Server CPU for a cached answer, lower is better", Unit: "microseconds"}
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
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: cpu, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	median := func(name string) float64 { return bench.SpreadOf(m.Of(name), perAnswer).Median }
	for _, v := range []struct {
		claim, ours, theirs string
		most                float64
	}{
		{"CPU for a cached answer against CoreDNS with its cache", oursName, stockName, maxOfStock},
		{"CPU for a cached answer against dnsdist", oursName, dnsdistName, maxOfPeers},
		{"CPU for a cached answer against unbound", oursName, unboundName, maxOfPeers},
		{"CPU without the fast path against CoreDNS with its cache", chainName, stockName, 1},
		{"CPU on all cores against one core", allName, oursName, maxSecond},
		{"CPU with GOMAXPROCS 8 against the cores there are", procs8Name, allName, maxSecond},
		{"CPU with GOMAXPROCS 32 against the cores there are", procs32Name, allName, maxSecond},
	} {
		if base := median(v.theirs); base > 0 && median(v.ours) > 0 {
			res.Verdicts = append(res.Verdicts, bench.AtMost(v.claim, median(v.ours)/base, v.most, "x"))
		}
	}
}
