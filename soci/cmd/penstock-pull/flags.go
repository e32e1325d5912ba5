package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/penstock/penstock/internal/bytesize"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/limits"
)

const usage = `usage: penstock-pull --root DIR [flags] REFERENCE
       penstock-pull --layers DIR [flags] REFERENCE
       penstock-pull --config - [flags] REFERENCE        the image's configuration alone
       penstock-pull prefetch [flags] REFERENCE...       into containerd; see penstock-pull prefetch --help
       penstock-pull ztoc --out FILE [flags] BLOB        an index for SOCI; see penstock-pull ztoc --help
       penstock-pull --version

Pulls a container image and leaves its verified root file system in DIR, which must be new or empty.

  --root DIR         all layers applied to one tree
  --layers DIR       a directory for each layer, as overlayfs takes them
  --config FILE      save the image's configuration (environment, entry point, user) as JSON; "-": print it
  --keep-failed=false
                     remove what a failed or interrupted pull has finished (default: it waits in .NAME.penstock beside
                     DIR for the next pull to DIR)
  --platform P       os/arch[/variant], for example linux/arm64 (default: this machine's)
  --plain-http       http instead of https (loopback registries get http anyway)
  --memory BYTES     bound of all buffers, for example 67108864 or 64MiB (default: 256 MiB)
  --hosts-dir DIR    registry hosts and certificates as containerd's config_path (default: /etc/containerd/certs.d; "none")
  --indexes DIR      keep an index of each layer there, by which its next pull decodes it on all cores (default: none)
  --checkpoint BYTES how much of a layer's tar lies between two checkpoints, from which the next pull goes on
                     when this one is killed (default: 128 MiB; "none")
  --limits LIST      bounds of the image, for example size=2TiB,ratio=none: entries, depth, namelen, size, attributes,
                     metadata, window, ratio, ratiofree (see docs/soci.md)
  --sync             flush the file system before DIR appears
  --outage DURATION  how long an outage of a registry is survived (default 1m)
  --json             the result as one JSON object
  --progress=false   no progress (default: a bar on a terminal, lines elsewhere)
  --verbose          log every retry and hedge (retries are summed up by default)

Exit code: 0 done, 1 failed (DIR is as it was), 2 wrong command line.
`

// errHelp asks for the usage text.
var errHelp = errors.New("help")

// command is a parsed command line.
type command struct {
	options      soci.Options
	root, layers string
	config       string // file for the image's configuration; "-" is standard output
	reference    string
	json         bool
	meter        *meter
}

// parse reads the command line. Its errors name the value and the fix.
func parse(args []string, stderr io.Writer) (*command, error) {
	c := &command{}
	o := &c.options
	f := flag.NewFlagSet("penstock-pull", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.root, "root", "", "")
	f.StringVar(&c.layers, "layers", "", "")
	f.StringVar(&c.config, "config", "", "")
	f.BoolVar(&o.KeepFailed, "keep-failed", true, "")
	f.StringVar(&o.Platform, "platform", "", "")
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "")
	f.Func("memory", "", func(s string) (err error) {
		o.Memory, err = bytesize.Parse(s)
		return err
	})
	f.StringVar(&o.HostsDir, "hosts-dir", "", "")
	f.Func("checkpoint", "", func(s string) (err error) {
		o.CheckpointBytes, err = bytesize.ParseOrNone(s)
		return err
	})
	f.Func("limits", "", func(s string) error { return limits.Parse(s, &o.Limits) })
	f.StringVar(&o.IndexDir, "indexes", "", "")
	f.BoolVar(&o.Sync, "sync", false, "")
	f.DurationVar(&o.Outage, "outage", 0, "")
	f.BoolVar(&c.json, "json", false, "")
	progress := f.Bool("progress", true, "")
	verbose := f.Bool("verbose", false, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, errHelp
		}
		return nil, fmt.Errorf("%w (see penstock-pull --help)", err)
	}
	switch {
	case c.root == "" && c.layers == "" && c.config == "":
		return nil, errors.New("name the directory to fill: --root DIR for one tree, or --layers DIR for one directory for each layer")
	case c.root != "" && c.layers != "":
		return nil, errors.New("--root and --layers exclude each other: give one of them")
	case c.config == "-" && c.json:
		return nil, errors.New("--config - and --json both print to standard output: save the configuration in a file")
	case f.NArg() == 0:
		return nil, errors.New("name the image to pull, for example docker.io/library/alpine:3.20")
	case f.NArg() > 1:
		return nil, fmt.Errorf("one image at a time, but there is also %q (flags come before the reference)", f.Arg(1))
	}
	c.reference = f.Arg(0)
	if err := checkFile(c.config); err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	o.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	c.meter = newMeter(stderr)
	if *progress {
		o.Progress = c.meter
	}
	return c, nil
}
