//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// probeOptions say which driver to ask, and how long.
type probeOptions struct {
	endpoint string
	timeout  time.Duration
}

// runProbe asks a driver on this node whether it serves, as a liveness probe does: through the socket that kubelet uses, so
// that a socket file that was lost shows as well.
func runProbe(ctx context.Context, args []string, stderr io.Writer) error {
	opts, err := parseProbe(args, stderr)
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

func parseProbe(args []string, stderr io.Writer) (probeOptions, error) {
	var o probeOptions
	fs := flag.NewFlagSet("probe", flag.ContinueOnError)
	fs.StringVar(&o.endpoint, "endpoint", "", "where the driver serves: `unix:///path`")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how `long` to wait for its answer")
	rest, err := parse(fs, args, stderr)
	switch {
	case err != nil:
		return o, err
	case len(rest) > 0:
		return o, usageError{fmt.Errorf("probe takes flags alone, not %q", rest[0])}
	case o.endpoint == "":
		return o, usageError{errors.New("no endpoint: give the one of the driver, for example --endpoint unix:///csi/csi.sock")}
	case o.timeout <= 0:
		return o, usageError{fmt.Errorf("timeout %v: use a positive duration such as 10s", o.timeout)}
	}
	return o, nil
}
