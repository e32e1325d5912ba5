package dnsplugin

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// listenPrivately listens at path with a socket that other users can never
// connect to: Linux gives the file the mode that the socket has when it is bound.
func listenPrivately(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), controlMode) })
		return errors.Join(err, chmod)
	}}
	return lc.Listen(context.Background(), "unix", path)
}
