//go:build linux

// Command penstock-csi shows S3 buckets as read-only file systems: as a CSI
// driver on a Kubernetes node, or as one mount by hand.
//
//	penstock-csi node  --endpoint unix:///csi/csi.sock --node-id NODE [flags]
//	penstock-csi mount BUCKET[/PREFIX] DIR [flags]
//	penstock-csi probe --endpoint unix:///csi/csi.sock
//	penstock-csi --version
//
// Credentials come from the environment, the shared configuration files, web
// identity, or the instance, as for the AWS tools; no flag takes a secret. The
// program runs in the foreground and logs to standard error. SIGINT, SIGTERM or
// SIGHUP unmounts everything, however often it is sent. The exit code is 0 after
// success, 1 after a failure, and 2 if the command line is wrong.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/cli"
)

func main() {
	// SIGHUP comes from a terminal that closes, which must not leave a mount behind.
	ctx, restore := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// Many tools send a signal twice, to the process and to its group, and a
	// process that ends before it has unmounted leaves a dead mount. So further
	// signals change nothing until stopPatience has passed.
	context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, restore) })
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// stopPatience is the time after the first signal within which the program
// surely ends: a mount takes less than a second, a driver a few. After it, the
// program hangs, and another signal may end it.
const stopPatience = 15 * time.Second

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	tool := cli.Tool{
		Name: "penstock-csi",
		About: "Shows S3 buckets as read-only file systems: as a CSI driver on a Kubernetes node, or as one mount by hand. " +
			"Credentials come from the places where the AWS tools look.",
		Commands: []cli.Sub{
			{Name: "node", About: "serve volumes on a Kubernetes node", Run: runNode},
			{Name: "mount", About: "mount one bucket, read-only", Run: runMount},
			{Name: "probe", About: "ask a driver whether it serves", Run: runProbe},
		},
	}
	return tool.Run(ctx, args, cli.Streams{Out: stdout, Err: stderr})
}
