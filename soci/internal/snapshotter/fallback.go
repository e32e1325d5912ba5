package snapshotter

import (
	"context"
	"errors"
	"syscall"

	"github.com/penstock/penstock/soci"
)

// fallback decides whether containerd may pull a layer itself after we failed, and
// names the reason. It may when the registry could not be asked, refused us, or speaks HTTP
// that we can not use: containerd's client may know a proxy, credentials or other places.
// It may not when the bytes were wrong or would harm the node, or the pull was ended.
//
// An error does not tell that we ended the work: a dial that timed out matches
// context.DeadlineExceeded too. So endedBy marks it, where the context is known.
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

// reasonFetch is a layer whose bytes could not be had, after its image was resolved.
const reasonFetch = "fetch"

// endedError is the failure of work that was ended from outside: by its last caller, by the
// daemon's end, or by another layer's failure.
type endedError struct{ error }

// Unwrap returns what the work reported.
func (e endedError) Unwrap() error { return e.error }

// endedBy marks the error of work that ran under ctx, if ctx has ended.
func endedBy(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return endedError{err}
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
