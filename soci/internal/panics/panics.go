// Package panics turns a panic in code that reads untrusted bytes into an
// error, so that a crafted image, or a bug in a decoder, fails its layer and
// not the process (docs/decisions/0005-panics.md).
//
//	err := panics.Guard(func() { out = decode(in) })
//
// The function must not hold a lock when it panics, and its caller must discard
// the data that it was changing. Fatal errors of the runtime, such as
// concurrent writes to a map, cannot be recovered.
package panics

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Err matches every [Error].
var Err = errors.New("internal error")

// Error is a recovered panic.
type Error struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (e *Error) Error() string { return fmt.Sprintf("%v: %v (please report it)", Err, e.Value) }

// Is makes an Error match Err.
func (e *Error) Is(target error) bool { return target == Err }

// Unwrap returns the value of the panic if that is an error.
func (e *Error) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Guard runs fn and returns its panic, if any, as an [*Error].
func Guard(fn func()) (err error) {
	defer Recover(&err)
	fn()
	return nil
}

// Recover must be deferred. If the function that defers it panics, Recover sets
// err to the panic.
func Recover(err *error) {
	if why := recover(); why != nil {
		*err = &Error{Value: why, Stack: debug.Stack()}
	}
}
