//go:build !linux

package untar

import (
	"context"
	"errors"
	"io"
	"os"
)

// errLinux is the error of other systems, which lack the owners, devices and
// attributes of layers.
var errLinux = errors.New("unpacking needs Linux")

// Extract is not available on this system.
func Extract(context.Context, io.Reader, string, Options) (*Layer, error) { return nil, errLinux }

// Merge is not available on this system.
func Merge(context.Context, string, *Layer) error { return errLinux }

// OpenLayer is not available on this system.
func OpenLayer(string, Form) (*Layer, error) { return nil, errLinux }

// Settle is not available on this system.
func (l *Layer) Settle() error { return errLinux }

// Overlay is not available on this system.
func (l *Layer) Overlay(context.Context, Form, []*Layer) error { return errLinux }

// RemoveAll removes dir and everything in it.
func RemoveAll(dir string) error { return os.RemoveAll(dir) }

// SyncFS does nothing on this system, because no layer can be extracted.
func SyncFS(string) error { return nil }
