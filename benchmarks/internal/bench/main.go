package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Role is one of the things that a benchmark's program can do. Its arguments are
// those after its name.
type Role func(ctx context.Context, args []string) error

// ErrUsage is the error, bare or joined, of a role that has printed what is wrong
// with its arguments.
var ErrUsage = errors.New("usage")

// Exit codes. A missed target is not a failure of the program.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Main is the main function of an area: it runs the role that the first argument
// names, or drive with all arguments. The context ends with an interrupt. It exits
// when the role fails.
func Main(name string, roles map[string]Role, drive Role) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	run, args := drive, os.Args[1:]
	if len(args) > 0 {
		if role := roles[args[0]]; role != nil {
			run, args = role, args[1:]
		}
	}
	err := run(ctx, args)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, ErrUsage), errors.Is(err, flag.ErrHelp):
		os.Exit(exitUsage)
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(exitFailed)
	}
}
