package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstock/penstock/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	tool := cli.Tool{
		Name:    "penstock-pull",
		Default: runPull,
		Commands: []cli.Sub{
			{Name: "prefetch", Run: runPrefetch},
			{Name: "ztoc", Run: runZtoc},
		},
	}
	return tool.Run(ctx, args, cli.Streams{Out: stdout, Err: stderr})
}
