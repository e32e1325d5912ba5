package snapshotter

import (
	"context"
	"errors"
	"syscall"

	"github.com/penstock/penstock/soci"
)

// fallback reports whether containerd may pull a layer itself after our
// failure, and the reason. It may if the registry could not be reached, refused
// us, or uses HTTP that we do not support, because containerd's client may have
// a proxy, credentials or mirrors. It may not if the bytes were wrong or would
// harm the node, or if the pull was cancelled.
//
// The error alone does not show a cancellation, because a dial that timed out
// matches context.DeadlineExceeded as well. So endedBy marks cancellations
// where the context is known.
func fallback(err error) (reason string, ok bool) {
	if _, ended := errors.AsType[endedError](err); ended || err == nil {
		return "", false
	}
	switch {
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
	switch {
	case is && (e.Op == "resolve" || e.Op == "parse"):
		return "unreachable", true
	case errors.Is(err, soci.ErrFetch):
		return reasonFetch, true
	}
	return "", false
}

// reasonFetch says that the bytes of a layer could not be fetched after its
// image was resolved.
const reasonFetch = "fetch"

// endedError is the error of work that was cancelled, because its last caller
// left, the daemon ends, or another layer failed.
type endedError struct{ error }

// Unwrap returns the error that the work reported.
func (e endedError) Unwrap() error { return e.error }

// endedBy marks the error of work under ctx if ctx has ended.
func endedBy(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return endedError{err}
}

// errMismatch says that the labels contradict the manifest that they name.
var errMismatch = errors.New("labels do not match the manifest")

// full reports whether a layer failed because the disk, its inodes or a quota
// is used up.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// exhausted makes an error match containerd's "resource exhausted" and keeps
// its text.
type exhausted struct{ error }

func (e exhausted) Unwrap() error { return e.error }

// ResourceExhausted is the method that errdefs looks for.
func (exhausted) ResourceExhausted() {}
