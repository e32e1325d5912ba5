//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/penstock/penstock/csi"
)

// runNode serves volumes on a node until it is told to stop.
func runNode(ctx context.Context, args []string, stderr io.Writer) error {
	opts, logs, err := nodeOptions(args, stderr)
	if err != nil {
		return err
	}
	opts.Log = logs.logger(stderr, slog.LevelInfo)
	limitHeap(opts.Memory)
	d, err := csi.New(opts)
	if err != nil {
		return usageError{err} // New only checks options
	}
	return d.Run(ctx)
}

func nodeOptions(args []string, stderr io.Writer) (csi.Options, logFlags, error) {
	var (
		opts csi.Options
		logs logFlags
		fs   = flag.NewFlagSet("node", flag.ContinueOnError)
	)
	fs.StringVar(&opts.Endpoint, "endpoint", "", "where to serve: `unix:///path`")
	fs.StringVar(&opts.NodeID, "node-id", os.Getenv("NODE_NAME"), "`name` of this node (default $NODE_NAME)")
	fs.StringVar(&opts.Name, "driver-name", csi.DefaultDriverName, "`name` of the driver")
	fs.StringVar(&opts.KubeletDir, "kubelet-dir", csi.DefaultKubeletDir, "`directory` of kubelet, where all targets are")
	fs.StringVar(&opts.StateDir, "state-dir", "", "`directory` of the mounts behind the targets (default KUBELET-DIR/plugins/DRIVER-NAME/mounts)")
	fs.Var((*size)(&opts.Memory), "memory", "`bytes` that all volumes buffer for reads, such as 512MiB (0: a share of the memory limit)")
	fs.Int64Var(&opts.MaxVolumes, "max-volumes", 0, "most volumes on this node (0: no limit)")
	addS3(fs, &opts.S3, "s3-endpoint")
	logs.add(fs)
	rest, err := parse(fs, args, stderr)
	if err == nil && len(rest) > 0 {
		err = usageError{fmt.Errorf("node takes flags alone, not %q", rest[0])}
	}
	return opts, logs, err
}
