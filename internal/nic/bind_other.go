//go:build !linux

package nic

import (
	"errors"
	"syscall"
)

func canBindDevice(string) bool { return false }

func bindDevice(syscall.RawConn, string) error { return errors.ErrUnsupported }
