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

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/version"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/containerdlog"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if version.Asked(args) {
		fmt.Fprintln(stdout, version.Line("penstock-snapshotter"))
		return exitOK
	}
	if len(args) == 1 && args[0] == "capabilities" {
		fmt.Fprintln(stdout, strings.Join(snapshotter.Capabilities(), " "))
		return exitOK
	}
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "penstock-snapshotter: %s\n", oneLine(err))
		return exitUsage
	}
	if err := c.serve(ctx); err != nil {
		fmt.Fprintf(stderr, "penstock-snapshotter: %s\n", oneLine(err))
		return exitFailed
	}
	return exitOK
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
	all, ctx := errgroup.WithContext(ctx) // one that fails ends the other
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

// buildInfo tells monitoring which version and commit runs.
func buildInfo() prometheus.Collector {
	b := version.Current()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "penstock_build_info",
		Help:        "1, with the version, commit and Go release of this program as labels.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	}, func() float64 { return 1 })
}

// oneLine keeps joined errors on one line and escapes control characters in remote text.
func oneLine(err error) string { return printable.Error(err, maxError) }

// maxError bounds the line in bytes: a page of a proxy must not push what matters off the screen.
const maxError = 4096
