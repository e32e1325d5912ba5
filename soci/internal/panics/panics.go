// Package panics turns a panic in code that reads foreign bytes into an error, so that an
// image that somebody crafted, or a decoder's bug, costs its layer and not the process
// (docs/decisions/0005-panics.md).
//
//	err := panics.Guard(func() { out = decode(in) })
//
// The function must hold no lock and leave nothing half changed that others go on with:
// what it worked on is given up. Not done here: errors of the runtime that can not be
// recovered, such as concurrent writes to a map.
package panics

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Err matches every [Error].
var Err = errors.New("internal error")

// Error is a panic that was contained.
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

// Guard runs fn and returns its panic, if it had one, as an [*Error].
func Guard(fn func()) (err error) {
	defer Recover(&err)
	fn()
	return nil
}

// Recover makes err the panic of the function that deferred it.
func Recover(err *error) {
	if why := recover(); why != nil {
		*err = &Error{Value: why, Stack: debug.Stack()}
	}
}
