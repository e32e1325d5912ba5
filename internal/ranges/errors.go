package ranges

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors that callers test for with errors.Is.
var (
	ErrChanged  = errors.New("object changed while it was read")
	ErrNotFound = errors.New("object not found")
	ErrDenied   = errors.New("access denied")
	ErrNoRanges = errors.New("server does not serve ranges of this object")
	ErrChecksum = errors.New("checksum mismatch")
	ErrClosed   = errors.New("closed")
	ErrSize     = errors.New("object does not have the expected size")
)

// Errors that end an attempt with too little progress, see [RetryPolicy].
var (
	ErrStalled = errors.New("no bytes received for too long")
	ErrSlow    = errors.New("bytes came too slowly")
)

// errShort is the failure of an attempt whose body ended early.
var errShort = errors.New("body ended before its last byte")

// errClipped is the outcome of an attempt whose answer was complete and held fewer
// bytes than requested. It counts as progress rather than as a failure.
var errClipped = errors.New("server sent a shorter range than asked for")

// errNoLength reports a whole-object answer that can't be used, because neither
// the answer nor the object's size tells where the body must end.
var errNoLength = errors.New("server ignored the range and sent no length, and the size of the object is not known")

// errUnidentified reports an answer that can't be attributed to the object.
var errUnidentified = errors.New("answer has neither a range nor a length nor a validator")

// Error is a failed operation of the engine. It names the operation, the object,
// the bytes, the number of attempts and the cause.
type Error struct {
	Op       string // "fetch", "stream", "read"
	Object   string // the Spec's Name
	Off, Len int64  // the bytes of the failed request; Len < 0 means to the end
	Attempts int    // requests made for these bytes, hedges included
	Status   int    // HTTP status of the last answer, or 0
	Err      error  // the last cause
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s", e.Op, e.Object)
	switch {
	case e.Len < 0:
		s += fmt.Sprintf(" from byte %d", e.Off)
	case e.Len > 0:
		s += fmt.Sprintf(" bytes %d-%d", e.Off, e.Off+e.Len-1)
	}
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (attempt %d)", e.Attempts)
	}
	if e.Status != 0 {
		s += fmt.Sprintf(": HTTP %d", e.Status)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// classify returns the kind of an error, the pause that the server asked for,
// and whether the connection is to blame.
func classify(err error) (kind FaultKind, after time.Duration, fresh bool) {
	var f *Fault
	if errors.As(err, &f) {
		return f.Kind, f.RetryAfter, f.Fresh
	}
	if errors.Is(err, ErrChanged) {
		return Changed, 0, false
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) {
		return Permanent, 0, false
	}
	return Retryable, 0, true
}
