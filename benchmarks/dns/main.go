package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
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
	cpu      int           // of the servers, the load generator has the next; all if negative
	only     string        // parts that run, with commas; all if empty
	partial  string        // why nothing is written, if out is ""
	quick    bool          // checks that everything runs
}

// runs reports whether a part is asked for.
func (o options) runs(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("dns", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "few questions and one round: does everything run? Its figures mean nothing and are not written")
	fs.IntVar(&o.services, "services", 2000, "services of the cluster that asks")
	fs.IntVar(&o.queries, "queries", 400_000, "questions in a run")
	fs.IntVar(&o.cpu, "cpu", 0, "the servers' `CPU`; the load generator gets the next one. -1: all run everywhere")
	fs.DurationVar(&o.patience, "patience", 2*time.Minute, "end the rounds of a case after this long")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds")
	fs.StringVar(&o.only, "only", "", "run these `parts`, separated by commas, and write no result: cached, cores, tcp, transports, steady, overload, million")
	fs.StringVar(&o.out, "out", "benchmarks/dns/results", "`folder` for the results")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if o.only != "" {
		o.out, o.partial = "", "part of a run: nothing is written"
	}
	if o.quick {
		o.services, o.queries, o.rounds, o.out = 100, 20_000, 1, ""
		o.partial = "quick run: nothing is written, and the figures mean nothing"
	}
	switch {
	case fs.NArg() > 0:
		fmt.Fprintf(os.Stderr, "dns: unexpected argument %q: flags only\n", fs.Arg(0))
		return o, bench.ErrUsage
	case slices.ContainsFunc(strings.Split(o.only, ","), unknownPart):
		fmt.Fprintf(os.Stderr, "dns: -only %q: the parts are cached, cores, tcp, transports, steady, overload, million\n", o.only)
		return o, bench.ErrUsage
	case o.services < 1 || o.queries < 1 || o.rounds < 1:
		fmt.Fprintln(os.Stderr, "dns: -services, -queries and -rounds must be at least 1")
		return o, bench.ErrUsage
	}
	return o, nil
}

// unknownPart reports whether name is neither a part nor empty.
func unknownPart(name string) bool {
	for _, p := range parts {
		if p.name == name {
			return false
		}
	}
	return name != ""
}
