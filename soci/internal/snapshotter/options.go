package snapshotter

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/soci"
)

// Options configure a [Snapshotter]. Root and Puller are required; zero means the
// default for all others, negative off.
type Options struct {
	// Root is the directory of everything, on a file system that overlayfs accepts.
	Root string
	// Puller fetches. It belongs to the caller, who closes it after the Snapshotter.
	Puller *soci.Puller
	// Layers bounds the layers that are extracted at once, over all images. It should
	// be what the Puller's memory is divided by. Images take turns. A layer that brings less
	// than 64 KiB/s, or that no caller waits for, leaves its place to another one; with those there
	// are at most twice as many in work. Default: the number of processors, at least 3.
	Layers int
	// NoSync leaves flushing to the kernel. Faster on slow disks, but after a power cut
	// snapshots may hold files without content: exactly what containerd itself does
	// unless told otherwise.
	NoSync bool
	// Linger is how long a pull goes on while nobody waits for it. containerd asks for
	// one layer after the other, milliseconds apart. Default: 30 s. Negative: not at all.
	Linger time.Duration
	// Stall is how long a layer may bring less than 1 KiB/s before it fails, while it waits for
	// its registry. Default: 5 minutes. Negative: for ever.
	Stall time.Duration
	// Keep is how long layers stay that nobody claims, or that were begun and nobody goes
	// on with. Default: 30 minutes. Negative: for ever.
	Keep time.Duration
	// Metrics gets the metrics. Nil: none.
	Metrics prometheus.Registerer
	// Log gets what happens to images. Nil is silent.
	Log *slog.Logger
}

const (
	// defaultLinger is long beside the gap between two Prepares and short beside a pull.
	defaultLinger = 30 * time.Second
	// defaultKeep spans the longest back-off of a kubelet's retries (5 minutes)
	// several times.
	defaultKeep = 30 * time.Minute
	// defaultStall is longer than a registry takes to be restarted, and as long as containerd's
	// own image_pull_progress_timeout.
	defaultStall = 5 * time.Minute
	minLayers    = 3 // one downloads, one inflates, one ends
)

// Validate says what is wrong with the options and what to write instead. It does not ask for a
// Puller, which costs something to make.
func (o Options) Validate() error {
	switch {
	case o.Root == "":
		return errors.New("no root directory: name one, for example /var/lib/penstock")
	case !filepath.IsAbs(o.Root):
		return fmt.Errorf("root directory %q is relative, but containerd mounts what is in it: write it in full", o.Root)
	case o.Layers < 0:
		return fmt.Errorf("%d layers at once: use 0 for the default, or 1 and more", o.Layers)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Layers == 0 {
		o.Layers = max(minLayers, runtime.GOMAXPROCS(0))
	}
	if o.Linger == 0 {
		o.Linger = defaultLinger
	}
	if o.Stall == 0 {
		o.Stall = defaultStall
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
