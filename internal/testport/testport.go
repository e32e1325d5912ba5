package testport

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// Port is a TCP port of this machine. It is kept until it is closed, or until nothing
// refers to it any more.
type Port struct {
	addr string
	f    *os.File // its socket; nil where ports can't be kept
}

// Reserve takes a free port of a host, which is an IP address of this machine.
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

// Close gives the port back.
func (p *Port) Close() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

// T is what a test has to do with its ports; *testing.T and *testing.B are.
type T interface {
	Helper()
	Cleanup(func())
	Fatal(args ...any)
}

// Addr returns an address of the loopback interface at which nobody listens, and that is
// the test's until its end: it refuses connections until the test listens there.
func Addr(t T) string {
	t.Helper()
	p, err := Reserve("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p.Addr()
}
