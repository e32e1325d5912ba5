package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// The targets: in microseconds, against the peers in the same run, and what a
// second core or more threads than cores may add to an answer.
const (
	maxTotal   = 5.2
	maxUser    = 0.9
	maxOfPeers = 0.95
	maxSecond  = 1.05
	maxOfStock = 0.30
	maxChain   = 9.0
)

// cached measures answers from the cache over UDP, of servers with one core.
func (b *run) cached(ctx context.Context, res *bench.Result) error {
	ours, stock, err := b.both(ctx)
	if err != nil {
		return err
	}
	if err := compare(ctx, []*server{ours, stock}, b.mix, res); err != nil {
		return err
	}
	servers := []*server{ours, stock}
	for _, peer := range []struct {
		name  string
		start func(bin string) (*server, error)
	}{
		{unboundName, func(bin string) (*server, error) {
			return startUnbound(ctx, b.one, bin, b.dir, b.up.addr, 1, b.mix.Queries[0])
		}},
		{dnsdistName, func(bin string) (*server, error) {
			return startDnsdist(ctx, b.one, bin, b.dir, b.up.addr, b.mix.Queries[0])
		}},
	} {
		bin, err := bench.Debian(ctx, peer.name, peer.name)
		if err == nil {
			var s *server
			if s, err = b.add(peer.start(bin)); err == nil {
				servers = append(servers, s)
			}
		}
		if err != nil {
			fmt.Printf("without %s: %v\n", peer.name, err)
		}
	}
	chain, err := b.core(ctx, b.one, chainName, b.ours, "\t\tfastpath off\n")
	if err != nil {
		return err
	}
	acl, aclTheirs, err := b.bothBehind(ctx)
	if err != nil {
		return err
	}
	echo, err := b.add(startEcho(ctx, b.one, echoName, b.exe, 1))
	if err != nil {
		return err
	}
	servers = append(servers, chain, acl, aclTheirs, echo)
	var turns []turn
	for _, s := range servers {
		turns = append(turns, turn{name: s.name, on: s, ours: strings.HasPrefix(s.name, oursName), cpus: b.load, role: b.o.questions("load", s, b.o.queries)})
	}
	if err := warm(ctx, servers[:len(servers)-1], b.mix); err != nil {
		return err
	}
	m, err := measure(ctx, res, cpuCase("cached answers", b.exe, turns, b.o), []target{
		{"CPU for a cached answer", oursName, "", perAnswer, maxTotal, "us"},
		{"of it outside of the kernel", oursName, "", userPerAnswer, maxUser, "us"},
		{"CPU for a cached answer against CoreDNS with its cache", oursName, stockName, perAnswer, maxOfStock, ""},
		{"CPU for a cached answer against dnsdist", oursName, dnsdistName, perAnswer, maxOfPeers, ""},
		{"CPU for a cached answer against unbound", oursName, unboundName, perAnswer, maxOfPeers, ""},
		{"CPU through a chain that must see every query", aclName, "", perAnswer, maxChain, "us"},
		{"CPU through such a chain against CoreDNS with its cache", aclName, aclStock, perAnswer, 1, ""},
		{"CPU without the fast path against CoreDNS with its cache", chainName, stockName, perAnswer, 1, ""},
	})
	b.capacity = bench.SpreadOf(m.Of(oursName), bench.Rate).Median
	return err
}

// cores measures what a second core and more threads than cores add to an
// answer. With one core the load generator has the other; with all cores it
// shares them, so only CPU for an answer tells.
func (b *run) cores(ctx context.Context, res *bench.Result) error {
	ours, err := b.core(ctx, b.one, oursName, b.ours, "")
	if err != nil {
		return err
	}
	echo, err := b.add(startEcho(ctx, b.one, echoName, b.exe, 1))
	if err != nil {
		return err
	}
	turns := []turn{
		{name: oursName, on: ours, ours: true, cpus: b.load, role: b.o.questions("load", ours, b.o.queries)},
		{name: hotName, on: ours, ours: true, cpus: b.load, role: b.o.questions("load", ours, b.o.queries, "-hot")},
		{name: echoName, on: echo, cpus: b.load, role: b.o.questions("load", echo, b.o.queries)},
	}
	var shared []*server
	for _, x := range []struct {
		name  string
		procs int
	}{{allName, 0}, {procs8Name, 8}, {procs32Name, 32}} {
		s, err := b.core(ctx, placement{procs: x.procs}, x.name, b.ours, "")
		if err != nil {
			return err
		}
		shared = append(shared, s)
	}
	echoAll, err := b.add(startEcho(ctx, placement{}, echoAllName, b.exe, numCPU()))
	if err != nil {
		return err
	}
	for _, s := range append(shared, echoAll) {
		turns = append(turns, turn{name: s.name, on: s, ours: s != echoAll, role: b.o.questions("load", s, b.o.queries)})
	}
	turns = append(turns, turn{name: hotAllName, on: shared[0], ours: true, role: b.o.questions("load", shared[0], b.o.queries, "-hot")})
	if err := warm(ctx, append(shared, ours), b.mix); err != nil {
		return err
	}
	m, err := measure(ctx, res, cpuCase("cached answers on one core and on all", b.exe, turns, b.o), []target{
		{"CPU on all cores against one core", allName, oursName, perAnswer, maxSecond, ""},
		{"CPU on all cores against one core, one hot key", hotAllName, hotName, perAnswer, maxSecond, ""},
		{"CPU with GOMAXPROCS 8 against the cores there are", procs8Name, allName, perAnswer, maxSecond, ""},
		{"CPU with GOMAXPROCS 32 against the cores there are", procs32Name, allName, perAnswer, maxSecond, ""},
	})
	if err != nil {
		return err
	}
	overControl(res, m, "CPU on all cores against one core, over the same ratio of the kernel alone", allName, oursName)
	overControl(res, m, "the same with one hot key", hotAllName, hotName)
	res.Tables = append(res.Tables, secondCore(m))
	return nil
}

// overControl adds how much more a second core costs us than it costs the
// control.
func overControl(res *bench.Result, m bench.Measured, claim, all, one string) {
	median := func(name string) float64 { return bench.SpreadOf(m.Of(name), perAnswer).Median }
	control := median(echoAllName) / median(echoName)
	if !(control > 0) || median(one) == 0 {
		return
	}
	res.Verdicts = append(res.Verdicts, bench.AtMost(claim, median(all)/median(one)/control, maxSecond, fmt.Sprintf("x (of it alone: %.3g)", control)))
}

// secondCore is a table of what all cores add, to ours and to the control.
func secondCore(m bench.Measured) bench.Table {
	t := bench.Table{Title: "A second core", Columns: []string{"server", "us on a core of its own", "us on all cores", "ratio"}}
	for _, x := range []struct{ name, one, all string }{
		{oursName, oursName, allName}, {hotName, hotName, hotAllName}, {echoName, echoName, echoAllName},
	} {
		one, all := bench.SpreadOf(m.Of(x.one), perAnswer).Median, bench.SpreadOf(m.Of(x.all), perAnswer).Median
		if one > 0 {
			t.Rows = append(t.Rows, []string{x.name, fmt.Sprintf("%.2f", one), fmt.Sprintf("%.2f", all), fmt.Sprintf("%.3f", all/one)})
		}
	}
	return t
}

// newMix makes the same questions in every process: those whose answers fit.
func newMix(services, queries int) *dnsload.Mix {
	m := dnsload.NewMix(dnsload.MixOptions{Services: services, Queries: queries, Seed: 1})
	m.Queries = fitting(m)
	return m
}
