package main

import (
	"context"
	"flag"
	"os"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// Names of the extra figures of a run.
const (
	extraP50  = "p50_ms"
	extraP99  = "p99_ms"
	extraLost = "lost"
	extraUser = "user_s"
)

// runLoad is the role "load": it asks one server and prints one line. Answers
// stand where other areas count bytes.
func runLoad(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	addr := fs.String("addr", "", "server, host:port")
	services := fs.Int("services", 0, "services of the mix")
	queries := fs.Int("queries", 0, "questions to ask")
	if err := fs.Parse(args); err != nil {
		return err
	}
	mix := newMix(*services, *queries)
	res, err := dnsload.Run(ctx, dnsload.Options{Addr: *addr, Queries: mix.Queries, Count: int64(*queries)})
	if err != nil {
		return err
	}
	r := bench.Report{
		Bytes: res.Answered, Requests: res.Sent, Seconds: res.Elapsed.Seconds(), Outcome: bench.OutcomeOK,
		Extra: map[string]float64{
			extraP50:  float64(res.Latency.P50.Microseconds()) / 1e3,
			extraP99:  float64(res.Latency.P99.Microseconds()) / 1e3,
			extraLost: float64(res.Timeouts + res.Wrong),
		},
	}
	return bench.PrintReport(os.Stdout, r)
}

// newMix makes the same questions in every process.
func newMix(services, queries int) *dnsload.Mix {
	return dnsload.NewMix(dnsload.MixOptions{Services: services, Queries: queries, Seed: 1})
}
