package nic

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// canBindDevice tries the binding on a socket that is thrown away.
func canBindDevice(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.BindToDevice(fd, name) == nil
}

// bindDevice makes a socket send through one interface only.
func bindDevice(c syscall.RawConn, name string) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); cerr != nil {
		return cerr
	}
	return err
}
