package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

const (
	// floodFor is how long a server receives more than it can answer.
	floodFor = 60 * time.Second
	// floodFlows are the client sockets of the flood. Their replies are not
	// read.
	floodFlows = 16
	// maxGrowth, minGoodput and maxRecovery are the targets.
	maxGrowth   = 64 // MiB
	minGoodput  = 0.9
	maxRecovery = 100 // ms
	// probeEvery is how often a client asks again after the flood, which is the
	// error of the time of recovery.
	probeEvery = 5 * time.Millisecond
)

// overload floods a server with questions that are in its cache.
func (b *run) overload(ctx context.Context, res *bench.Result) error {
	s, err := b.core(ctx, b.one, oursName, b.ours, "")
	if err != nil {
		return err
	}
	if err := warm(ctx, []*server{s}, b.mix); err != nil {
		return err
	}
	hits := func() (float64, error) { return s.series(ctx, "coredns_cache_hits_total") }
	for range 2 { // the first pass touches the buffers, which does not count as growth
		if _, err := bench.Exec(ctx, b.loadOnce(s)); err != nil {
			return err
		}
	}
	busy := func(run func() (bench.Sample, error)) (rate, cpu float64, sample bench.Sample, err error) {
		h0, err := hits()
		if err != nil {
			return 0, 0, sample, err
		}
		c0 := s.cpu()
		sample, err = run()
		if err != nil {
			return 0, 0, sample, err
		}
		h1, err := hits()
		return (h1 - h0) / sample.Wall.Seconds(), (s.cpu() - c0).Seconds() / sample.Wall.Seconds(), sample, err
	}
	// The rate at which it answers without a queue is the peak.
	peak, peakCPU, _, err := busy(func() (bench.Sample, error) { return bench.Exec(ctx, b.loadOnce(s)) })
	if err != nil {
		return err
	}
	before := rssOf(s.proc.PID())
	most := before
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most = max(most, rssOf(s.proc.PID()))
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	rate, cpu, sample, err := busy(func() (bench.Sample, error) {
		// One core can't send three times what another answers. So the flood
		// takes part of the server's as well.
		argv := append([]string{b.exe}, b.o.questions("flood", s, b.o.queries, "-seconds", strconv.Itoa(b.o.flood()), "-cpus", "2")...)
		return bench.Exec(ctx, bench.Contestant{Name: "flood", Argv: argv, Stop: 2 * floodFor})
	})
	close(stop)
	<-watched
	if err != nil {
		return err
	}
	recovered := sample.Extra[extraRecovered]
	offered := float64(sample.Requests) / sample.Wall.Seconds()
	growth := float64(most-before) / (1 << 20)
	res.Tables = append(res.Tables, bench.Table{
		Title:   fmt.Sprintf("Overload, %d s", b.o.flood()),
		Columns: []string{"offered/s", "answered/s", "cores used", "answered/CPU-s", "the same at peak", "RSS growth MiB", "recovered after ms"},
		Rows:    [][]string{{fmt.Sprintf("%.0f", offered), fmt.Sprintf("%.0f", rate), fmt.Sprintf("%.2f", cpu), fmt.Sprintf("%.0f", rate/cpu), fmt.Sprintf("%.0f", peak/peakCPU), fmt.Sprintf("%.1f", growth), fmt.Sprintf("%.1f", recovered)}},
	})
	load := bench.Verdict{Claim: "overload: questions offered", Target: ">= 3 x the answers", Got: fmt.Sprintf("%.2f x", offered/rate), OK: offered >= 3*rate}
	good := bench.Verdict{Claim: "overload: answers for a CPU-second against the peak", Target: fmt.Sprintf(">= %.2g x", minGoodput), Got: fmt.Sprintf("%.3g x", rate/cpu/(peak/peakCPU)), OK: rate/cpu >= minGoodput*peak/peakCPU}
	res.Verdicts = append(res.Verdicts, load, good,
		bench.AtMost("overload: growth of memory", max(growth, 0.1), maxGrowth, "MiB"),
		bench.AtMost("overload: until a new client is answered after it", recovered, maxRecovery, "ms"))
	return nil
}

// extraRecovered is how long after the flood a client was answered, in ms.
const extraRecovered = "recovered_ms"

func (b *run) loadOnce(s *server) bench.Contestant {
	argv, _ := placement{cpus: b.load}.argv(append([]string{b.exe}, b.o.questions("load", s, b.o.queries)...))
	return bench.Contestant{Name: "load", Argv: argv}
}

func (o options) flood() int {
	if o.out == "" {
		return 1
	}
	return int(floodFor.Seconds())
}

