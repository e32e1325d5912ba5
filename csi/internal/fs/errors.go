package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"syscall"
)

// ErrChanged is what a [Reader] or [Store] returns when the version asked for is no longer the object's current one.
var ErrChanged = errors.New("object has changed since it was opened")

// Error is the error of every method of [FS]: the operation, what it was on, and why it failed.
type Error struct {
	Op   string // "lookup", "open", "read", "readdir", ...
	Path string // key, prefix or name the operation was on
	Err  error
}

// Error returns one line.
func (e *Error) Error() string { return fmt.Sprintf("%s %q: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errno returns the number that the kernel gets for err. An errno that the core itself gave stays as it is; one from
// further below (a refused connection, say) means nothing to a program that reads a file.
//
//	nil                              0
//	not found                        ENOENT
//	refused by the store (403)       EACCES
//	changed since it was opened      ESTALE
//	the caller's context cancelled   EINTR
//	beyond the limits                ENFILE
//	all else                         EIO
//
// A deadline is EIO, not EINTR: nobody interrupted the caller, the store was too slow.
func Errno(err error) syscall.Errno {
	var ours *Error
	if errors.As(err, &ours) {
		if errno, direct := ours.Err.(syscall.Errno); direct { //nolint:errorlint // deeper ones are not ours
			return errno
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrChanged):
		return syscall.ESTALE
	case errors.Is(err, iofs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, iofs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, ErrTooManyOpen):
		return syscall.ENFILE
	default:
		return syscall.EIO
	}
}
