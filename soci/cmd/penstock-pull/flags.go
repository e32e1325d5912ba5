package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/limits"
)

var pullHelp = cli.Help{
	Usage: []string{
		"--root DIR [flags] REFERENCE",
		"--layers DIR [flags] REFERENCE",
		"--config - [flags] REFERENCE",
		"prefetch [flags] REFERENCE...",
		"ztoc --out FILE [flags] BLOB",
		"--version",
	},
	About: `Pulls a container image and leaves its verified root file system in DIR, which must be new or empty. With --config ` +
		`alone it pulls only the image's configuration. "penstock-pull prefetch --help" and "penstock-pull ztoc --help" ` +
		`describe the other commands.`,
	Examples: []string{
		"penstock-pull --root /var/lib/rootfs docker.io/library/alpine:3.20",
		"penstock-pull --layers layers --json registry.example/team/app:v3",
	},
	Exit: "0 done, 1 failed (DIR is unchanged), 2 wrong command line",
	Env:  dockerEnv,
}

// dockerEnv are the variables that name the files with the logins of registries.
var dockerEnv = []cli.Entry{
	{Name: "DOCKER_CONFIG", About: "directory of docker's config.json, with the logins of registries (default ~/.docker)"},
	{Name: "REGISTRY_AUTH_FILE", About: "podman's auth.json, which is read after docker's"},
}

// pullCommand is a parsed command line.
type pullCommand struct {
	*cli.Command
	options      soci.Options
	root, layers string
	config       string // file for the image's configuration; "-" is standard output
	reference    string
	json         bool
	progress     *imageProgress
}

// newPull returns the command with its flags.
func newPull() *pullCommand {
	c := &pullCommand{Command: cli.New("penstock-pull", pullHelp)}
	o := &c.options
	f := c.Group("Output flags")
	f.StringVar(&c.root, "root", "", "`DIR` that receives all layers, applied to one tree")
	f.StringVar(&c.layers, "layers", "", "`DIR` that receives a directory for each layer, as overlayfs takes them")
	f.StringVar(&c.config, "config", "", "`FILE` for the image's configuration (environment, entry point, user) as JSON; - prints it")
	f.BoolVar(&o.KeepFailed, "keep-failed", true, "keep the finished layers of a failed or interrupted pull in .NAME.penstock next to DIR, for the next pull to DIR")
	f.BoolVar(&o.Sync, "sync", false, "flush the file system before DIR appears")
	f = c.Group("Image and registry flags")
	f.StringVar(&o.Platform, "platform", "", "`OS/ARCH[/VARIANT]`, for example linux/arm64 (default this machine's)")
	registryFlags(f, &o.PlainHTTP, &o.HostsDir)
	cli.OutageFlag(f, &o.Outage, "registry")
	cli.InterfacesFlag(f, &o.Interfaces)
	f = c.Group("Resource flags")
	cli.Bytes(f, &o.Memory, "memory", "`SIZE` of all buffers, for example 64MiB")
	cli.ShowDefault(f, "memory", "256MiB")
	layerFlags(f, o)
	f.StringVar(&o.IndexDir, "indexes", "", "`DIR` for an index of each layer, with which the next pull decodes the layer on all cores (default none)")
	c.OutputFlags(&c.json)
	c.LogFlags(slog.LevelWarn)
	return c
}

// registryFlags adds the flags that say how to reach a registry.
func registryFlags(f *pflag.FlagSet, plainHTTP *bool, hostsDir *string) {
	f.BoolVar(plainHTTP, "plain-http", false, "http instead of https to registries (loopback registries get http anyway)")
	f.StringVar(hostsDir, "hosts-dir", "", "`DIR` with registry hosts and certificates, as containerd's config_path; or none")
	cli.ShowDefault(f, "hosts-dir", defaultHosts)
}

// layerFlags adds the flags for checkpoints and for the limits of an image.
func layerFlags(f *pflag.FlagSet, o *soci.Options) {
	cli.BytesOrNone(f, &o.CheckpointBytes, "checkpoint", "`SIZE` of a layer's tar between two checkpoints, from which the next pull resumes a killed one; or none")
	cli.ShowDefault(f, "checkpoint", "128MiB")
	cli.Func(f, "limits", "`LIST` of bounds of the image, for example size=2TiB,ratio=none: "+limits.Names+" (see docs/soci.md)",
		func(s string) error { return limits.Parse(s, &o.Limits) })
}

// parsePull reads the command line. Its errors name the value and the fix.
func parsePull(args []string, s cli.Streams) (*pullCommand, error) {
	c := newPull()
	rest, err := c.Parse(args, s.Out)
	if err != nil {
		return nil, err
	}
	if err := c.check(rest); err != nil {
		return nil, cli.Usage(err)
	}
	c.options.Log = c.Logger(s.Err)
	c.progress = newImageProgress(c.Meter(s.Err))
	if c.progress.meter.On() {
		c.options.Progress = c.progress
	}
	return c, nil
}

// check checks the flags together with the positional arguments.
func (c *pullCommand) check(rest []string) error {
	switch {
	case c.root == "" && c.layers == "" && c.config == "":
		return errors.New("name the directory to fill: --root DIR for one tree, or --layers DIR for one directory for each layer")
	case c.root != "" && c.layers != "":
		return errors.New("--root and --layers exclude each other: give one of them")
	case c.config == "-" && c.json:
		return errors.New("--config - and --json both print to standard output: save the configuration in a file")
	case len(rest) == 0:
		return errors.New("name the image to pull, for example docker.io/library/alpine:3.20")
	case len(rest) > 1:
		return fmt.Errorf("one image at a time, but there is also %q", rest[1])
	}
	c.reference = rest[0]
	if err := checkFile(c.config); err != nil {
		return err
	}
	return c.options.Validate()
}
