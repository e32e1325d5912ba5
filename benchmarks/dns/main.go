package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

func main() {
	bench.Main("dns", map[string]bench.Role{"load": runLoad, "echo": runEcho, "stream": runStream, "paced": runPaced, "flood": runFlood}, func(ctx context.Context, args []string) error {
		o, err := parseOptions(args)
		if err != nil {
			return err
		}
		return drive(ctx, o)
	})
}

// options are the flags of the driver.
type options struct {
	services int
	queries  int
	rounds   int
	out      string
	patience time.Duration // for the rounds of a case, once each contestant has one
	cpu      int           // of the servers, the load generator has the next; negative: all
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("dns", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "few questions and one round: does everything run? Its figures mean nothing and are not written")
	fs.IntVar(&o.services, "services", 2000, "services of the cluster that asks")
	fs.IntVar(&o.queries, "queries", 400_000, "questions in a run")
	fs.IntVar(&o.cpu, "cpu", 0, "the servers' `CPU`; the load generator gets the next one. -1: all run everywhere")
	fs.DurationVar(&o.patience, "patience", 2*time.Minute, "end the rounds of a case after this long")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds")
	fs.StringVar(&o.out, "out", "benchmarks/dns/results", "`folder` for the results")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if *quick {
		o.services, o.queries, o.rounds, o.out = 100, 20_000, 1, ""
	}
	switch {
	case fs.NArg() > 0:
		fmt.Fprintf(os.Stderr, "dns: unexpected argument %q: flags only\n", fs.Arg(0))
		return o, bench.ErrUsage
	case o.services < 1 || o.queries < 1 || o.rounds < 1:
		fmt.Fprintln(os.Stderr, "dns: -services, -queries and -rounds must be at least 1")
		return o, bench.ErrUsage
	}
	return o, nil
}
