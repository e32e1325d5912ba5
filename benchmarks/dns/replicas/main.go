package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

func main() {
	bench.Main("replicas", nil, func(ctx context.Context, args []string) error {
		o, err := parseOptions(args)
		if err != nil {
			return err
		}
		return drive(ctx, o)
	})
}

// options are the flags.
type options struct {
	services int
	queries  int
	seed     uint64
	out      string
	replicas []int
	settings []setting
}

// setting is a cluster: how much it asks, and how long answers live.
type setting struct {
	rate    int // queries per second of all replicas together
	ttl     int // seconds
	measure int // seconds that are counted, after a warm-up of one TTL
}

func (s setting) String() string {
	return fmt.Sprintf("%s queries/s, TTL %d s", thousands(s.rate), s.ttl)
}

func parseOptions(args []string) (options, error) {
	o := options{
		replicas: []int{1, 4, 16, 256, 6250},
		settings: []setting{{100_000, 30, 60}, {1_000_000, 5, 60}, {1_000_000, 30, 60}},
	}
	fs := flag.NewFlagSet("replicas", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "few replicas, a small cluster: does everything run? Its figures mean little and are not written")
	fs.IntVar(&o.services, "services", 10_000, "services of the cluster that asks")
	fs.IntVar(&o.queries, "queries", 300_000, "questions of the trace, which is played over and over")
	fs.Uint64Var(&o.seed, "seed", 1, "of the trace and of the spread over replicas")
	fs.StringVar(&o.out, "out", "benchmarks/dns/replicas/results", "`folder` for the results")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if *quick {
		o.services, o.queries, o.out = 100, 20_000, ""
		o.replicas, o.settings = []int{1, 4, 16}, []setting{{20_000, 5, 10}}
	}
	switch {
	case fs.NArg() > 0:
		fmt.Fprintf(os.Stderr, "replicas: unexpected argument %q: flags only\n", fs.Arg(0))
		return o, bench.ErrUsage
	case o.services < 1 || o.queries < 1:
		fmt.Fprintln(os.Stderr, "replicas: -services and -queries must be at least 1")
		return o, bench.ErrUsage
	}
	return o, nil
}
