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
	bench.Main("image", map[string]bench.Role{
		"ours":       func(ctx context.Context, args []string) error { return runPuller(ctx, args, pullOurs) },
		"containerd": runContainerd,
		"plain":      func(ctx context.Context, args []string) error { return runPuller(ctx, args, pullPlain) },
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
	rounds   int
	connRate int64
	quick    bool
	out      string
	data     string
	peers    string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "a small image and one round: does everything run? Its figures mean nothing and are not written")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds of each case")
	fs.Int64Var(&o.connRate, "conn-rate", 40<<20, "`bytes` a second that one connection gets in the second case, as from a busy registry")
	fs.StringVar(&o.out, "out", "benchmarks/image/results", "`folder` for the results")
	fs.StringVar(&o.data, "data", "/dev/shm", "`folder` for layers and trees; it should be in memory")
	fs.StringVar(&o.peers, "containerd", "", "`folder` with containerd and ctr; they are installed if none is given")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if o.quick {
		o.rounds, o.out = 1, ""
	}
	problem := ""
	switch {
	case fs.NArg() > 0:
		problem = fmt.Sprintf("unexpected argument %q: flags only", fs.Arg(0))
	case o.rounds < 1:
		problem = fmt.Sprintf("-rounds %d: use at least 1", o.rounds)
	case o.connRate < 1<<20:
		problem = fmt.Sprintf("-conn-rate %d is below 1 MiB a second: use for example %d", o.connRate, 40<<20)
	}
	if problem != "" {
		fmt.Fprintln(os.Stderr, "image:", problem)
		return o, bench.ErrUsage
	}
	return o, nil
}
