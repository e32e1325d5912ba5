//go:build amd64 || arm64

package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is one UDP socket in blocking mode. It is not in the runtime's poller,
// because a worker that waits in the kernel is woken directly.
type socket struct {
	_        [line]byte // send writes mu, and workers read the fields of other sockets nearby
	fd       int
	wildcard bool // bound to all addresses, so each packet carries its own

	closing atomic.Bool
	unsent  atomic.Uint64 // replies outside of a batch that the kernel rejected
	mu      sync.RWMutex  // held for reading while send uses fd; guards gone
	gone    bool
	_       [line]byte
}

// listen binds a socket to addr the way CoreDNS does, so that both are in one
// group of SO_REUSEPORT.
func listen(addr string) (*socket, error) {
	lc := net.ListenConfig{Control: reusePort}
	pc, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, err
	}
	defer pc.Close() // fd is a copy of its own
	uc, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("no UDP socket but %T", pc)
	}
	f, err := uc.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Duplicate the descriptor, so that no finalizer closes it.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	s := &socket{fd: fd}
	if err := s.prepare(uc.LocalAddr()); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// prepare sets the options of the socket.
func (s *socket) prepare(local net.Addr) error {
	if err := unix.SetNonblock(s.fd, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	// Where the kernel refuses shutdown, the timeout ends a blocked receive.
	wait := unix.NsecToTimeval(receiveWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	// Root may exceed the limit of the system.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	ua, ok := local.(*net.UDPAddr)
	if !ok || !ua.IP.IsUnspecified() {
		return nil
	}
	s.wildcard = true
	if domain, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_INET6 {
		return os.NewSyscallError("setsockopt IPV6_RECVPKTINFO", unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	return os.NewSyscallError("setsockopt IP_PKTINFO", unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

// control calls f with the descriptor, unless the socket is closed.
func (s *socket) control(f func(fd int)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gone {
		return net.ErrClosed
	}
	f(s.fd)
	return nil
}

// wake makes a blocked receive return, at once or within receiveWait. A receive
// that does not block can still take queued packets.
func (s *socket) wake() {
	s.closing.Store(true)
	// The call fails because the socket is not connected, but it wakes the
	// worker.
	_ = unix.Shutdown(s.fd, unix.SHUT_RD)
}

// close closes the socket. The worker must have ended.
func (s *socket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	s.gone = true
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// send sends a reply outside of a batch.
func (s *socket) send(o *Origin, p []byte) error {
	if len(p) == 0 {
		return errors.New("fastpath: an empty packet")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gone {
		return net.ErrClosed
	}
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	h := unix.Msghdr{Name: &o.name[0], Namelen: uint32(o.nameLen), Iov: &iov, Iovlen: 1}
	if o.controlLen > 0 {
		h.Control = &o.control[0]
		h.SetControllen(int(o.controlLen))
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_NOSIGNAL) //nolint:gosec // the kernel takes pointers as numbers
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			s.unsent.Add(1)
		}
		return os.NewSyscallError("sendmsg", errnoErr(errno))
	}
}

func errnoErr(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
