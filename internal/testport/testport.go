package testport

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// Port is a reserved TCP port of this machine. The reservation ends with Close,
// or when the last reference to the Port is gone.
type Port struct {
	addr string
	f    *os.File // its socket, or nil where ports cannot be reserved
}

// Reserve reserves a free port of host, which must be an IP address of this
// machine.
func Reserve(host string) (*Port, error) {
	ip := net.ParseIP(host)
	if ip == nil {
		return nil, fmt.Errorf("testport: %q is not an IP address", host)
	}
	f, port, err := reserve(ip)
	if err != nil {
		return nil, fmt.Errorf("testport: reserve a port of %s: %w", host, err)
	}
	return &Port{addr: net.JoinHostPort(host, strconv.Itoa(port)), f: f}, nil
}

// Addr returns the port's address, "host:port".
func (p *Port) Addr() string { return p.addr }

// Close releases the port.
func (p *Port) Close() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

// T has the methods of a test that Addr calls. *testing.T and *testing.B
// implement it.
type T interface {
	Helper()
	Cleanup(func())
	Fatal(args ...any)
}

// Addr returns an address of the loopback interface that is reserved until the
// end of the test. It refuses connections until the test listens there.
func Addr(t T) string {
	t.Helper()
	p, err := Reserve("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p.Addr()
}
