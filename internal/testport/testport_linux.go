package testport

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// reserve binds a socket that never listens. Its option SO_REUSEADDR lets other
// sockets with that option listen on the port. Go sets the option for listeners.
func reserve(ip net.IP) (*os.File, int, error) {
	family, at := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(ip.To16()[12:])})
	if ip.To4() == nil {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(ip.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fd), "reserved port")
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	if err := unix.Bind(fd, at); err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	got, err := unix.Getsockname(fd)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	if a, ok := got.(*unix.SockaddrInet4); ok {
		return f, a.Port, nil
	}
	return f, got.(*unix.SockaddrInet6).Port, nil
}
