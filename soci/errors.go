package soci

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Errors that callers test for with errors.Is.
var (
	// ErrNotFound says that the registry has no such image, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrDenied says that credentials are missing, wrong or lack the right to
	// pull.
	ErrDenied = errors.New("access denied")
	// ErrFetch says that bytes could not be fetched for a reason that no other
	// error here names: no connection, an outage, or unusable HTTP.
	ErrFetch = errors.New("fetch failed")
	// ErrDigest says that content does not match its digest or size.
	ErrDigest = errors.New("digest mismatch")
	// ErrPlatform says that the image does not exist for the wanted platform.
	ErrPlatform = errors.New("no image for this platform")
	// ErrUnsupported says that the reference names something other than an
	// image we can unpack.
	ErrUnsupported = errors.New("unsupported image")
	// ErrCorrupt says that a layer matches its digest but its content is
	// malformed.
	ErrCorrupt = errors.New("corrupt layer")
	// ErrLimit says that the image exceeds one of the Limits.
	ErrLimit = errors.New("limit exceeded")
	// ErrUnsafe says that a layer wants to write outside of its root.
	ErrUnsafe = errors.New("unsafe path")
	// ErrTarget says that the target directory cannot be used.
	ErrTarget = errors.New("unusable target directory")
	// ErrInternal says that a decoder or the extraction panicked on its input.
	// The image or our code is at fault; other pulls continue.
	ErrInternal = errors.New("internal error")
	// ErrLeft says that files of a failed pull could not be removed.
	ErrLeft = errors.New("files were left behind")
)

// Error describes a failed pull. URLs in it carry no secrets.
type Error struct {
	Op         string // "parse", "resolve", "pull", "layer", "merge", "store", "target", "memory", "clean up"
	Registry   string // host, for example docker.io
	Repository string
	Digest     string // of the layer, or "" if the error concerns the whole image
	Off, Len   int64  // bytes of the blob that could not be fetched; Len is 0 if unknown
	Attempts   int    // requests made for these bytes
	Status     int    // HTTP status of the last answer, or 0 without an answer
	// Kept is the hidden directory that holds the finished layers for the next
	// pull to the same target (Options.KeepFailed), or "" if it was removed.
	Kept string
	Err  error
}

func (e *Error) Error() string {
	s := e.Op
	if e.Registry != "" {
		s += " " + e.Registry + "/" + e.Repository
	}
	if e.Digest != "" {
		s += "@" + e.Digest
	}
	if e.Len > 0 {
		s += fmt.Sprintf(" bytes %d-%d", e.Off, e.Off+e.Len-1)
	}
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// sentinels maps the errors of internal packages to the exported ones.
var sentinels = []struct{ from, to error }{
	{ranges.ErrNotFound, ErrNotFound},
	{ranges.ErrDenied, ErrDenied},
	{flow.ErrDigest, ErrDigest},
	{registry.ErrDigest, ErrDigest},
	{registry.ErrPlatform, ErrPlatform},
	{registry.ErrUnsupported, ErrUnsupported},
	{panics.Err, ErrInternal},
	{inflate.ErrCorrupt, ErrCorrupt},
	{untar.ErrFormat, ErrCorrupt},
	{untar.ErrLimit, ErrLimit},
	{untar.ErrUnsafe, ErrUnsafe},
	{untar.ErrAttribute, ErrTarget},
}

// marked is an error that also matches a sentinel, without repeating its text.
type marked struct {
	error
	as error
}

func (m marked) Unwrap() []error { return []error{m.error, m.as} }

// fail wraps the cause of a failed step in an Error.
func fail(ctx context.Context, op string, ref registry.Reference, dgst string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	// A cancelled context caused the other errors that its steps report.
	if cause := context.Cause(ctx); cause != nil {
		if e, ok := errors.AsType[*Error](cause); ok {
			return e // another layer failed first
		}
		err = cause
	}
	if errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w: this process may have %d files open: raise its limit (ulimit -n, LimitNOFILE) to 1024 or more", err, openFiles())
	}
	e := &Error{Op: op, Registry: ref.Host, Repository: ref.Repository, Digest: dgst}
	network := false
	if re, ok := errors.AsType[*ranges.Error](err); ok {
		// e takes over its fields, so its message would repeat them.
		e.Off, e.Len, e.Attempts, e.Status = re.Off, max(re.Len, 0), re.Attempts, re.Status
		if dgst == "" {
			e.Off, e.Len = 0, 0 // the range of a manifest is an internal detail
		}
		err, network = re.Err, true
	}
	if f, ok := errors.AsType[*ranges.Fault](err); ok && e.Status == 0 {
		e.Status = f.Status
	}
	for _, s := range sentinels {
		if errors.Is(err, s.from) || errors.Is(err, s.to) {
			e.Err = marked{err, s.to}
			return e
		}
	}
	if network {
		err = marked{err, ErrFetch}
	}
	e.Err = err
	return e
}
