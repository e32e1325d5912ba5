package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/version"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/containerdlog"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	tool := cli.Tool{
		Name: "penstock-snapshotter",
		Default: func(ctx context.Context, args []string, s cli.Streams) error {
			c, err := parse(args, s)
			if err != nil {
				return err
			}
			return c.serve(ctx)
		},
		Commands: []cli.Sub{{Name: "capabilities", Run: printCapabilities}},
	}
	return tool.Run(ctx, args, cli.Streams{Out: stdout, Err: stderr})
}

// printCapabilities prints the capabilities line of containerd's configuration
// that is right for this kernel.
func printCapabilities(_ context.Context, args []string, s cli.Streams) error {
	c := cli.New("penstock-snapshotter capabilities", cli.Help{
		Usage: []string{""},
		About: "Prints what belongs into the capabilities of containerd's configuration on this kernel.",
	})
	rest, err := c.Parse(args, s.Out)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return cli.Usage(fmt.Errorf("capabilities takes no arguments, but there is %q", rest[0]))
	}
	_, err = fmt.Fprintln(s.Out, strings.Join(snapshotter.Capabilities(), " "))
	return err
}

// serve runs until the context ends.
func (c *command) serve(ctx context.Context) (err error) {
	containerdlog.Redirect(c.log)
	var images *snapshotter.Images
	if c.images != "" {
		if images, err = snapshotter.NewImages(c.containerd, nil, c.log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, images.Close()) }()
		c.puller.Credentials = images.Credentials
	}
	puller, err := soci.New(c.puller)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, puller.Close()) }()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	opts := c.snapshotter
	opts.Puller, opts.Metrics, opts.Log = puller, reg, c.log
	s, err := snapshotter.New(opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c.log.Info("penstock-snapshotter starts", slog.String("version", version.String()))
	all, ctx := errgroup.WithContext(ctx) // a server that fails ends the other one
	all.Go(func() error {
		return snapshotter.Serve(ctx, s, c.listen, reg, func(http string) {
			c.log.Info("serving", slog.String("socket", c.listen.Socket), slog.String("root", opts.Root), slog.String("http", http))
		})
	})
	if images != nil {
		all.Go(func() error {
			return snapshotter.ServeImages(ctx, images, c.images, func() {
				c.log.Info("serving the image service", slog.String("socket", c.images), slog.String("containerd", c.containerd))
			})
		})
	}
	return all.Wait()
}

// buildInfo returns a metric with the running version and commit.
func buildInfo() prometheus.Collector {
	b := version.Current()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "penstock_build_info",
		Help:        "1, with the version, commit and Go release of this program as labels.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	}, func() float64 { return 1 })
}
