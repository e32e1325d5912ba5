package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/penstock/penstock/internal/bytesize"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/limits"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

const usage = `usage: penstock-snapshotter [flags]
       penstock-snapshotter capabilities     what this kernel can: the capabilities line of containerd's configuration
       penstock-snapshotter --version

A snapshotter for containerd that fetches and unpacks images itself. See docs/soci.md for containerd's configuration.

  --root DIR           snapshots and layers (default: /var/lib/penstock)
  --address SOCKET     UNIX socket for containerd (default: /run/penstock/snapshotter.sock)
  --image-service SOCKET
                       CRI's image service for kubelet, in front of containerd's: pull secrets get to the snapshotter (default: none)
  --containerd SOCKET  containerd's socket, for --image-service (default: /run/containerd/containerd.sock)
  --http HOST:PORT     /metrics and /pulls (default: 127.0.0.1:9437; "none")
  --plain-http         http instead of https to registries (loopback ones get http anyway)
  --hosts-dir DIR      registry hosts and certificates as containerd's config_path (default: /etc/containerd/certs.d; "none")
  --patience DURATION  how long a registry may give no usable answer before its image is left to containerd (default: 5s;
                       0: a minute of retries)
  --memory BYTES       bound of all buffers, for example 268435456 or 256MiB (default: 256 MiB)
  --layers N           layers extracted at once (default: the number of processors, at least 3)
  --checkpoint BYTES   how much of a layer's tar lies between two checkpoints, from which a pull goes on that the end
                       of the daemon has interrupted (default: 128 MiB; "none")
  --limits LIST        bounds of each image, for example size=2TiB,ratio=none: entries, depth, namelen, size, attributes,
                       metadata, window, ratio, ratiofree (see docs/soci.md)
  --no-sync            do not flush the file system before a layer is a snapshot, as containerd by default
  --linger DURATION    how long a pull goes on while nobody waits for it (default: 30s)
  --stall DURATION     how long a layer may bring less than 1 KiB/s before its pull fails (default: 5m; negative: for ever)
  --keep DURATION      how long layers that nobody claimed are kept (default: 30m; negative: for ever)
  --json               log lines of JSON
  --verbose            log every retry and hedge

Exit code: 0 after SIGINT or SIGTERM, 1 failed, 2 wrong command line.
`

const (
	defaultRoot   = "/var/lib/penstock"
	defaultSocket = "/run/penstock/snapshotter.sock"
	defaultNext   = "/run/containerd/containerd.sock"
	defaultHTTP   = "127.0.0.1:9437" // a port that nobody has registered with Prometheus
	// defaultPatience covers two lost packets of a connection. On a node without a way out
	// the start of a container whose image is local waits for so long, once in a while.
	defaultPatience = 5 * time.Second
)

// errHelp asks for the usage text.
var errHelp = errors.New("help")

// command is a parsed command line.
type command struct {
	puller      soci.Options
	snapshotter snapshotter.Options
	listen      snapshotter.Listen
	images      string // socket for kubelet; "": none
	containerd  string // socket
	log         *slog.Logger
}

// parse reads the command line. Its errors name the value and the fix.
func parse(args []string, stderr io.Writer) (*command, error) {
	c := &command{}
	f := flag.NewFlagSet("penstock-snapshotter", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.snapshotter.Root, "root", defaultRoot, "")
	f.StringVar(&c.listen.Socket, "address", defaultSocket, "")
	f.StringVar(&c.images, "image-service", "", "")
	f.StringVar(&c.containerd, "containerd", defaultNext, "")
	f.StringVar(&c.listen.HTTP, "http", defaultHTTP, "")
	f.BoolVar(&c.puller.PlainHTTP, "plain-http", false, "")
	f.StringVar(&c.puller.HostsDir, "hosts-dir", "", "")
	f.DurationVar(&c.puller.Patience, "patience", defaultPatience, "")
	f.Func("memory", "", func(s string) (err error) {
		c.puller.Memory, err = bytesize.Parse(s)
		return err
	})
	f.Func("checkpoint", "", func(s string) (err error) {
		c.puller.CheckpointBytes, err = bytesize.ParseOrNone(s)
		return err
	})
	f.Func("limits", "", func(s string) error { return limits.Parse(s, &c.puller.Limits) })
	f.IntVar(&c.snapshotter.Layers, "layers", 0, "")
	f.BoolVar(&c.snapshotter.NoSync, "no-sync", false, "")
	f.DurationVar(&c.snapshotter.Linger, "linger", 30*time.Second, "")
	f.DurationVar(&c.snapshotter.Stall, "stall", 5*time.Minute, "")
	f.DurationVar(&c.snapshotter.Keep, "keep", 30*time.Minute, "")
	asJSON := f.Bool("json", false, "")
	verbose := f.Bool("verbose", false, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, errHelp
		}
		return nil, fmt.Errorf("%w (see penstock-snapshotter --help)", err)
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a flag: there are only flags (see penstock-snapshotter --help)", f.Arg(0))
	}
	if c.images != "" && c.images == c.listen.Socket {
		return nil, fmt.Errorf("--image-service and --address are both %s: kubelet and containerd need a socket each", c.images)
	}
	if c.listen.HTTP == "none" {
		c.listen.HTTP = ""
	}
	o := &slog.HandlerOptions{}
	if *verbose {
		o.Level = slog.LevelDebug
	}
	c.log = slog.New(slog.NewTextHandler(stderr, o))
	if *asJSON {
		c.log = slog.New(slog.NewJSONHandler(stderr, o))
	}
	if c.snapshotter.Linger == 0 {
		c.snapshotter.Linger = -1 // not at all, not the default
	}
	c.puller.Log, c.puller.Parallelism = c.log, c.snapshotter.Layers
	if err := errors.Join(c.puller.Validate(), c.snapshotter.Validate(), c.listen.Validate()); err != nil {
		return nil, err
	}
	if c.images != "" {
		if err := (snapshotter.Listen{Socket: c.images}).Validate(); err != nil {
			return nil, fmt.Errorf("--image-service: %w", err)
		}
	}
	return c, nil
}
