package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

func main() {
	bench.Main("engine", map[string]bench.Role{
		"origin": runOrigin,
		"ours":   func(ctx context.Context, args []string) error { return runClient(ctx, args, readOurs) },
		"plain":  func(ctx context.Context, args []string) error { return runClient(ctx, args, readPlain) },
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
	quick       bool
	size        int64 // bytes of the big object
	objects     int   // number of small objects
	faultSize   int64 // bytes of the object under faults
	rounds      int
	faultRounds int
	conns       int
	part        int64
	budget      int64
	out         string
	data        string
	only        string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("engine", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "small sizes and one round: does everything run? Its figures mean nothing and are not written")
	fs.Int64Var(&o.size, "size", 4<<30, "`bytes` of the big object")
	fs.IntVar(&o.objects, "objects", 2000, "number of objects of 1 MiB")
	fs.Int64Var(&o.faultSize, "fault-size", 1<<30, "`bytes` of the object that is read under faults")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds of the throughput cases")
	fs.IntVar(&o.faultRounds, "fault-rounds", 3, "rounds of the fault table")
	fs.IntVar(&o.conns, "conns", 16, "parallel requests of every client")
	fs.Int64Var(&o.part, "part", 8<<20, "`bytes` of a part")
	fs.Int64Var(&o.budget, "budget", 256<<20, "`bytes` that our engine may hold")
	fs.StringVar(&o.out, "out", "benchmarks/engine/results", "`folder` for the results")
	fs.StringVar(&o.data, "data", "", "`folder` for the objects; it should be in memory (default /dev/shm, else the temporary folder)")
	fs.StringVar(&o.only, "only", "", "run one case: big, small or faults")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	if o.quick {
		o.size, o.objects, o.faultSize, o.rounds, o.faultRounds, o.out = 256<<20, 100, 1<<28, 1, 1, ""
	}
	return o, o.validate(fs)
}

func (o options) validate(fs *flag.FlagSet) error {
	problem := ""
	switch {
	case fs.NArg() > 0:
		problem = fmt.Sprintf("unexpected argument %q: flags only", fs.Arg(0))
	case o.size < o.part || o.faultSize < o.part:
		problem = fmt.Sprintf("-size %d and -fault-size %d must be at least one part (-part %d)", o.size, o.faultSize, o.part)
	case o.objects < 1, o.rounds < 1, o.faultRounds < 1, o.conns < 1:
		problem = "-objects, -rounds, -fault-rounds and -conns must be at least 1"
	case o.part < 1<<20:
		problem = fmt.Sprintf("-part %d is below 1 MiB, and the peers refuse less than 5 MiB: use for example %d", o.part, 8<<20)
	case o.budget < int64(o.conns)*o.part:
		problem = fmt.Sprintf("-budget %d does not hold -conns %d parts of %d bytes: use at least %d", o.budget, o.conns, o.part, int64(o.conns)*o.part)
	case o.only != "" && o.only != "big" && o.only != "small" && o.only != "faults":
		problem = fmt.Sprintf("-only %q is not a case: use big, small or faults", o.only)
	}
	if problem == "" {
		return nil
	}
	fmt.Fprintln(os.Stderr, "engine:", problem)
	return bench.ErrUsage
}

// self returns the path of this program, to start it in another role.
func self() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(exe)
}
