//go:build !linux || !(amd64 || arm64)

package main

import (
	"context"
	"errors"
)

// runEcho is the role "echo" of the control, which needs Linux.
func runEcho(context.Context, []string) error {
	return errors.New("the control needs Linux on amd64 or arm64")
}
