//go:build !linux || !(amd64 || arm64)

package fastpath

import "net/netip"

// Group cannot be made on this system.
type Group struct{}

// Listen returns ErrUnsupported on this system.
func Listen(string, Options, Handler) (*Group, error) { return nil, ErrUnsupported }

// Swap does nothing on this system.
func (*Group) Swap(Handler) {}

// Close does nothing on this system.
func (*Group) Close() error { return nil }

// Workers is 0 on this system.
func (*Group) Workers() int { return 0 }

// Steered is false on this system.
func (*Group) Steered() (bool, error) { return false, ErrUnsupported }

// Recheck does nothing on this system.
func Recheck() {}

// Failed is nil on this system.
func (*Group) Failed() error { return nil }

// TakeUnsent is 0 on this system.
func (*Group) TakeUnsent() uint64 { return 0 }

// Counts is zero on this system.
func (*Group) Counts() Counts { return Counts{} }

// Batch is empty on this system.
type Batch struct{}

// Len is 0 on this system.
func (*Batch) Len() int { return 0 }

// Packet returns nothing on this system.
func (*Batch) Packet(int) []byte { return nil }

// Buffer returns nothing on this system.
func (*Batch) Buffer() []byte { return nil }

// Reply does nothing on this system.
func (*Batch) Reply(int, int) {}

// Resume does nothing on this system.
func (*Batch) Resume() {}

// IPv4 is false on this system.
func (*Batch) IPv4(int) bool { return false }

// Origin returns the zero Origin on this system.
func (*Batch) Origin(int) Origin { return Origin{} }

// Origin is where a packet came from.
type Origin struct{}

func (*Origin) peer() netip.AddrPort { return netip.AddrPort{} }

// Send returns ErrUnsupported on this system.
func (*Origin) Send([]byte) error { return ErrUnsupported }
