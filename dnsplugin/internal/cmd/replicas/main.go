package main

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "replicas:", err)
		os.Exit(1)
	}
}

// run reads a trace and prints a Result for each number of replicas, a JSON
// object in a line.
func run(args []string, in io.Reader, out io.Writer) error {
	var o Options
	fs := flag.NewFlagSet("replicas", flag.ContinueOnError)
	counts := fs.String("replicas", "1,4,16", "numbers of replicas, with commas between them")
	fs.IntVar(&o.Rate, "rate", 1_000_000, "queries per second of all replicas together")
	fs.DurationVar(&o.Warm, "warm", 30*time.Second, "simulated time before counting starts")
	fs.DurationVar(&o.Measure, "measure", time.Minute, "simulated time of counting")
	fs.Int64Var(&o.Bytes, "bytes", 0, "memory of each of a replica's two stores; 0 means the plugin's default")
	fs.Uint64Var(&o.Seed, "seed", 1, "decides which replica gets which query")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: flags only, the trace comes from standard input", fs.Arg(0))
	}
	var replicas []int
	for s := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("-replicas %s: %q is not a number, give for example 1,4,16", *counts, s)
		}
		replicas = append(replicas, n)
	}
	var t Trace
	if err := gob.NewDecoder(in).Decode(&t); err != nil {
		return fmt.Errorf("trace: %w: give the output of benchmarks/dns/replicas", err)
	}
	p, err := newPlayer(t, o)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	for _, n := range replicas {
		r, err := p.play(n)
		if err != nil {
			return err
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
