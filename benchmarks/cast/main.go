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
	bench.Main("cast", map[string]bench.Role{
		"job":  func(ctx context.Context, args []string) error { return runRole(ctx, args, broadcast) },
		"each": func(ctx context.Context, args []string) error { return runRole(ctx, args, eachReads) },
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
	size    int64
	workers int
	rounds  int
	out     string
	data    string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("cast", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "a small object and one round: does everything run? Its figures mean nothing and are not written")
	fs.Int64Var(&o.size, "size", 1<<30, "`bytes` of the object")
	fs.IntVar(&o.workers, "workers", 8, "processes that want the object")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds")
	fs.StringVar(&o.out, "out", "benchmarks/cast/results", "`folder` for the results")
	fs.StringVar(&o.data, "data", "", "`folder` for the object; it should be in memory (default /dev/shm, else the temporary folder)")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if *quick {
		o.size, o.rounds, o.out = 64<<20, 1, ""
	}
	problem := ""
	switch {
	case fs.NArg() > 0:
		problem = fmt.Sprintf("unexpected argument %q: flags only", fs.Arg(0))
	case o.size < 1<<20:
		problem = fmt.Sprintf("-size %d is below 1 MiB: use for example %d", o.size, 1<<30)
	case o.workers < 1 || o.rounds < 1:
		problem = "-workers and -rounds must be at least 1"
	}
	if problem != "" {
		fmt.Fprintln(os.Stderr, "cast:", problem)
		return o, bench.ErrUsage
	}
	return o, nil
}
