//go:build !linux

package testport

import (
	"context"
	"net"
	"os"
	"sync"
)

var given sync.Map // ports that were chosen before

// reserve chooses a port that was not chosen before.
func reserve(ip net.IP) (*os.File, int, error) {
	for {
		var lc net.ListenConfig
		l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(ip.String(), "0"))
		if err != nil {
			return nil, 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if _, again := given.LoadOrStore(port, true); !again {
			return nil, port, nil
		}
	}
}
