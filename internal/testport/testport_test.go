package testport_test

import (
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/penstock/penstock/internal/testport"
)

// TestReservedPort checks that a reserved port refuses connections, that its owner
// can listen any number of times, and that a listener on any port does not get
// it.
func TestReservedPort(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		p, err := testport.Reserve(host)
		if err != nil {
			if host == "::1" && errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
				continue // a machine without IPv6
			}
			t.Fatal(err)
		}
		for range 2 {
			if c, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dial: %v, %v", c, err)
			}
			l, err := net.Listen("tcp", p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			l.Close()
		}
		if runtime.GOOS == "linux" {
			for range 2000 { // all stay open, so the system chooses each port once
				l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if l.Addr().String() == p.Addr() {
					t.Fatal("a listener on any port got the reserved port")
				}
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := testport.Reserve("localhost"); err == nil {
		t.Error("a host name was accepted as an address")
	}
	if a, b := testport.Addr(t), testport.Addr(t); a == b {
		t.Errorf("%s twice", a)
	}
}
