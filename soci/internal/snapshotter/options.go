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

// Options configure a [Snapshotter]. Root and Puller are required. Any other
// zero field means its default, a negative number means off.
type Options struct {
	// Root is the directory of all data, on a file system that overlayfs
	// accepts.
	Root string
	// Puller fetches the layers. The caller closes it after the Snapshotter.
	Puller *soci.Puller
	// Layers bounds the layers that are extracted concurrently, over all
	// images. It should equal the Parallelism of the Puller, by which its
	// memory is divided. A layer that receives less than 64 KiB/s, or that no
	// caller waits for, does not count. Including such layers, at most twice as
	// many layers are in work. Default: the number of processors, at least 3.
	Layers int
	// NoSync leaves flushing to the kernel. That is faster on slow disks, but
	// after a power cut snapshots may hold files without content, as with
	// containerd's default configuration.
	NoSync bool
	// Linger is the time for which a pull continues without a waiting caller,
	// because containerd requests layers one by one, milliseconds apart.
	// Default: 30 s. A negative number ends such a pull at once.
	Linger time.Duration
	// Stall is the time after which a layer fails that receives less than 1
	// KiB/s from its registry. Default: 5 minutes. Negative: no limit.
	Stall time.Duration
	// Keep is the time for which ready and unfinished layers are kept when no
	// pull holds them. Default: 30 minutes. Negative: no limit.
	Keep time.Duration
	// Metrics registers the metrics. Default: none.
	Metrics prometheus.Registerer
	// Log receives events of images. Default: no log.
	Log *slog.Logger
}

const (
	// defaultLinger is long compared with the gap between two Prepares and
	// short compared with a pull.
	defaultLinger = 30 * time.Second
	// defaultKeep spans the longest back-off of a kubelet's retries (5 minutes)
	// several times.
	defaultKeep = 30 * time.Minute
	// defaultStall is longer than the restart of a registry, and equals
	// containerd's image_pull_progress_timeout.
	defaultStall = 5 * time.Minute
	minLayers    = 3 // one downloads, one inflates, one writes its last files
)

// Validate returns an error that names an invalid option and its valid values,
// or nil. It does not check the Puller, so that callers can validate before
// they make one.
func (o Options) Validate() error {
	switch {
	case o.Root == "":
		return errors.New("no root directory: name one, for example /var/lib/penstock")
	case !filepath.IsAbs(o.Root):
		return fmt.Errorf("root directory %q is relative, but containerd mounts directories in it: use an absolute path", o.Root)
	case o.Layers < 0:
		return fmt.Errorf("%d layers at once are too few: use 0 for the default, or at least 1", o.Layers)
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
