package nic

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// canBindDevice reports whether this process may bind sockets to a device. It tries
// with a socket of its own.
func canBindDevice(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.BindToDevice(fd, name) == nil
}

// bindDevice makes a socket use one interface only.
func bindDevice(c syscall.RawConn, name string) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); cerr != nil {
		return cerr
	}
	return err
}
