package snapshotter

import (
	"context"
	"errors"
	"syscall"

	"github.com/penstock/penstock/soci"
)

// fallback decides whether containerd may pull a layer itself after we failed, and
// names the reason. It may when the registry would not give it to us: containerd's
// client may know credentials or other places. It may not when the bytes were wrong
// or would harm the node, or the pull was ended.
func fallback(err error) (reason string, ok bool) {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "", false
	case errors.Is(err, soci.ErrDigest), errors.Is(err, soci.ErrCorrupt), errors.Is(err, soci.ErrLimit), errors.Is(err, soci.ErrUnsafe):
		return "", false
	case errors.Is(err, errMismatch):
		return "labels", true
	case errors.Is(err, soci.ErrDenied):
		return "denied", true
	case errors.Is(err, soci.ErrNotFound):
		return "not_found", true
	case errors.Is(err, soci.ErrUnsupported), errors.Is(err, soci.ErrPlatform):
		return "unsupported", true
	}
	e, is := errors.AsType[*soci.Error](err)
	if is && (e.Op == "resolve" || e.Op == "parse") {
		return "unreachable", true
	}
	return "", false
}

// errMismatch: the labels contradict the manifest that they name.
var errMismatch = errors.New("labels do not fit the manifest")

// full reports whether a layer failed for want of room: of bytes or inodes of the disk, or
// of a quota.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// exhausted makes an error one of containerd's "resource exhausted", with its own words.
type exhausted struct{ error }

func (e exhausted) Unwrap() error { return e.error }

// ResourceExhausted is what errdefs looks for.
func (exhausted) ResourceExhausted() {}
