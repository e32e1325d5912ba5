//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/cli"
)

// nodeCommand is a parsed command line.
type nodeCommand struct {
	*cli.Command
	options csi.Options
}

// newNode returns the command with its flags.
func newNode() *nodeCommand {
	c := &nodeCommand{Command: cli.New("penstock-csi node", cli.Help{
		Usage: []string{"--endpoint unix:///csi/csi.sock --node-id NODE [flags]"},
		About: "Serves volumes on a Kubernetes node until SIGINT or SIGTERM.",
		Env:   append([]cli.Entry{{Name: "NODE_NAME", About: "default of --node-id"}}, awsEnv...),
	})}
	o := &c.options
	f := c.Group("Driver flags")
	f.StringVar(&o.Endpoint, "endpoint", "", "`unix:///PATH` of the socket to serve on")
	f.StringVar(&o.NodeID, "node-id", os.Getenv("NODE_NAME"), "`NAME` of this node")
	cli.ShowDefault(f, "node-id", "$NODE_NAME")
	f.StringVar(&o.Name, "driver-name", csi.DefaultDriverName, "`NAME` of the driver")
	f.StringVar(&o.KubeletDir, "kubelet-dir", csi.DefaultKubeletDir, "`DIR` of kubelet, which contains all targets")
	f.StringVar(&o.StateDir, "state-dir", "", "`DIR` of the mounts behind the targets (default KUBELET-DIR/plugins/DRIVER-NAME/mounts)")
	cli.Bytes(f, &o.Memory, "memory", "`SIZE` of the buffers for reads of all volumes, for example 512MiB (default a share of the memory limit)")
	f.Int64Var(&o.MaxVolumes, "max-volumes", 0, "`NUMBER` of volumes on this node at most (default no limit)")
	c.S3Flags("s3-endpoint", s3Flags(&o.S3))
	logFlags(c.Command, slog.LevelInfo)
	return c
}

func parseNode(args []string, s cli.Streams) (*nodeCommand, error) {
	c := newNode()
	rest, err := c.Parse(args, s.Out)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, cli.Usage(fmt.Errorf("node takes only flags, but there is %q", rest[0]))
	}
	c.options.Log = c.Logger(s.Err)
	return c, nil
}

// runNode serves volumes on a node until the context ends.
func runNode(ctx context.Context, args []string, s cli.Streams) error {
	c, err := parseNode(args, s)
	if err != nil {
		return err
	}
	limitHeap(c.options.Memory)
	d, err := csi.New(c.options)
	if err != nil {
		return cli.Usage(err) // New only checks options
	}
	return d.Run(ctx)
}
