//go:build !linux

package dnsplugin

import (
	"context"
	"errors"
	"net"
	"os"
)

// listenPrivately listens at path with a socket that other users cannot connect
// to. Between its two calls only the umask protects the socket, so the path
// should be in a private directory.
func listenPrivately(path string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, controlMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
