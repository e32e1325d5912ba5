package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"

	"github.com/containerd/platforms"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/soci/internal/registry"
)

var prefetchHelp = cli.Help{
	Usage: []string{"[flags] REFERENCE..."},
	About: "Pulls images into containerd ahead of time, through penstock-snapshotter, one after the other.",
	Examples: []string{
		"penstock-pull prefetch --rate 200MB registry.example/team/app:v3",
	},
	Exit: "0 all images are in containerd, 1 at least one is not, 2 wrong command line",
	Env:  dockerEnv,
}

const (
	kubernetes   = "k8s.io"
	defaultHosts = "/etc/containerd/certs.d" // containerd's documentation puts hosts.toml there
)

// prefetchCommand is a parsed command line.
type prefetchCommand struct {
	*cli.Command
	containerd, namespace, snapshotter string
	platform, hostsDir, status         string
	rate                               int64
	plainHTTP, json                    bool
	references                         []registry.Reference
	log                                *slog.Logger
}

// newPrefetch returns the command with its flags.
func newPrefetch() *prefetchCommand {
	c := &prefetchCommand{Command: cli.New("penstock-pull prefetch", prefetchHelp)}
	f := c.Group("containerd flags")
	f.StringVar(&c.containerd, "containerd", "/run/containerd/containerd.sock", "`SOCKET` of containerd")
	f.StringVar(&c.namespace, "namespace", kubernetes, "`NAME` of containerd's namespace; Kubernetes uses k8s.io")
	f.StringVar(&c.snapshotter, "snapshotter", "penstock", "`NAME` by which containerd knows the snapshotter")
	f.StringVar(&c.status, "status", "http://127.0.0.1:9437/pulls", "`URL` at which penstock-snapshotter reports progress; or none")
	f = c.Group("Image and registry flags")
	f.StringVar(&c.platform, "platform", "", "`OS/ARCH[/VARIANT]`, for example linux/arm64 (default this machine's)")
	registryFlags(f, &c.plainHTTP, &c.hostsDir)
	cli.PositiveBytes(f, &c.rate, "rate", "`SIZE` to fetch per second at most, for example 50MiB, until a container needs the image (default no bound)")
	c.OutputFlags(&c.json)
	c.LogFlags(slog.LevelWarn)
	return c
}

// parsePrefetch reads the arguments after the word prefetch.
func parsePrefetch(args []string, s cli.Streams) (*prefetchCommand, error) {
	c := newPrefetch()
	rest, err := c.Parse(args, s.Out)
	if err != nil {
		return nil, err
	}
	if len(rest) == 0 {
		return nil, cli.Usage(errors.New("name the images to prefetch, for example docker.io/library/alpine:3.20"))
	}
	for _, arg := range rest {
		ref, err := registry.ParseReference(arg)
		if err != nil {
			return nil, cli.Usage(err)
		}
		c.references = append(c.references, ref)
	}
	if err := c.check(); err != nil {
		return nil, cli.Usage(err)
	}
	c.log = c.Logger(s.Err)
	return c, nil
}

func (c *prefetchCommand) check() error {
	if c.platform != "" {
		if _, err := platforms.Parse(c.platform); err != nil {
			return fmt.Errorf("platform %q is not valid: write for example linux/amd64 or linux/arm/v7", c.platform)
		}
	}
	if c.status == "none" {
		c.status = ""
	}
	if u, err := url.Parse(c.status); err != nil || c.status != "" && u.Scheme != "http" {
		return fmt.Errorf("status %q is not an http URL: write for example http://127.0.0.1:9437/pulls, or none", c.status)
	}
	switch c.hostsDir {
	case "":
		c.hostsDir = defaultHosts // it need not exist
	case "none":
		c.hostsDir = ""
	default:
		if fi, err := os.Stat(c.hostsDir); err != nil || !fi.IsDir() {
			return fmt.Errorf("hosts directory %q is not a directory: name one with a folder for each registry, or none", c.hostsDir)
		}
	}
	if _, err := os.Stat(c.containerd); err != nil {
		return fmt.Errorf("containerd's socket: %w: name it with --containerd", err)
	}
	return nil
}

// runPrefetch runs the prefetch subcommand.
func runPrefetch(ctx context.Context, args []string, s cli.Streams) error {
	c, err := parsePrefetch(args, s)
	if err != nil {
		return err
	}
	return c.prefetch(ctx, s)
}
