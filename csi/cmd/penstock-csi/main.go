//go:build linux

// Command penstock-csi shows S3 buckets as read-only file systems: as a CSI driver on a Kubernetes node, or as one mount by
// hand.
//
//	penstock-csi node  --endpoint unix:///csi/csi.sock --node-id NODE [flags]
//	penstock-csi mount BUCKET[/PREFIX] DIR [flags]
//	penstock-csi probe --endpoint unix:///csi/csi.sock
//	penstock-csi version
//
// Credentials come from the environment, the shared configuration files, web identity, or the instance, as for the AWS
// tools; no flag takes one. It runs in the foreground, logs to standard error, and SIGINT, SIGTERM or SIGHUP unmounts
// everything, however often it comes. Exit status: 0 done, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/version"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage:
  penstock-csi node  --endpoint unix:///csi/csi.sock --node-id NODE [flags]   serve volumes on a Kubernetes node
  penstock-csi mount BUCKET[/PREFIX] DIR [flags]                              mount one bucket, read-only
  penstock-csi probe --endpoint unix:///csi/csi.sock                          ask a driver whether it serves (exit status 0)
  penstock-csi version
"penstock-csi node -h", "mount -h" and "probe -h" list the flags.
`

func main() {
	// A hang-up is a terminal that closes: a mount must not stay behind then either.
	ctx, restore := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// Many tools send a signal twice, to the process and to its group, and a process that ends before it has unmounted
	// leaves a dead mount. So further signals change nothing until stopPatience has passed.
	context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, restore) })
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// stopPatience is how long after the first signal the program is sure to end by itself: a mount takes less than a second,
// a driver a few. Beyond it something hangs, and a signal may end the program.
const stopPatience = 15 * time.Second

// usageError is a mistake in the arguments, as against a failure of what they ask for.
type usageError struct{ error }

// run is the program without its process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var err error
	switch command {
	case "node":
		err = runNode(ctx, args, stderr)
	case "mount":
		err = runMount(ctx, args, stderr)
	case "probe":
		err = runProbe(ctx, args, stderr)
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, version.Line("penstock-csi"))
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
	case "":
		err = usageError{errors.New("no command: use node, mount, probe or version")}
	default:
		err = usageError{fmt.Errorf("command %q is unknown: use node, mount, probe or version", command)}
	}
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitDone
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, "penstock-csi:", oneLine(err))
		return exitUsage
	default:
		fmt.Fprintln(stderr, "penstock-csi:", oneLine(err))
		return exitFailed
	}
}

// oneLine keeps joined errors on one line and escapes control characters in remote text.
func oneLine(err error) string { return printable.Error(err, maxError) }

// maxError bounds the line in bytes: a page of a proxy must not push what matters off the screen.
const maxError = 4096
