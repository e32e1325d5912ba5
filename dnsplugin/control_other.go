//go:build !linux

package dnsplugin

import (
	"context"
	"errors"
	"net"
	"os"
)

// listenPrivately listens at path with a socket that nobody else may connect
// to. Between the two calls the umask decides: put it into a directory of its own.
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
