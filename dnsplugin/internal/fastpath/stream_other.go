//go:build !linux || !(amd64 || arm64)

package fastpath

import (
	"crypto/tls"
	"net"
	"net/netip"
)

// Streams cannot be made on this system.
type Streams struct{}

// ListenStreams returns ErrUnsupported on this system.
func ListenStreams(string, StreamOptions, StreamHandler) (*Streams, error) {
	return nil, ErrUnsupported
}

// Swap does nothing on this system.
func (*Streams) Swap(StreamHandler, StreamLimits) {}

// SwapTLS does nothing on this system.
func (*Streams) SwapTLS(*tls.Config) {}

// Close does nothing on this system.
func (*Streams) Close() error { return nil }

// Steered is false on this system.
func (*Streams) Steered() (bool, error) { return false, ErrUnsupported }

// Failed is nil on this system.
func (*Streams) Failed() error { return nil }

// Conns is 0 on this system.
func (*Streams) Conns() int { return 0 }

// Take returns zeros on this system.
func (*Streams) Take() StreamCounts { return StreamCounts{} }

// Conn is a connection. None exists on this system.
type Conn struct {
	// Hint is for use by the handler.
	Hint uint32
}

// Peer returns the zero address on this system.
func (*Conn) Peer() netip.AddrPort { return netip.AddrPort{} }

// LocalAddr is nil on this system.
func (*Conn) LocalAddr() net.Addr { return nil }

// RemoteAddr is nil on this system.
func (*Conn) RemoteAddr() net.Addr { return nil }

// ConnectionState is nil on this system.
func (*Conn) ConnectionState() *tls.ConnectionState { return nil }

// Handler is nil on this system.
func (*Conn) Handler() StreamHandler { return nil }

// SendBytes returns ErrUnsupported on this system.
func (*Conn) SendBytes([]byte) error { return ErrUnsupported }

// Hold does nothing on this system.
func (*Conn) Hold() {}

// Done does nothing on this system.
func (*Conn) Done() {}

// Busy is false on this system.
func (*Conn) Busy() bool { return false }

// Send returns ErrUnsupported on this system.
func (*Conn) Send([]byte) error { return ErrUnsupported }

// SendAll returns ErrUnsupported on this system.
func (*Conn) SendAll([]byte) error { return ErrUnsupported }

// Close does nothing on this system.
func (*Conn) Close() error { return nil }
