package cli

import (
	"errors"

	"github.com/penstock/penstock/internal/printable"
)

// Exit codes of all programs.
const (
	ExitOK     = 0 // success, also for --help and --version
	ExitFailed = 1 // the work failed or was interrupted
	ExitUsage  = 2 // the command line is wrong; no work was done
)

// ErrHelp is returned by [Command.Parse] after it has printed the help that the
// arguments ask for.
var ErrHelp = errors.New("help was printed")

// ErrReported is returned by commands that failed and have already printed why.
var ErrReported = errors.New("the failure was reported")

// UsageError is a mistake in the command line, as opposed to a failure of the
// work that it asks for.
type UsageError struct{ Err error }

// Error implements error.
func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e UsageError) Unwrap() error { return e.Err }

// Usage wraps err in a [UsageError]. It returns nil for nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return UsageError{err}
}

// MaxLine is the length in bytes at which [Line] cuts an error, so that the
// error page of a proxy does not fill the screen.
const MaxLine = 4096

// Line returns the text of an error as one line: joined errors are separated
// by semicolons, and control characters are escaped, because servers and
// archives supply parts of the text.
func Line(err error) string { return printable.Error(err, MaxLine) }
