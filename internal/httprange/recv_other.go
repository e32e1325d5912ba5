//go:build !linux

package httprange

import "net"

// receiver is what makes reads cheaper on Linux.
type receiver struct{ left int64 }

func newReceiver(net.Conn) *receiver { return nil }

func (*receiver) Read([]byte) (int, error) { return 0, nil }
