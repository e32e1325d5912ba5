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
	bench.Main("inflate", map[string]bench.Role{
		"gunzip": func(_ context.Context, args []string) error { return runGunzip(args) },
	}, func(ctx context.Context, args []string) error {
		o, err := parseOptions(args)
		if err != nil {
			return err
		}
		return drive(ctx, o)
	})
}

// options are the flags of the driver.
type options struct {
	rounds int
	quick  bool
	out    string
	data   string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("inflate", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "a small layer and one round: does everything run? Its figures mean nothing and are not written")
	fs.IntVar(&o.rounds, "rounds", 7, "rounds")
	fs.StringVar(&o.out, "out", "benchmarks/inflate/results", "`folder` for the results")
	fs.StringVar(&o.data, "data", "", "`folder` for the layer; it should be in memory (default /dev/shm, else the temporary folder)")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if o.quick {
		o.rounds, o.out = 1, ""
	}
	if fs.NArg() > 0 || o.rounds < 1 {
		fmt.Fprintln(os.Stderr, "inflate: flags only, and -rounds must be at least 1")
		return o, bench.ErrUsage
	}
	return o, nil
}
