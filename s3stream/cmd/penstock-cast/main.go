package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/cli"
)

// exitGrace is how long an interrupted command may take to clean up. Only an
// output that blocks, such as a full pipe, takes longer.
const exitGrace = 900 * time.Millisecond

func main() {
	// SIGHUP comes from a terminal that closes. A second signal changes nothing,
	// because the clean-up after the first one removes the unfinished file, and is
	// bounded anyway.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(exitGrace, func() { os.Exit(cli.ExitFailed) }) })
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
	tool := cli.Tool{
		Name:  "penstock-cast",
		About: "Reads S3 objects once and gives them to one node or to all nodes of a job. A URI that ends in a slash, or has no key, means all objects below it.",
		Commands: []cli.Sub{
			sub("get", "read objects to this node", env, newGet),
			sub("leader", "read objects and send them to the workers", env, newLeader),
			sub("worker", "receive objects from a leader", env, newWorker),
		},
	}
	return tool.Run(ctx, args, cli.Streams{Out: stdout, Err: stderr})
}

// sub returns a subcommand that parses its flags by the constructor.
func sub(name, about string, env map[string]string, build func() job) cli.Sub {
	return cli.Sub{Name: name, About: about, Run: func(ctx context.Context, args []string, s cli.Streams) error {
		j := build()
		if err := parse(j, args, env, s); err != nil {
			return err
		}
		return perform(ctx, j, s)
	}}
}
