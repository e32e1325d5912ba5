//go:build amd64 || arm64

package fastpath

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asChild is the environment variable that names the role of the test binary as
// another process.
const asChild = "PENSTOCK_FASTPATH_TEST_CHILD"

// process is a running child.
type process struct {
	*exec.Cmd
	out  *bufio.Scanner
	done func()
}

// start runs a child and waits for its first line.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self)}
	p.Env = append(os.Environ(), asChild+"="+strings.Join(args, " "))
	p.Stderr = os.Stderr
	in, err := p.StdinPipe() // ends with this process, and the child with it
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.done = func() {
		_ = p.Process.Kill()
		_ = p.Wait()
		in.Close()
	}
	t.Cleanup(p.done)
	p.out = bufio.NewScanner(out)
	if got := p.line(); got != "ready" {
		t.Fatalf("the child says %q", got)
	}
	return p
}

// line returns the next line of the child, "" at its end.
func (p *process) line() string {
	p.out.Scan()
	return p.out.Text()
}

// child runs the test binary in a role instead of its tests.
func child(args []string) {
	var err error
	switch args[0] {
	case "sockets":
		err = beSockets(args[1], args[2])
	case "sandbox":
		err = beSandboxed(args[1], args[2:])
	default:
		err = fmt.Errorf("what is %q", args)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// beSockets answers "other" at addr, over n sockets of both kinds.
func beSockets(addr, n string) error {
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	for range count {
		if _, err := stock(addr, "other"); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// stock opens a UDP socket and a listener at addr, as a server without the fast
// path does. It answers everything with mark.
func stock(addr, mark string) (closeIt func(), err error) {
	lc := net.ListenConfig{Control: reusePort}
	u, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, err
	}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		u.Close()
		return nil, err
	}
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			if n == 12 && buf[2]&0x80 != 0 {
				continue // a response, as the servers do
			}
			_, _ = u.WriteTo([]byte(mark), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var length [2]byte
				if _, err := io.ReadFull(c, length[:]); err == nil {
					_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(length[:])))
					_, _ = c.Write(frames(mark))
				}
			}()
		}
	}()
	return func() {
		u.Close()
		l.Close()
	}, nil
}

// beSandboxed installs a filter that refuses system calls with an errno, tries
// the fast path, and prints the result.
func beSandboxed(errno string, calls []string) error {
	number, err := strconv.Atoi(errno)
	if err != nil {
		return err
	}
	numbers := map[string]uint32{
		"recvmmsg": unix.SYS_RECVMMSG, "sendmmsg": unix.SYS_SENDMMSG, "shutdown": unix.SYS_SHUTDOWN, "recvfrom": unix.SYS_RECVFROM, "sendto": unix.SYS_SENDTO,
	}
	fmt.Println("ready")
	var late *Group
	for _, call := range calls {
		if call == "late" { // the sockets are there already
			if late, err = Listen(os.Getenv("ADDR"), Options{Workers: 1, Report: func(_ bool, text string) { fmt.Println(text) }}, &echo{mark: "fast"}); err != nil {
				return err
			}
			continue
		}
		if err := deny(numbers[call], uint32(number)); err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
	}
	if late != nil {
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	g, err := Listen("127.0.0.1:"+os.Getenv("PORT"), Options{Workers: 1}, &echo{})
	if err != nil {
		fmt.Println("UDP:", err)
	} else {
		began := time.Now()
		fmt.Println("UDP ends:", g.Close(), time.Since(began) < inTime)
	}
	s, err := ListenStreams("127.0.0.1:"+os.Getenv("PORT"), StreamOptions{Listeners: 1, Limits: patient}, &streamEcho{})
	if err != nil {
		fmt.Println("TCP:", err)
	} else {
		fmt.Println("TCP ends:", s.Close())
	}
	return nil
}

// deny makes a system call fail with errno in all threads of the process, from
// now on.
func deny(call, errno uint32) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	return errnoErr(e)
}
