package snapshotter

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
)

// RateLabel bounds the pull that a Prepare starts, in bytes per second. Any
// client can set it, because containerd passes labels with its prefix to
// snapshotters.
const RateLabel = "containerd.io/snapshot/penstock.rate"

// Pull is an image being pulled.
type Pull struct {
	Image    string  `json:"image"` // repository and digest of the manifest
	Bytes    int64   `json:"bytes"` // compressed, to be fetched
	Received int64   `json:"received"`
	Seconds  float64 `json:"seconds"` // since the start
}

// request is the content of the labels of a remote Prepare.
type request struct {
	target   digest.Digest // chain ID
	image    string        // reference as given by the client
	manifest digest.Digest // of the platform
	layer    digest.Digest // of the blob
	rate     int64         // bytes per second, or 0 for no limit
}

// errOrdinary says that a Prepare is not a remote one.
var errOrdinary = errors.New("no labels of a remote snapshot")

// parseLabels reads the labels of a Prepare. It returns errOrdinary if labels
// of a remote Prepare are missing, and another error, to be logged, if they are
// malformed.
func parseLabels(labels map[string]string) (request, error) {
	r := request{image: labels[snapshotters.TargetRefLabel]}
	target := labels[snapshots.LabelSnapshotRef]
	if target == "" || r.image == "" {
		return request{}, errOrdinary
	}
	if labels[snapshots.LabelSnapshotUIDMapping] != "" || labels[snapshots.LabelSnapshotGIDMapping] != "" {
		return request{}, errors.New("containerd must unpack layers with mapped IDs itself")
	}
	for _, f := range []struct {
		label string
		value string
		into  *digest.Digest
	}{
		{snapshots.LabelSnapshotRef, target, &r.target},
		{snapshotters.TargetManifestDigestLabel, labels[snapshotters.TargetManifestDigestLabel], &r.manifest},
		{snapshotters.TargetLayerDigestLabel, labels[snapshotters.TargetLayerDigestLabel], &r.layer},
	} {
		d, err := digest.Parse(f.value)
		if err != nil {
			return request{}, fmt.Errorf("label %s=%q: %w", f.label, f.value, err)
		}
		*f.into = d
	}
	if s := labels[RateLabel]; s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			return request{}, fmt.Errorf("label %s=%q: want a number of bytes a second", RateLabel, s)
		}
		r.rate = n
	}
	return r, nil
}
