package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/version"
	"github.com/penstock/penstock/s3stream"
)

// exitGrace is how long an interrupted command may take to clean up. Only an
// output that blocks for ever, such as a full pipe, takes longer.
const exitGrace = 900 * time.Millisecond

func main() {
	// A hang-up is a terminal that closes. A second signal changes nothing: the clean-up of the first one removes the
	// unfinished file, and is bounded anyway.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(exitGrace, func() { os.Exit(1) }) })
	os.Exit(run(ctx, os.Args[1:], environ(), os.Stdout, os.Stderr))
}

func environ() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, env map[string]string, stdout, stderr io.Writer) int {
	if version.Asked(args) {
		fmt.Fprintln(stdout, version.Line("penstock-cast"))
		return 0
	}
	c, err := parse(args, env, stdout, stderr)
	switch {
	case errors.Is(err, errHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "penstock-cast: %s\n", oneLine(err))
		return 2
	}
	rep, err := c.do(ctx)
	c.meter.end()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	c.print(rep, err)
	if err != nil {
		fmt.Fprintf(stderr, "penstock-cast %s: %s\n", c.name, oneLine(err))
		return 1
	}
	return 0
}

// do runs the subcommand.
func (c *command) do(ctx context.Context) (*s3stream.Report, error) {
	switch c.name {
	case "get":
		return s3stream.Get(ctx, c.get)
	case "leader":
		l, err := s3stream.NewLeader(c.leader)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(c.stderr, "penstock-cast leader: listening on %s\n", l.Addr())
		return l.Run(ctx)
	default:
		w, err := s3stream.NewWorker(c.worker)
		if err != nil {
			return nil, err
		}
		return w.Run(ctx)
	}
}

// oneLine keeps joined errors on one line and escapes control characters in remote text.
func oneLine(err error) string { return printable.Error(err, maxError) }

// maxError bounds the line in bytes: a page of a proxy must not push what matters off the screen.
const maxError = 4096
