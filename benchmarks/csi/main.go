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
	var err error
	if args := os.Args[1:]; len(args) > 0 && args[0] == "read" {
		err = runRead(args[1:])
	} else {
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
		fmt.Fprintln(os.Stderr, "csi:", err)
		stop()
		os.Exit(exitFailed)
	}
}

var errUsage = errors.New("usage")

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
		return o, errors.Join(errUsage, err)
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
		return o, errUsage
	}
	return o, nil
}
