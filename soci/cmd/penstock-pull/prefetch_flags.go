package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"

	"github.com/containerd/platforms"

	"github.com/penstock/penstock/internal/bytesize"
	"github.com/penstock/penstock/soci/internal/registry"
)

const prefetchUsage = `usage: penstock-pull prefetch [flags] REFERENCE...

Pulls images into containerd ahead of time, through penstock-snapshotter, one after the other.

  --containerd SOCKET  containerd (default: /run/containerd/containerd.sock)
  --namespace NAME     of containerd (default: k8s.io, where Kubernetes looks)
  --snapshotter NAME   as containerd knows it (default: penstock)
  --rate BYTES         bytes a second at most, for example 50MiB, until somebody needs the image (default: no bound)
  --platform P         os/arch[/variant] (default: this machine's)
  --plain-http         http instead of https (loopback registries get http anyway)
  --hosts-dir DIR      registry hosts and certificates as containerd's config_path (default: /etc/containerd/certs.d; "none")
  --status URL         where penstock-snapshotter tells progress (default: http://127.0.0.1:9437/pulls; "none")
  --json               the result as one JSON array
  --progress=false     no progress (default: a bar on a terminal, lines elsewhere)

Exit code: 0 all images are there, 1 at least one is not, 2 wrong command line.
`

const (
	kubernetes   = "k8s.io"
	defaultHosts = "/etc/containerd/certs.d" // containerd's documentation puts hosts.toml there
)

// prefetchCommand is a parsed command line.
type prefetchCommand struct {
	containerd, namespace, snapshotter string
	platform, hostsDir, status         string
	rate                               int64
	plainHTTP, json, progress          bool
	references                         []registry.Reference
	log                                *slog.Logger // set when it runs
}

// parsePrefetch reads what follows the word prefetch.
func parsePrefetch(args []string) (*prefetchCommand, error) {
	c := &prefetchCommand{}
	f := flag.NewFlagSet("penstock-pull prefetch", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.containerd, "containerd", "/run/containerd/containerd.sock", "")
	f.StringVar(&c.namespace, "namespace", kubernetes, "")
	f.StringVar(&c.snapshotter, "snapshotter", "penstock", "")
	f.Func("rate", "", func(s string) (err error) {
		c.rate, err = bytesize.Parse(s)
		return err
	})
	f.StringVar(&c.platform, "platform", "", "")
	f.BoolVar(&c.plainHTTP, "plain-http", false, "")
	f.StringVar(&c.hostsDir, "hosts-dir", "", "")
	f.StringVar(&c.status, "status", "http://127.0.0.1:9437/pulls", "")
	f.BoolVar(&c.json, "json", false, "")
	f.BoolVar(&c.progress, "progress", true, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, errHelp
		}
		return nil, fmt.Errorf("%w (see penstock-pull prefetch --help)", err)
	}
	if f.NArg() == 0 {
		return nil, errors.New("name the images to prefetch, for example docker.io/library/alpine:3.20")
	}
	for _, s := range f.Args() {
		ref, err := registry.ParseReference(s)
		if err != nil {
			return nil, err
		}
		c.references = append(c.references, ref)
	}
	return c, c.check()
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
		return fmt.Errorf("status %q is not a URL with http: write for example http://127.0.0.1:9437/pulls, or none", c.status)
	}
	switch c.hostsDir {
	case "":
		c.hostsDir = defaultHosts // which need not exist
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

// runPrefetch is the subcommand; it returns the exit code.
func runPrefetch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parsePrefetch(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, prefetchUsage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "penstock-pull: %s\n", oneLine(err))
		return exitUsage
	}
	return prefetch(ctx, c, stdout, stderr)
}
