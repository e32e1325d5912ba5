package soci

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// What callers branch on, through errors.Is.
var (
	// ErrNotFound: the registry has no such image, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrDenied: credentials are missing, wrong or without the right to pull.
	ErrDenied = errors.New("access denied")
	// ErrFetch: the bytes could not be had for a reason that is not one of the others: no
	// connection, an outage, or HTTP that can not be used.
	ErrFetch = errors.New("fetch failed")
	// ErrDigest: content is not what its digest or size says.
	ErrDigest = errors.New("digest mismatch")
	// ErrPlatform: the image does not exist for the wanted platform.
	ErrPlatform = errors.New("no image for this platform")
	// ErrUnsupported: the reference leads to something that is no image we can unpack.
	ErrUnsupported = errors.New("unsupported image")
	// ErrCorrupt: a layer is damaged although its digest is right: so it was made.
	ErrCorrupt = errors.New("corrupt layer")
	// ErrLimit: the image exceeds one of the Limits.
	ErrLimit = errors.New("limit exceeded")
	// ErrUnsafe: a layer wants to write outside of its root.
	ErrUnsafe = errors.New("unsafe path")
	// ErrTarget: the target directory can not be used.
	ErrTarget = errors.New("unusable target directory")
	// ErrInternal: a decoder or the extraction panicked on what it read. The image, or our
	// code, is at fault; other pulls go on.
	ErrInternal = errors.New("internal error")
	// ErrLeft: what a pull had written could not be removed.
	ErrLeft = errors.New("something was left behind")
)

// Error is what every failed pull returns: what failed, of which image and
// digest, at which bytes, after how many attempts. URLs in it carry no secrets.
type Error struct {
	Op         string // "parse", "resolve", "layer", "merge", "store", "target", "memory", "clean up"
	Registry   string // host, for example docker.io
	Repository string
	Digest     string // of the layer; "" when it is not about one
	Off, Len   int64  // bytes of the blob that could not be had; Len 0: not about a range
	Attempts   int    // requests made for these bytes
	Status     int    // HTTP status of the last answer; 0: there was none
	// Kept is the hidden directory in which what was finished waits for the next pull to the
	// same target, see Options.KeepFailed; "" if nothing was kept.
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

// sentinels maps what lower levels say to what callers branch on.
var sentinels = []struct{ from, to error }{
	{ranges.ErrNotFound, ErrNotFound},
	{ranges.ErrDenied, ErrDenied},
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

// marked makes an error match a sentinel without repeating its words.
type marked struct {
	error
	as error
}

func (m marked) Unwrap() []error { return []error{m.error, m.as} }

// fail wraps the cause of a failed step.
func fail(ctx context.Context, op string, ref registry.Reference, dgst string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	// A cancelled context is the cause of whatever was reported in its wake.
	if cause := context.Cause(ctx); cause != nil {
		if e, ok := errors.AsType[*Error](cause); ok {
			return e // another layer failed first
		}
		err = cause
	}
	if errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w: this process may have %d: raise its limit (ulimit -n, LimitNOFILE) to 1024 or more", err, openFiles())
	}
	e := &Error{Op: op, Registry: ref.Host, Repository: ref.Repository, Digest: dgst}
	network := false
	if re, ok := errors.AsType[*ranges.Error](err); ok {
		// Its message would say again what ours says.
		e.Off, e.Len, e.Attempts, e.Status = re.Off, max(re.Len, 0), re.Attempts, re.Status
		if dgst == "" {
			e.Off, e.Len = 0, 0 // of a manifest, whose range is nobody's concern
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
