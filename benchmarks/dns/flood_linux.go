//go:build amd64 || arm64

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flood sends packets until end, in batches and over several sockets, from a
// thread on the given CPU, and returns how many the kernel took. A negative
// CPU is any.
func flood(ctx context.Context, addr string, packets [][]byte, end time.Time, cpu int) (int64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cpu >= 0 {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return 0, os.NewSyscallError("sched_setaffinity", err)
		}
	}
	var fds []uintptr
	var conns []*net.UDPConn // kept, so that the collector does not close them
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range floodFlows {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp4", addr)
		if err != nil {
			return 0, err
		}
		uc, ok := c.(*net.UDPConn)
		if !ok {
			return 0, fmt.Errorf("no UDP socket but %T", c)
		}
		conns = append(conns, uc)
		_ = uc.SetReadBuffer(4096) // replies are not read
		raw, err := uc.SyscallConn()
		if err != nil {
			return 0, err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, fd) }); err != nil {
			return 0, err
		}
	}
	headers, iovs := make([]mmsghdr, echoBatch), make([]unix.Iovec, echoBatch)
	for i := range headers {
		headers[i].hdr.Iov, headers[i].hdr.Iovlen = &iovs[i], 1
	}
	sent, next := int64(0), 0
	for k := 0; ctx.Err() == nil; k++ {
		if k%64 == 0 && time.Now().After(end) {
			break
		}
		for i := range iovs {
			p := packets[next]
			next = (next + 1) % len(packets)
			iovs[i].Base = &p[0]
			iovs[i].SetLen(len(p))
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fds[k%len(fds)], uintptr(unsafe.Pointer(&headers[0])), echoBatch, unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
		if errno == 0 {
			sent += int64(n)
		}
	}
	return sent, ctx.Err()
}
