//go:build !linux

package netlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
)

var errLinux = errors.New("needs Linux: network namespaces")

// Available returns the reason why labs can't be built here.
func Available() error { return errLinux }

// Lab is a network; it can't be built on this system.
type Lab struct{}

// New fails on this system.
func New(Options) (*Lab, error) { return nil, errLinux }

// Sweep does nothing on this system.
func Sweep() {}

// Close does nothing on this system.
func (l *Lab) Close() error { return nil }

// Addr returns the zero Addr on this system.
func (l *Lab) Addr(host string, i int) netip.Addr { return netip.Addr{} }

// Addr6 returns the zero Addr on this system.
func (l *Lab) Addr6(host string, i int) netip.Addr { return netip.Addr{} }

// SetRate fails on this system.
func (l *Lab) SetRate(i int, rateAB, rateBA int64) error { return errLinux }

// SetLink fails on this system.
func (l *Lab) SetLink(i int, up bool) error { return errLinux }

// Do fails on this system.
func (l *Lab) Do(host string, f func() error) error { return errLinux }

// Listen fails on this system.
func (l *Lab) Listen(host, network, address string) (net.Listener, error) { return nil, errLinux }

// DialContext returns a function that fails on this system.
func (l *Lab) DialContext(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errLinux }
}

// Process is a command that runs inside a host.
type Process struct{}

// Start fails on this system.
func (l *Lab) Start(host string, cmd *exec.Cmd) (*Process, error) { return nil, errLinux }

// Run fails on this system.
func (l *Lab) Run(ctx context.Context, host string, cmd *exec.Cmd) error { return errLinux }

// Wait fails on this system.
func (p *Process) Wait() error { return errLinux }

// Signal fails on this system.
func (p *Process) Signal(sig syscall.Signal) error { return errLinux }

// Pid returns 0 on this system.
func (p *Process) Pid() int { return 0 }
