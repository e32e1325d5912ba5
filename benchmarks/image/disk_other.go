//go:build !linux

package main

import "errors"

// Accounting reads /proc and statfs. On other systems the program builds, and
// reports that it cannot run.
var errLinux = errors.New("this benchmark needs Linux")

func taken(string) (int64, error) { return 0, errLinux }
func flush(string) error          { return errLinux }
func mountMemory(string) error    { return errLinux }
func unmount(string)              {}
func mkfifo(string, uint32) error { return errLinux }
