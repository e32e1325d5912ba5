package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	role, args := "", os.Args[1:]
	if len(args) > 0 {
		role = args[0]
	}
	var err error
	switch role {
	case "job":
		err = runRole(ctx, args[1:], broadcast)
	case "each":
		err = runRole(ctx, args[1:], eachReads)
	default:
		var o options
		if o, err = parseOptions(args); err == nil {
			err = drive(ctx, o)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		stop()
		os.Exit(exitUsage)
	default:
		fmt.Fprintln(os.Stderr, "cast:", err)
		stop()
		os.Exit(exitFailed)
	}
}

var errUsage = errors.New("usage")

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
		return o, errors.Join(errUsage, err)
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
		return o, errUsage
	}
	return o, nil
}
