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
	bench.Main("image", map[string]bench.Role{
		"account":    runAccount,
		"containerd": runContainerd,
		"plain":      runPlain,
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
	rounds   int // of the realistic image in memory; the others have three at most
	connRate int64
	quick    bool
	cases    []string
	image    string
	data     string
	disk     string
	keep     string
	deadline time.Time // no round but the first of a case begins after it, unless it is zero
	out      string
	peers    string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "a small image and one round: does everything run? Its figures mean nothing and are not written")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds of the realistic image in memory; the other cases have three of them at most")
	fs.Int64Var(&o.connRate, "conn-rate", 40<<20, "`bytes` a second that one connection gets in the case busy, as from a busy registry")
	cases := fs.String("cases", strings.Join(caseNames, ","), "what to measure")
	fs.StringVar(&o.image, "image", "", "OCI image layout in this `folder` as the realistic image; else one is made of Debian packages")
	fs.StringVar(&o.data, "data", "/dev/shm", "`folder` in memory for images and roots")
	fs.StringVar(&o.disk, "disk", "", "`folder` on a disk for the roots of the case disk (default: the folder of temporary files)")
	fs.StringVar(&o.keep, "keep", "", "`file` that keeps finished cases, so that the next run with it measures only those that are missing")
	limit := fs.Duration("for", 0, "begin no more rounds after this `duration`, but the first of each case (default: no limit)")
	fs.StringVar(&o.out, "out", "benchmarks/image/results", "`folder` for the results")
	fs.StringVar(&o.peers, "peers", "bin/peers", "`folder` for the programs of the peers, which are built if they are not there")
	if err := fs.Parse(args); err != nil {
		return o, errors.Join(bench.ErrUsage, err)
	}
	o.cases = strings.Split(*cases, ",")
	if *limit > 0 {
		o.deadline = time.Now().Add(*limit)
	}
	if o.quick {
		o.rounds, o.out, o.keep, o.cases = 1, "", "", []string{caseSmall}
	}
	if o.disk == "" {
		o.disk = os.TempDir()
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
	for _, c := range o.cases {
		if c != caseSmall && !slices.Contains(caseNames, c) {
			problem = fmt.Sprintf("-cases: there is no %q, but %s", c, strings.Join(caseNames, ", "))
		}
	}
	if problem != "" {
		fmt.Fprintln(os.Stderr, "image:", problem)
		return o, bench.ErrUsage
	}
	return o, nil
}
