//go:build !linux || !(amd64 || arm64)

package main

import (
	"context"
	"errors"
	"time"
)

// flood needs a call of Linux.
func flood(context.Context, string, [][]byte, time.Time, int) (int64, error) {
	return 0, errors.New("the flood needs Linux on amd64 or arm64")
}