// rssOf is the memory of a process now, in bytes.
func rssOf(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// runFlood is the role "flood". It sends as fast as it can without reading, and
// then asks as a new client until it gets an answer.
func runFlood(ctx context.Context, args []string) error {
	fs, asked := askedFlags("flood")
	seconds := fs.Int("seconds", 1, "how long")
	cpus := fs.Int("cpus", 0, "a thread on each of the first so many CPUs; with 0, one anywhere")
	if err := fs.Parse(args); err != nil {
		return err
	}
	packets, err := pack(newMix(asked.services, asked.queries).Queries)
	if err != nil {
		return err
	}
	begin := time.Now()
	var sent atomic.Int64
	group, gctx := errgroup.WithContext(ctx)
	for i := range max(1, *cpus) {
		cpu := i
		if *cpus == 0 {
			cpu = -1
		}
		group.Go(func() error {
			n, err := flood(gctx, asked.addr, packets, begin.Add(time.Duration(*seconds)*time.Second), cpu)
			sent.Add(n)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	ended := time.Now()
	if err := answersAgain(ctx, asked.addr, packets[0]); err != nil {
		return err
	}
	return bench.PrintReport(os.Stdout, bench.Report{
		Requests: sent.Load(), Bytes: 1, Seconds: ended.Sub(begin).Seconds(), Outcome: bench.OutcomeOK,
		Extra: map[string]float64{extraRecovered: time.Since(ended).Seconds() * 1e3},
	})
}

// answersAgain asks from a new socket until there is an answer.
func answersAgain(ctx context.Context, addr string, p []byte) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 4096)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if _, err := c.Write(p); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(probeEvery))
		n, err := c.Read(buf)
		if err == nil && answers(buf[:n], p) {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return fmt.Errorf("%s does not answer 10 s after the flood", addr)
}

const (
	// millionNames are as many entries as a very large cluster has names for.
	millionNames = 1_000_000
	// maxMillion bounds their memory in MB, maxGC the collector's share of CPU
	// in percent.
	maxMillion = 250
	maxGC      = 2
)

// million fills a cache with a million names and asks for them.
func (b *run) million(ctx context.Context, res *bench.Result) error {
	n := millionNames
	if b.o.quick {
		n = 4800
	}
	names := make([]dnsload.Query, n)
	for i := range names {
		names[i] = dnsload.Query{Name: fmt.Sprintf("name-%d.ns-%d.svc.example.org.", i, i%1000), Type: 1}
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	body := fmt.Sprintf("\tprometheus 127.0.0.1:%d\n\tloadbalance\n\tcache 3600 {\n\t\tmaxmem 500MiB\n\t}\n\ttemplate IN A {\n\t\tanswer \"{{ .Name }} 3600 IN A 192.0.2.1\"\n\t}\n", port)
	s, err := b.add(startCoreDNS(ctx, placement{cpus: b.one.cpus, env: []string{"GODEBUG=gctrace=1"}}, "a million", b.ours, b.dir, body, names[0]))
	if err != nil {
		return err
	}
	s.metrics = port
	fill := dnsload.Options{Addr: s.addr, Queries: names, Count: int64(n), Outstanding: 512}
	for range 2 { // the second pass asks again for answers that the first lost
		if _, err := dnsload.Run(ctx, fill); err != nil {
			return err
		}
	}
	entries, err := s.series(ctx, "coredns_cache_entries")
	if err != nil {
		return err
	}
	bytes, err := s.series(ctx, "coredns_penstock_cache_bytes")
	if err != nil {
		return err
	}
	since, err := s.series(ctx, "go_gc_duration_seconds_count")
	if err != nil {
		return err
	}
	c0 := s.cpu()
	var answered int64
	for range 3 {
		hits, err := dnsload.Run(ctx, fill)
		if err != nil {
			return err
		}
		answered += hits.Answered
	}
	cpu := s.cpu() - c0
	rss := rssOf(s.proc.PID())
	s.proc.Stop()
	collections, collecting := collectionsAfter(s.proc.Log(), int(since))
	share := 100 * collecting.Seconds() / cpu.Seconds()
	res.Tables = append(res.Tables, bench.Table{
		Title:   "A million entries",
		Columns: []string{"entries", "cache MB", "bytes for each", "RSS MiB", "us CPU for a hit", "collections meanwhile", "share of CPU"},
		Rows: [][]string{{
			fmt.Sprintf("%.0f", entries), fmt.Sprintf("%.0f", bytes/1e6), fmt.Sprintf("%.0f", bytes/entries), strconv.FormatInt(rss>>20, 10),
			fmt.Sprintf("%.2f", float64(cpu.Microseconds())/float64(answered)), strconv.Itoa(collections), fmt.Sprintf("%.2f %%", share),
		}},
	})
	res.Verdicts = append(res.Verdicts,
		bench.Verdict{Claim: "a million entries: kept", Target: fmt.Sprintf(">= %d", n*999/1000), Got: fmt.Sprintf("%.0f", entries), OK: entries >= float64(n)*0.999},
		bench.AtMost("a million entries: memory of the cache", bytes/1e6, maxMillion, "MB"),
		bench.AtMost("a million entries: memory of the process", float64(rss)/1e6, maxMillion, "MB"),
		bench.Verdict{Claim: "a million entries: collector's share of CPU while they are asked for", Target: fmt.Sprintf("<= %d %%", maxGC), Got: fmt.Sprintf("%.2f %% (%d collections)", share, collections), OK: share <= maxGC})
	return nil
}

// gcLine is a line of GODEBUG=gctrace=1: the number of the collection, and its
// CPU times in ms: sweep termination, assists, dedicated, idle, mark
// termination.
var gcLine = regexp.MustCompile(`(?m)^gc (\d+) @.* ([\d.]+)\+([\d.]+)/([\d.]+)/([\d.]+)\+([\d.]+) ms cpu`)

// collectionsAfter returns how many collections a log has after the one given,
// and the CPU time that they took.
func collectionsAfter(log string, since int) (n int, cpu time.Duration) {
	for _, m := range gcLine.FindAllStringSubmatch(log, -1) {
		if number, err := strconv.Atoi(m[1]); err != nil || number <= since {
			continue
		}
		n++
		for _, field := range m[2:] {
			if ms, err := strconv.ParseFloat(field, 64); err == nil {
				cpu += time.Duration(ms * float64(time.Millisecond))
			}
		}
	}
	return n, cpu
}
