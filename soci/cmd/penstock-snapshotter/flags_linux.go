package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/limits"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

var help = cli.Help{
	Usage: []string{"[flags]", "capabilities", "--version"},
	About: `Serves a snapshotter for containerd that fetches and unpacks images itself. docs/soci.md describes containerd's ` +
		`configuration; "penstock-snapshotter capabilities" prints the capabilities line for this kernel.`,
	Exit: "0 after SIGINT or SIGTERM, 1 failed, 2 wrong command line",
	Env: []cli.Entry{
		{Name: "DOCKER_CONFIG", About: "directory of docker's config.json, with the logins of registries (default ~/.docker)"},
		{Name: "REGISTRY_AUTH_FILE", About: "podman's auth.json, which is read after docker's"},
	},
}

const (
	defaultRoot   = "/var/lib/penstock"
	defaultSocket = "/run/penstock/snapshotter.sock"
	defaultNext   = "/run/containerd/containerd.sock"
	defaultHTTP   = "127.0.0.1:9437" // a port that no other Prometheus exporter has registered
	// defaultPatience covers two lost packets of a connection. On a node without
	// a network, starting a container whose image is local takes this long; the
	// starts in the 10 s to 2 min after that do not wait.
	defaultPatience = 5 * time.Second
	defaultLinger   = 30 * time.Second
	defaultStall    = 5 * time.Minute
	defaultKeep     = 30 * time.Minute
)

// command is a parsed command line.
type command struct {
	*cli.Command
	puller      soci.Options
	snapshotter snapshotter.Options
	listen      snapshotter.Listen
	images      string // socket for kubelet, or ""
	containerd  string // socket
	log         *slog.Logger
}

// newCommand returns the command with its flags.
func newCommand() *command {
	c := &command{Command: cli.New("penstock-snapshotter", help)}
	c.serviceFlags()
	c.registryFlags()
	c.layerFlags()
	c.LogFlags(slog.LevelInfo)
	c.Old(cli.Old{Flag: "--json", New: "--log-format=json"}, cli.Old{Flag: "--layers", New: "--parallelism"})
	return c
}

func (c *command) serviceFlags() {
	f := c.Group("Service flags")
	f.StringVar(&c.snapshotter.Root, "root", defaultRoot, "`DIR` for snapshots and layers")
	f.StringVar(&c.listen.Socket, "address", defaultSocket, "UNIX `SOCKET` for containerd")
	f.StringVar(&c.images, "image-service", "", "`SOCKET` for kubelet: CRI's image service in front of containerd's, by which pull secrets reach the snapshotter (default none)")
	f.StringVar(&c.containerd, "containerd", defaultNext, "`SOCKET` of containerd, for --image-service")
	f.StringVar(&c.listen.HTTP, "http", defaultHTTP, "`HOST:PORT` of /metrics and /pulls; or none")
}

func (c *command) registryFlags() {
	o := &c.puller
	f := c.Group("Registry flags")
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "http instead of https to registries (loopback registries get http anyway)")
	f.StringVar(&o.HostsDir, "hosts-dir", "", "`DIR` with registry hosts and certificates, as containerd's config_path; or none")
	cli.ShowDefault(f, "hosts-dir", "/etc/containerd/certs.d")
	f.DurationVar(&o.Patience, "patience", defaultPatience, "`DURATION` without a usable answer of a registry after which its image is left to containerd; 0 waits for a minute of retries")
	cli.OutageFlag(f, &o.Outage, "registry")
	cli.InterfacesFlag(f, &o.Interfaces)
}

func (c *command) layerFlags() {
	o, s := &c.puller, &c.snapshotter
	f := c.Group("Layer flags")
	cli.Bytes(f, &o.Memory, "memory", "`SIZE` of all buffers, for example 512MiB")
	cli.ShowDefault(f, "memory", "256MiB")
	f.IntVar(&s.Layers, "parallelism", 0, "`NUMBER` of layers extracted at once (default the number of processors, at least 3)")
	cli.BytesOrNone(f, &o.CheckpointBytes, "checkpoint", "`SIZE` of a layer's tar between two checkpoints, from which a pull resumes after a restart; or none")
	cli.ShowDefault(f, "checkpoint", "128MiB")
	cli.Func(f, "limits", "`LIST` of bounds of each image, for example size=2TiB,ratio=none: "+limits.Names+" (see docs/soci.md)",
		func(v string) error { return limits.Parse(v, &o.Limits) })
	f.BoolVar(&s.NoSync, "no-sync", false, "do not flush the file system before a layer becomes a snapshot, as containerd by default")
	f.DurationVar(&s.Linger, "linger", defaultLinger, "`DURATION` for which a pull continues when no client waits for it")
	f.DurationVar(&s.Stall, "stall", defaultStall, "`DURATION` below 1 KiB/s after which the pull of a layer fails; negative for never")
	f.DurationVar(&s.Keep, "keep", defaultKeep, "`DURATION` for which unclaimed layers are kept; negative to keep them")
}

// parse reads the command line. Its errors name the value and the fix.
func parse(args []string, s cli.Streams) (*command, error) {
	c := newCommand()
	rest, err := c.Parse(args, s.Out)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, cli.Usage(fmt.Errorf("%q is not a flag: the program takes only flags (see penstock-snapshotter --help)", rest[0]))
	}
	c.log = c.Logger(s.Err)
	return c, cli.Usage(c.check())
}

// check completes and checks the options.
func (c *command) check() error {
	if c.images != "" && c.images == c.listen.Socket {
		return fmt.Errorf("--image-service and --address are both %s: kubelet and containerd need a socket each", c.images)
	}
	if c.listen.HTTP == "none" {
		c.listen.HTTP = ""
	}
	if c.snapshotter.Linger == 0 {
		c.snapshotter.Linger = -1 // 0 would be the default
	}
	c.puller.Log, c.puller.Parallelism = c.log, c.snapshotter.Layers
	if err := errors.Join(c.puller.Validate(), c.snapshotter.Validate(), c.listen.Validate()); err != nil {
		return err
	}
	if c.images != "" {
		if err := (snapshotter.Listen{Socket: c.images}).Validate(); err != nil {
			return fmt.Errorf("--image-service: %w", err)
		}
	}
	return nil
}
