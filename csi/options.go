package csi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"regexp"
)

const (
	// DefaultDriverName is the name under which the driver registers, and by which volumes ask for it.
	DefaultDriverName = "s3.csi.penstock.dev"
	// DefaultKubeletDir is where kubelet keeps its pods, and so where all targets are.
	DefaultKubeletDir = "/var/lib/kubelet"
)

// maxNodeID is the longest node id that the CSI specification lets a driver report.
const maxNodeID = 256

// driverName is what the CSI specification allows: a domain-like name of at most 63 characters.
var driverName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,61}[a-zA-Z0-9])?$`)

// Options configure a [Driver]. Endpoint and NodeID are required.
type Options struct {
	Endpoint string // where to serve: unix:///absolute/path
	NodeID   string // name of this node, as Kubernetes calls it
	Name     string // "" is DefaultDriverName

	// KubeletDir is the directory that targets must be in. "" is DefaultKubeletDir.
	KubeletDir string
	// StateDir holds the mounts that targets are bound to. "" is KubeletDir/plugins/Name/mounts. It must not be below a
	// directory that pods can write.
	StateDir string

	S3         S3Options // for volumes that say nothing else
	Memory     int64     // bytes that all volumes together buffer for reads; 0: the process's budget
	MaxVolumes int64     // how many volumes the scheduler may put on this node; 0: no limit
	Log        *slog.Logger
}

// Validate returns what is wrong with the options, and how to put it right.
func (o Options) Validate() error {
	o = o.withDefaults()
	if _, err := socketPath(o.Endpoint); err != nil {
		return err
	}
	switch {
	case o.NodeID == "":
		return errors.New("no node id: give the name of this node")
	case len(o.NodeID) > maxNodeID:
		return fmt.Errorf("node id of %d bytes: use at most %d", len(o.NodeID), maxNodeID)
	case !driverName.MatchString(o.Name):
		return fmt.Errorf("driver name %q: use at most 63 letters, digits, dots and hyphens", o.Name)
	case !cleanAbs(o.KubeletDir):
		return fmt.Errorf("kubelet directory %q: use a clean absolute path", o.KubeletDir)
	case !cleanAbs(o.StateDir):
		return fmt.Errorf("state directory %q: use a clean absolute path", o.StateDir)
	case o.Memory < 0 || o.Memory > 0 && o.Memory < minMemory:
		return fmt.Errorf("memory %d bytes: use at least %d, or 0 for a share of the memory limit", o.Memory, minMemory)
	case o.MaxVolumes < 0:
		return fmt.Errorf("at most %d volumes: use 0 for no limit, or a positive number", o.MaxVolumes)
	}
	return o.S3.Validate()
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = DefaultDriverName
	}
	if o.KubeletDir == "" {
		o.KubeletDir = DefaultKubeletDir
	}
	if o.StateDir == "" {
		o.StateDir = filepath.Join(o.KubeletDir, "plugins", o.Name, "mounts")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func cleanAbs(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/"
}

// maxSocketPath is the longest path that a UNIX socket address holds on Linux (sun_path less its NUL).
const maxSocketPath = 107

// socketPath returns the path of an endpoint.
func socketPath(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	switch {
	case endpoint == "":
		return "", errors.New("no endpoint: give for example unix:///csi/csi.sock")
	case err != nil || u.Scheme != "unix" || u.Host != "" || !cleanAbs(u.Path):
		return "", fmt.Errorf("endpoint %q: use unix:// and an absolute path, for example unix:///csi/csi.sock", endpoint)
	case len(u.Path) > maxSocketPath:
		return "", fmt.Errorf("endpoint %q: a socket path has at most %d bytes", endpoint, maxSocketPath)
	}
	return u.Path, nil
}
