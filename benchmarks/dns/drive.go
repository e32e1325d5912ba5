package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
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
	b := &run{exe: exe, dir: dir, mix: newMix(o.services, o.queries), o: o}
	defer b.stop()
	if err := b.build(ctx); err != nil {
		return err
	}
	for _, p := range parts {
		if !o.runs(p.name) {
			continue
		}
		if err := p.run(b, ctx, &res); err != nil {
			return err
		}
	}
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\n" + o.partial)
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
	"The kernel splits that time by what runs at its clock tick, 250 times a second, so the user part of one run of a second is known to a tenth of a microsecond or two; the total is exact.",
	"Kernel only is a server that sends each datagram back, in the same batches: no cache can be cheaper. On all cores half of the answers do not cross from one core to another, so its ratio is below 1, and one of ours below 1 does not mean that two cores are cheaper. Nearly all of ours that is above the kernel's is code that the load generator has pushed out of the core's caches.",
	"Questions whose answers do not fit into 512 bytes are left out: a truncated answer is kept by no cache, so they are never warm.",
	"Loopback: the receive path of a real card is not in these figures.",
	"Every name has been asked before: these are answers from the cache. A miss costs the upstream's time.",
	"The load generator takes a part of the machine, so rates are lower than without it; CPU for an answer is the figure to compare.",
}

// parts are what a run consists of.
var parts = []struct {
	name string
	run  func(*run, context.Context, *bench.Result) error
}{
	{"cached", (*run).cached},
	{"cores", (*run).cores},
	{"tcp", (*run).tcp},
	{"transports", (*run).transports},
	{"steady", (*run).steady},
	{"overload", (*run).overload},
	{"million", (*run).million},
}

// run is a run of the benchmark: its programs and servers.
type run struct {
	exe, dir    string
	mix         *dnsload.Mix
	o           options
	ours, stock string // binaries
	up          *server
	one         placement // of a server that has a core of its own
	load        string    // CPUs of the load generator then
	started     []*server
	capacity    float64 // answers a second of ours on one core
}

// stop ends all servers.
func (b *run) stop() {
	for _, s := range b.started {
		s.proc.Stop()
	}
}

// build makes the binaries and starts the upstream.
func (b *run) build(ctx context.Context) error {
	b.ours, b.stock = filepath.Join(b.dir, "coredns-penstock"), filepath.Join(b.dir, "coredns")
	fmt.Println("building CoreDNS with our cache and with its own (the first build takes a minute)")
	if err := bench.Build(ctx, b.ours, "./dnsplugin/cmd/coredns"); err != nil {
		return err
	}
	if err := bench.Build(ctx, b.stock, "github.com/coredns/coredns"); err != nil {
		return err
	}
	zones, err := b.mix.WriteZones(b.dir)
	if err != nil {
		return err
	}
	b.one, b.load = layout(b.o.cpu)
	b.up, err = b.add(startCoreDNS(ctx, placement{}, "upstream", b.stock, b.dir, zonesBody(zones), b.mix.Queries[0]))
	return err
}

// add keeps a server that was started.
func (b *run) add(s *server, err error) (*server, error) {
	if err == nil {
		b.started = append(b.started, s)
	}
	return s, err
}

// both starts two CoreDNS: with our cache and with CoreDNS's own.
func (b *run) both(ctx context.Context) (ours, stock *server, err error) {
	if ours, err = b.core(ctx, b.one, oursName, b.ours, ""); err != nil {
		return nil, nil, err
	}
	stock, err = b.core(ctx, b.one, stockName, b.stock, "")
	return ours, stock, err
}

// bothBehind is both behind a plugin that must see every query.
func (b *run) bothBehind(ctx context.Context) (ours, stock *server, err error) {
	if ours, err = b.coreBehind(ctx, beforeCache, b.one, aclName, b.ours, ""); err != nil {
		return nil, nil, err
	}
	stock, err = b.coreBehind(ctx, beforeCache, b.one, aclStock, b.stock, "")
	return ours, stock, err
}

// core starts a caching CoreDNS.
func (b *run) core(ctx context.Context, how placement, name, bin, options string) (*server, error) {
	return b.coreBehind(ctx, "", how, name, bin, options)
}

// coreBehind is core with the lines of other plugins in its block.
func (b *run) coreBehind(ctx context.Context, others string, how placement, name, bin, options string) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.add(startCoreDNS(ctx, how, name, bin, b.dir, others+cacheBody(b.up.addr, port, options), b.mix.Queries[0]))
	if err == nil {
		s.metrics = port
	}
	return s, err
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

// warm asks every server every question twice, a few at a time, so that a
// question whose packet was lost in the first pass is in its cache too.
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
