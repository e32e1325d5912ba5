//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/internal/cli"
)

// probeOptions name the driver to ask and the time to wait for it.
type probeOptions struct {
	endpoint string
	timeout  time.Duration
}

// runProbe asks a driver on this node whether it serves, as a liveness probe
// does. It goes through the socket that kubelet uses, so that a lost socket file
// shows as well.
func runProbe(ctx context.Context, args []string, s cli.Streams) error {
	opts, err := parseProbe(args, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	conn, err := grpc.NewClient(opts.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("probe of %s: %w", opts.endpoint, err)
	}
	_, err = spec.NewIdentityClient(conn).Probe(ctx, &spec.ProbeRequest{})
	if err != nil {
		return errors.Join(fmt.Errorf("probe of %s: %w", opts.endpoint, err), conn.Close())
	}
	return conn.Close()
}

func parseProbe(args []string, s cli.Streams) (o probeOptions, err error) {
	c := cli.New("penstock-csi probe", cli.Help{
		Usage: []string{"--endpoint unix:///csi/csi.sock [flags]"},
		About: "Asks a driver on this node whether it serves.",
		Exit:  "0 the driver serves, 1 it does not, 2 wrong command line",
	})
	f := c.Group("Flags")
	f.StringVar(&o.endpoint, "endpoint", "", "`unix:///PATH` of the socket on which the driver serves")
	f.DurationVar(&o.timeout, "timeout", probeTimeout, "`DURATION` to wait for the answer")
	rest, err := c.Parse(args, s.Out)
	switch {
	case err != nil:
		return o, err
	case len(rest) > 0:
		return o, cli.Usage(fmt.Errorf("probe takes only flags, but there is %q", rest[0]))
	case o.endpoint == "":
		return o, cli.Usage(errors.New("no endpoint: give the driver's, for example --endpoint unix:///csi/csi.sock"))
	case o.timeout <= 0:
		return o, cli.Usage(fmt.Errorf("timeout %v: use a positive duration such as 10s", o.timeout))
	}
	c.PrintOld(s.Err)
	return o, nil
}

const probeTimeout = 10 * time.Second
