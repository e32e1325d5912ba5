//go:build amd64 || arm64

package fastpath

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A refused system call is detected when the sockets are opened. The fast path
// works without shutdown.
func TestRefusedSystemCallsAreToldAtStart(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: takes seconds")
	}
	for _, tt := range []struct {
		calls string
		want  []string
	}{
		{"recvmmsg", []string{"UDP: the kernel, or a sandbox such as a seccomp profile, refuses a system call that it needs: recvmmsg: ", "TCP: "}},
		{"sendmmsg", []string{"UDP: the kernel, or a sandbox such as a seccomp profile, refuses a system call that it needs: sendmmsg: ", "TCP: "}},
		{"recvmmsg sendmmsg", []string{"sendmmsg: ", "TCP: "}},
		{"recvfrom", []string{"recvfrom: ", "recvfrom: "}},
		{"sendto", []string{"sendto: ", "sendto: "}},
		{"shutdown", []string{"UDP ends: <nil> true", "TCP ends: <nil>"}},
	} {
		for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
			t.Run(fmt.Sprint(tt.calls, " ", errno), func(t *testing.T) {
				t.Setenv("PORT", freePort(t))
				p := start(t, "sandbox", fmt.Sprint(int(errno)), tt.calls)
				for _, want := range tt.want {
					if got := p.line(); !strings.Contains(got, want) || strings.HasSuffix(want, ": ") && want != "TCP: " && !strings.HasSuffix(got, errno.Error()) {
						t.Errorf("%q, want %q", got, want)
					}
				}
			})
		}
	}
}

// A call that is refused later ends the workers, so that the other sockets get
// the packets. Otherwise the workers would use a CPU each to try again.
func TestRefusedSystemCallsEndTheWorker(t *testing.T) {
	for _, call := range []string{"recvmmsg", "sendmmsg"} {
		t.Run(call, func(t *testing.T) {
			addr := net.JoinHostPort("127.0.0.1", freePort(t))
			t.Setenv("ADDR", addr)
			closeIt, err := stock(addr, "own")
			if err != nil {
				t.Fatal(err)
			}
			defer closeIt()
			p := start(t, "sandbox", "1", "late", call)
			report := make(chan string)
			go func() {
				for {
					text := p.line()
					if strings.Contains(text, "worker 0 has ended") || text == "" {
						report <- text
						return
					}
				}
			}()
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var got string
			for {
				// Ask from many ports, because some lead to the worker until it
				// ends.
				if d, err := net.Dial("udp", addr); err == nil {
					_, _ = d.Write([]byte("x"))
					d.Close()
				}
				select {
				case got = <-report:
				case <-time.After(time.Millisecond):
					continue
				}
				if !strings.Contains(got, call+": operation not permitted") {
					t.Errorf("%q", got)
				}
				break
			}
			for range 50 {
				if got := ask(t, addr, "x"); got != "own" {
					t.Fatalf("%q", got)
				}
			}
		})
	}
}

func TestTroubleThatPassesAndThatLasts(t *testing.T) {
	t.Parallel()
	var tr trouble
	step := func(errno unix.Errno, pause time.Duration, lasts bool) {
		t.Helper()
		if p, l := tr.receiving(errno); p != pause || l != lasts {
			t.Errorf("%v: %v %v, want %v %v", errno, p, l, pause, lasts)
		}
	}
	for _, errno := range []unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EBADF, unix.ENOTSOCK, unix.EFAULT, unix.EINVAL} {
		step(errno, 0, true)
		tr.received()
	}
	for range 1000 {
		step(unix.EAGAIN, 0, false)
		step(unix.EINTR, 0, false)
	}
	// The network reports clients that have gone.
	for range unpaused {
		step(unix.ECONNREFUSED, 0, false)
	}
	step(unix.ENOMEM, 2*time.Millisecond, false)
	step(unix.ENOMEM, 4*time.Millisecond, false)
	tr.received()
	step(unix.ENOMEM, 0, false)
	total := time.Duration(0)
	for i := 1; i < mostInRow; i++ {
		p, lasts := tr.receiving(unix.ENOMEM)
		if total += p; lasts || p > longestPause {
			t.Fatalf("failure %d: %v %v", i+1, p, lasts)
		}
	}
	if step(unix.ENOMEM, 0, true); total < time.Second || total > 10*time.Second {
		t.Errorf("given up after %v", total)
	}
	for i := 1; i < mostAlone; i++ {
		if tr.sentAlone() {
			t.Errorf("lasts after %d", i)
		}
	}
	if !tr.sentAlone() {
		t.Error("sendmmsg is refused for ever")
	}
}
