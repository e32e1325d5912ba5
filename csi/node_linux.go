package csi

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"sync"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// node is the node service: it checks what kubelet asks for, and leaves the doing to the publisher.
type node struct {
	spec.UnimplementedNodeServer
	opts Options
	pub  *publisher

	mu   sync.Mutex          // a leaf
	busy map[string]struct{} // targets with an operation under way
}

func newNode(opts Options, me owner, asked string) (*node, error) {
	pub, err := newPublisher(opts, me, asked)
	if err != nil {
		return nil, err
	}
	return &node{opts: opts, pub: pub, busy: map[string]struct{}{}}, nil
}

func (n *node) close() error { return n.pub.close() }

// lock takes a target for one operation. A second one at the same time is refused, as the specification recommends:
// kubelet asks again.
func (n *node) lock(target string) (unlock func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.busy[target]; taken {
		return nil, status.Errorf(codes.Aborted, "target %q: another operation is under way", target)
	}
	n.busy[target] = struct{}{}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.busy, target)
	}, nil
}

// NodePublishVolume shows a volume at a target. Asked again with the same volume it does nothing, so that kubelet's
// periodic repeats (requiresRepublish) are cheap.
func (n *node) NodePublishVolume(ctx context.Context, req *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	if err := needed("volume id", req.GetVolumeId(), "target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	if err := checkCapability(req.GetVolumeCapability(), req.GetReadonly()); err != nil {
		return nil, err
	}
	mount := req.GetVolumeCapability().GetMount()
	defaults := BucketOptions{S3: n.opts.S3, Log: n.opts.Log}
	vol, err := parseVolume(defaults, req.GetVolumeContext(), mount.GetMountFlags(), mount.GetVolumeMountGroup(), req.GetSecrets())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "volume %q: %v", req.GetVolumeId(), err)
	}
	unlock, err := n.lock(req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.pub.publish(ctx, req.GetVolumeId(), req.GetTargetPath(), vol); err != nil {
		return nil, statusOf(fmt.Sprintf("volume %q", req.GetVolumeId()), err)
	}
	return &spec.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume removes a volume from a target. A target that is not there is done already.
func (n *node) NodeUnpublishVolume(_ context.Context, req *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	if err := needed("volume id", req.GetVolumeId(), "target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	unlock, err := n.lock(req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.pub.unpublish(req.GetTargetPath()); err != nil {
		return nil, statusOf(fmt.Sprintf("volume %q", req.GetVolumeId()), err)
	}
	return &spec.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats returns the figures of a published volume. A bucket has no capacity; what is shown is what statfs
// of the mount shows. A volume that is not mounted any more is NotFound, and one that can't be read an error, as the mount
// table and the connection of the mount tell. The mount itself is not asked, since it may hang.
func (n *node) NodeGetVolumeStats(_ context.Context, req *spec.NodeGetVolumeStatsRequest) (*spec.NodeGetVolumeStatsResponse, error) {
	if err := needed("volume id", req.GetVolumeId(), "volume path", req.GetVolumePath()); err != nil {
		return nil, err
	}
	trouble, err := n.pub.condition(req.GetVolumeId(), req.GetVolumePath())
	if err != nil {
		return nil, statusOf(fmt.Sprintf("volume %q", req.GetVolumeId()), err)
	}
	if trouble != nil {
		return nil, status.Errorf(codes.Internal, "volume %q: %s", req.GetVolumeId(), trouble.message)
	}
	return &spec.NodeGetVolumeStatsResponse{Usage: []*spec.VolumeUsage{
		{Unit: spec.VolumeUsage_BYTES, Total: nominalCapacity, Available: nominalCapacity},
	}}, nil
}

// NodeGetVolumeHealth tells whether a published volume can be read; what it looks at is that of NodeGetVolumeStats. Without
// a path the volume is well when all of its targets are.
func (n *node) NodeGetVolumeHealth(_ context.Context, req *spec.NodeGetVolumeHealthRequest) (*spec.NodeGetVolumeHealthResponse, error) {
	if err := needed("volume id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	paths := []string{req.GetVolumePublishPath()}
	if paths[0] == "" {
		paths = n.pub.targetsOf(req.GetVolumeId())
	}
	if len(paths) == 0 {
		return nil, status.Errorf(codes.NotFound, "volume %q: not published on this node", req.GetVolumeId())
	}
	health := &spec.VolumeHealth{VolumeId: req.GetVolumeId()}
	for _, path := range paths {
		trouble, err := n.pub.condition(req.GetVolumeId(), path)
		if err != nil {
			return nil, statusOf(fmt.Sprintf("volume %q", req.GetVolumeId()), err)
		}
		known := func(e *spec.VolumeHealth_VolumeHealthEntry) bool {
			return trouble != nil && e.GetReason() == trouble.reason
		}
		if trouble != nil && !slices.ContainsFunc(health.HealthStatuses, known) {
			health.HealthStatuses = append(health.HealthStatuses, &spec.VolumeHealth_VolumeHealthEntry{
				Status: spec.VolumeHealthErrorType_INACCESSIBLE, Reason: trouble.reason, Message: trouble.message,
			})
		}
	}
	return &spec.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// nominalCapacity is what a bucket is said to hold: 1 PiB, all of it free, so that nobody is alarmed by a full disk.
const nominalCapacity = 1 << 50

// NodeGetCapabilities declares what is there beyond publishing.
func (n *node) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	var caps []*spec.NodeServiceCapability
	for _, t := range []spec.NodeServiceCapability_RPC_Type{
		spec.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		spec.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		caps = append(caps, &spec.NodeServiceCapability{
			Type: &spec.NodeServiceCapability_Rpc{Rpc: &spec.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return &spec.NodeGetCapabilitiesResponse{Capabilities: caps}, nil
}

// NodeGetInfo names the node.
func (n *node) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return &spec.NodeGetInfoResponse{NodeId: n.opts.NodeID, MaxVolumesPerNode: n.opts.MaxVolumes}, nil
}

// needed checks required fields, given as pairs of name and value.
func needed(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return status.Errorf(codes.InvalidArgument, "%s is missing", pairs[i])
		}
	}
	return nil
}

// checkCapability refuses what the driver can't do: block devices, and writing.
func checkCapability(c *spec.VolumeCapability, readOnly bool) error {
	switch {
	case c == nil:
		return status.Error(codes.InvalidArgument, "volume capability is missing")
	case c.GetBlock() != nil:
		return status.Error(codes.InvalidArgument, "block volumes are not supported: use volumeMode Filesystem")
	case c.GetMount() == nil:
		return status.Error(codes.InvalidArgument, "volume capability: access type is missing: use mount")
	case c.GetAccessMode().GetMode() == spec.VolumeCapability_AccessMode_UNKNOWN:
		return status.Error(codes.InvalidArgument, "volume capability: access mode is missing")
	}
	for _, f := range c.GetMount().GetMountFlags() {
		readOnly = readOnly || f == "read-only" || f == "--read-only" || f == "ro"
	}
	switch c.GetAccessMode().GetMode() {
	case spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return nil
	default:
		if readOnly {
			return nil
		}
		return status.Errorf(codes.InvalidArgument,
			"access mode %v: this driver mounts read-only; set readOnly: true on the volume, the mount option read-only, or the access mode ReadOnlyMany",
			c.GetAccessMode().GetMode())
	}
}

// Why a target can't be had.
var (
	errInUse        = errors.New("already in use")
	errNotPublished = errors.New("not published there")
)

// statusOf gives an error the code that the specification has for it. A status stays as it is.
func statusOf(what string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	var kept *keptError
	switch {
	case errors.Is(err, errTarget):
		code = codes.InvalidArgument
	case errors.Is(err, errInUse):
		code = codes.AlreadyExists
	case errors.Is(err, errNotPublished):
		code = codes.NotFound
	case errors.As(err, &kept): // after errInUse: at a publish it is that
		code = codes.FailedPrecondition
	case errors.Is(err, ErrNoDevice), errors.Is(err, ErrNoHelper), errors.Is(err, ErrBusy):
		code = codes.FailedPrecondition
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, errOpen) && errors.Is(err, iofs.ErrNotExist):
		code = codes.NotFound
	case errors.Is(err, errOpen) && errors.Is(err, iofs.ErrPermission):
		code = codes.PermissionDenied
	case errors.Is(err, errOpen):
		code = codes.Unavailable
	}
	return status.Errorf(code, "%s: %v", what, err)
}
