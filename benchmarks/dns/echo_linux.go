//go:build amd64 || arm64

package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// echoBatch is how many datagrams the control takes at once: as the fast
	// path does.
	echoBatch = 64
	// echoSize is the size of its replies, in bytes: about the mean of the
	// mix's answers.
	echoSize = 150
	// echoBuffer is more than any question here.
	echoBuffer = 512
)

// runEcho is the role "echo", a server that costs only the kernel's work. It
// takes datagrams in batches, marks each as a response and sends it back, with
// a socket and a thread for each of -workers. No cache can be cheaper.
func runEcho(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("echo", flag.ContinueOnError)
	addr := fs.String("addr", "", "address to answer at, host:port")
	workers := fs.Int("workers", 1, "sockets with a thread each")
	if err := fs.Parse(args); err != nil {
		return err
	}
	// Threads wait in the kernel without notice to the scheduler.
	runtime.GOMAXPROCS(*workers + 1)
	failed := make(chan error, *workers)
	for range *workers {
		go func() { failed <- echo(ctx, *addr) }()
	}
	select {
	case <-ctx.Done():
		os.Exit(0) // the threads wait in the kernel
		return nil
	case err := <-failed:
		return err
	}
}

// mmsghdr is struct mmsghdr of the kernel.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func echo(ctx context.Context, addr string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := echoSocket(ctx, addr)
	if err != nil {
		return err
	}
	headers, iovs := make([]mmsghdr, echoBatch), make([]unix.Iovec, echoBatch)
	names, bytes := make([]unix.RawSockaddrInet4, echoBatch), make([]byte, echoBatch*echoBuffer)
	for i := range headers {
		iovs[i].Base = &bytes[i*echoBuffer]
		headers[i].hdr.Iov, headers[i].hdr.Iovlen = &iovs[i], 1
		headers[i].hdr.Name = (*byte)(unsafe.Pointer(&names[i])) //nolint:gosec // the kernel wants bytes
	}
	call := func(number, n, flags uintptr) int {
		got, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])), n, flags, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
		if errno != 0 {
			return 0
		}
		return int(got)
	}
	for {
		for i := range headers {
			iovs[i].SetLen(echoBuffer)
			headers[i].hdr.Namelen = unix.SizeofSockaddrInet4
		}
		n := call(unix.SYS_RECVMMSG, echoBatch, unix.MSG_WAITFORONE)
		for i := range n {
			bytes[i*echoBuffer+2] |= 0x80 // QR
			iovs[i].SetLen(max(echoSize, int(headers[i].len)))
		}
		if n > 0 {
			call(unix.SYS_SENDMMSG, uintptr(n), unix.MSG_DONTWAIT) // a reply to a client that has gone is lost
		}
	}
}

// echoSocket binds one of a group of sockets.
func echoSocket(ctx context.Context, addr string) (int, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		})
	}}
	pc, err := lc.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return -1, err
	}
	defer pc.Close()
	uc, ok := pc.(*net.UDPConn)
	if !ok {
		return -1, fmt.Errorf("no UDP socket but %T", pc)
	}
	f, err := uc.File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.SetNonblock(fd, false)
}
