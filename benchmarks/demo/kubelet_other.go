//go:build !linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// throughKubelet is never called, because cannotMount finds no /dev/fuse.
func throughKubelet(context.Context, *environment) (result, error) {
	return result{}, fmt.Errorf("a mount on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
