//go:build amd64 || arm64

package main

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inSandbox makes the program run behind a filter that refuses system calls:
// their names, with "=" and the number of the error.
const inSandbox = "PENSTOCK_COREDNS_TEST_SANDBOX"

var sandboxed = map[string]uintptr{"recvmmsg": unix.SYS_RECVMMSG, "sendmmsg": unix.SYS_SENDMMSG, "shutdown": unix.SYS_SHUTDOWN}

// enterSandbox does it, for all threads and for ever.
func enterSandbox(what string) error {
	calls, number, _ := strings.Cut(what, "=")
	var errno uint32
	if _, err := fmt.Sscan(number, &errno); err != nil {
		return err
	}
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	for name := range strings.SplitSeq(calls, ",") {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(sandboxed[name]), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno})
	}
	return installFilter(append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}))
}

// installFilter puts all threads behind a filter, for ever.
func installFilter(prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		return e
	}
	return nil
}

// Behind a profile recorded from CoreDNS, which has neither call, its own
// sockets serve as ever, one line says why, and SIGTERM ends the program.
func TestSandboxLeavesCoreDNSsOwnSockets(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: takes seconds")
	}
	for _, tt := range []struct{ calls, says string }{
		{"recvmmsg", "recvmmsg: "},
		{"sendmmsg", "sendmmsg: "},
		{"recvmmsg,sendmmsg", "sendmmsg: "},
		{"shutdown", "workers, batches of"},
	} {
		for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOSYS} {
			t.Run(fmt.Sprint(tt.calls, " ", errno), func(t *testing.T) {
				t.Setenv(inSandbox, fmt.Sprintf("%s=%d", tt.calls, int(errno)))
				n := startNode(t, self(t), "", "127.0.0.1", "")
				for _, network := range []string{"udp", "tcp"} {
					if got := n.asked(t, network, 30, time.Minute); got != 30 {
						t.Errorf("%s: %d of 30 answered", network, got)
					}
				}
				began := cpuOf(t, n)
				if resp, err := http.Get("http://127.0.0.1:" + n.metrics + "/metrics"); err == nil {
					resp.Body.Close()
				}
				if used := cpuOf(t, n) - began; used > time.Second {
					t.Errorf("%v of CPU for one request", used)
				}
				if err := n.stop(); err != nil {
					t.Error(err)
				}
				out := n.out.String()
				if got := strings.Count(out, tt.says); got != 1 {
					t.Errorf("%d lines with %q", got, tt.says)
				}
				if tt.calls != "shutdown" && !strings.Contains(out, "No fast path at "+"dns://"+n.addr+": the kernel, or a sandbox such as a seccomp profile, refuses") {
					t.Error("no line says why")
				}
			})
		}
	}
}

// cpuOf is the CPU time that the program has used.
func cpuOf(t *testing.T, n *node) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
