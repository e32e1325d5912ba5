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
	bench.Main("csi", map[string]bench.Role{
		"read": func(_ context.Context, args []string) error { return runRead(args) },
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
	size   int64
	small  int
	random int
	rounds int
	quick  bool
	out    string
	data   string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("csi", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "little data, one round, no rclone: does everything run? Its figures mean nothing and are not written")
	fs.Int64Var(&o.size, "size", 1<<30, "`bytes` of the big file")
	fs.IntVar(&o.small, "small", 1000, "number of files of 64 KiB")
	fs.IntVar(&o.random, "random", 500, "number of random reads of 128 KiB")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds of each case")
	fs.StringVar(&o.out, "out", "benchmarks/csi/results", "`folder` for the results")
	fs.StringVar(&o.data, "data", "", "`folder` for the objects; it should be in memory (default /dev/shm, else the temporary folder)")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if o.quick {
		o.size, o.small, o.random, o.rounds, o.out = 64<<20, 50, 50, 1, ""
	}
	problem := ""
	switch {
	case fs.NArg() > 0:
		problem = fmt.Sprintf("unexpected argument %q: flags only", fs.Arg(0))
	case o.size < 1<<20:
		problem = fmt.Sprintf("-size %d is below 1 MiB: use for example %d", o.size, 1<<30)
	case o.small < 1 || o.random < 1 || o.rounds < 1:
		problem = "-small, -random and -rounds must be at least 1"
	}
	if problem != "" {
		fmt.Fprintln(os.Stderr, "csi:", problem)
		return o, bench.ErrUsage
	}
	return o, nil
}
