package ranges

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What callers branch on, through errors.Is.
var (
	ErrChanged  = errors.New("object changed while it was read")
	ErrNotFound = errors.New("object not found")
	ErrDenied   = errors.New("access denied")
	ErrNoRanges = errors.New("server does not serve ranges of this object")
	ErrChecksum = errors.New("checksum mismatch")
	ErrClosed   = errors.New("closed")
	ErrSize     = errors.New("object does not have the expected size")
)

// What ends an attempt that makes too little progress, see [RetryPolicy].
var (
	ErrStalled = errors.New("no bytes received for too long")
	ErrSlow    = errors.New("bytes came too slowly")
)

// errShort is the cause of an attempt whose body ended early.
var errShort = errors.New("body ended before its last byte")

// errClipped is the outcome of an attempt whose answer held less than it was asked
// for, and was complete: progress rather than a failure.
var errClipped = errors.New("server sent a shorter range than asked for")

// errNoLength is the cause of NoRanges when not even a plain stream is possible.
var errNoLength = errors.New("server ignored the range and did not tell the length, and the size of the object is not known")

// errNothingKnown is the cause of an answer without anything to compare.
var errNothingKnown = errors.New("answer has neither a range nor a length nor a validator")

// Error is what the engine returns: which operation on which object and bytes
// failed, after how many attempts, and why.
type Error struct {
	Op       string // "fetch", "stream", "read"
	Object   string // the Spec's Name
	Off, Len int64  // the bytes of the request that failed; Len < 0: to the end
	Attempts int    // requests made for these bytes, hedges included
	Status   int    // HTTP status of the last answer; 0 none
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
