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
	if args := os.Args[1:]; len(args) > 0 && args[0] == "gunzip" {
		err = runGunzip(args[1:])
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
		fmt.Fprintln(os.Stderr, "inflate:", err)
		stop()
		os.Exit(exitFailed)
	}
}

var errUsage = errors.New("usage")

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
		return o, errors.Join(errUsage, err)
	}
	if o.quick {
		o.rounds, o.out = 1, ""
	}
	if fs.NArg() > 0 || o.rounds < 1 {
		fmt.Fprintln(os.Stderr, "inflate: flags only, and -rounds must be at least 1")
		return o, errUsage
	}
	return o, nil
}
