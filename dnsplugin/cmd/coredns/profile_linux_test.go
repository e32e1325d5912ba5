//go:build amd64 || arm64

package main

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The seccomp profile of deploy/seccomp: the program does all of its work
// behind it, as behind the profile that a container runtime has installed.

const (
	profilePath = deployDir + "/seccomp/coredns.json"
	// inProfile makes the program install the profile in the named file, and
	// start itself once more or, without arguments, try calls that must fail.
	inProfile = "PENSTOCK_COREDNS_TEST_PROFILE"
	// traceTo makes TestWorksBehindItsProfile record instead: a file for
	// strace.
	traceTo = "PENSTOCK_COREDNS_TRACE"
	// refusal is an error that no system call has: it can only come from our
	// filter.
	refusal = 4000
)

// profile is the part of an OCI profile (linux.seccomp) that ours has.
type profile struct {
	DefaultAction   string
	DefaultErrnoRet uint32
	Architectures   []string
	Syscalls        []rule
}

// rule allows system calls with certain arguments.
type rule struct {
	Comment string
	Names   []string
	Action  string
	Args    []struct {
		Index           uint32
		Value, ValueTwo uint64
		Op              string
	}
}

func readProfile(path string) (p profile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	return p, d.Decode(&p)
}

// filter compiles the profile. otherwise is the action for calls that it does
// not allow.
func (p profile) filter(otherwise uint32) ([]unix.SockFilter, error) {
	// Where the kernel's struct seccomp_data has them; both systems are
	// little-endian.
	const nr, arch, args = 0, 4, 16
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	returns := func(what uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}
	}
	is := func(v uint32, skip int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jf: uint8(skip)} //nolint:gosec // G115: a few instructions
	}
	audit := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	refuse := returns(otherwise)
	// Another architecture: its numbers mean other calls.
	prog := []unix.SockFilter{load(arch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: audit, Jt: 1}, refuse, load(nr)}
	for _, rule := range p.Syscalls {
		if rule.Action != "SCMP_ACT_ALLOW" {
			return nil, fmt.Errorf("%v: action %s", rule.Names, rule.Action)
		}
		// What must hold of the arguments, instructions that end with a jump
		// over the rest of the rule if it does not.
		var tests []unix.SockFilter
		for _, a := range rule.Args {
			mask, want := ^uint64(0), a.Value
			switch a.Op {
			case "SCMP_CMP_EQ":
			case "SCMP_CMP_MASKED_EQ":
				mask, want = a.Value, a.ValueTwo
			default:
				return nil, fmt.Errorf("%v: operator %s", rule.Names, a.Op)
			}
			for half := range uint32(2) {
				mask, want := uint32(mask>>(32*half)), uint32(want>>(32*half)) //nolint:gosec // G115: a half
				if mask == 0 {
					continue
				}
				tests = append(tests, load(args+8*a.Index+4*half),
					unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}, is(want, 0))
			}
		}
		for i := range tests {
			if tests[i].Code&0x07 == unix.BPF_JMP {
				tests[i].Jf = uint8(len(tests) - i) //nolint:gosec // G115: a few instructions
			}
		}
		for _, name := range rule.Names {
			number, ok := callNumbers[name]
			if !ok {
				return nil, fmt.Errorf("%s is in no table of system calls: add it to callNumbers", name)
			}
			if number == callElsewhere {
				continue
			}
			// After tests of arguments the number is loaded again, for the next
			// rule.
			prog = append(prog, is(number, len(tests)+1))
			prog = append(append(prog, tests...), returns(unix.SECCOMP_RET_ALLOW))
			if len(tests) > 0 {
				prog = append(prog, load(nr))
			}
		}
	}
	return append(prog, refuse), nil
}

// enterProfile installs the profile at path before the program starts, as a
// container runtime does.
func enterProfile(path string) error {
	p, err := readProfile(path)
	if err != nil {
		return err
	}
	// The signal ends the program with the place of the call, where EPERM may
	// be taken for an answer, and the loss goes unnoticed.
	otherwise := uint32(unix.SECCOMP_RET_TRAP)
	if len(os.Args) == 1 {
		otherwise = unix.SECCOMP_RET_ERRNO | refusal
	}
	prog, err := p.filter(otherwise)
	if err != nil {
		return err
	}
	if err := installFilter(prog); err != nil {
		return fmt.Errorf("%w: %w", errNoSeccomp, err)
	}
	if len(os.Args) == 1 {
		tryRefused()
		return nil
	}
	if err := os.Unsetenv(inProfile); err != nil {
		return err
	}
	return syscall.Exec(os.Args[0], os.Args, os.Environ()) //nolint:gosec // G204: this program
}

var errNoSeccomp = errors.New("needs seccomp")

// tryRefused makes system calls that the profile does not have and prints the
// ones that succeed.
func tryRefused() {
	for name, call := range map[string]func() error{
		"mount":               func() error { return unix.Mount("none", "/nowhere", "tmpfs", 0, "") },
		"ptrace":              func() error { return unix.PtraceAttach(0) },
		"unshare":             func() error { return unix.Unshare(0) },
		"personality":         func() error { _, _, e := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0); return number(e) },
		"bpf":                 func() error { _, _, e := unix.RawSyscall(unix.SYS_BPF, 0, 0, 0); return number(e) },
		"io_uring_setup":      func() error { _, _, e := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 0, 0, 0); return number(e) },
		"keyctl":              func() error { _, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, 0, 0, 0, 0); return err },
		"setuid":              func() error { return unix.Setreuid(-1, -1) },
		"socket AF_PACKET":    func() error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
		"socket AF_VSOCK":     func() error { _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); return err },
		"clone CLONE_NEWNS":   func() error { return cloned(unix.CLONE_NEWNS) },
		"clone CLONE_NEWUSER": func() error { return cloned(unix.CLONE_NEWUSER) },
	} {
		if err := call(); !errors.Is(err, syscall.Errno(refusal)) {
			fmt.Printf("%s: %v\n", name, err)
		}
	}
	// Calls in the profile succeed, also after the rules with arguments.
	if _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); err != nil {
		fmt.Println("netlink:", err)
	}
	if err := cloned(0); err != nil {
		fmt.Println("clone:", err)
	}
	if _, err := os.Stat("/"); err != nil {
		fmt.Println("stat:", err)
	}
	fmt.Println("all tried")
}

func number(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// cloned starts a process with flags of clone.
func cloned(flags uintptr) error {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^$")
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Wait()
}

// staticSelf is this binary, as self, built as deploy/Dockerfile builds the
// program: a C library makes other system calls.
func staticSelf(t *testing.T) string {
	t.Helper()
	f, err := elf.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Skipf("needs CGO_ENABLED=0: the profile is for programs without %v", libs)
	}
	return self(t)
}

// The profile refuses all other calls. The error shows that the profile did,
// because the kernel does not use it. Each name in the profile has a number.
func TestProfileRefusesWhatItDoesNotName(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: starts processes")
	}
	p, err := readProfile(profilePath)
	if err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != "SCMP_ACT_ERRNO" || p.DefaultErrnoRet != uint32(syscall.EPERM) ||
		!slices.Equal(p.Architectures, []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}) {
		t.Errorf("%+v", p)
	}
	for name := range callNumbers {
		if !slices.ContainsFunc(p.Syscalls, func(r rule) bool { return slices.Contains(r.Names, name) }) {
			t.Errorf("callNumbers has %s, which the profile has not", name)
		}
	}
	t.Setenv(inProfile, profilePath)
	cmd, out := run(t, staticSelf(t))
	err = cmd.Wait()
	if strings.Contains(out.String(), errNoSeccomp.Error()) {
		t.Skip(strings.TrimSpace(out.String()))
	}
	if err != nil || out.String() != "all tried\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// profileCorefile uses all features of the program: the fast path at one
// address with a control socket and a snapshot, zones whose queries take the
// chain, a source on the network, and the servers for probes, metrics and
// profiles.
const profileCorefile = `.:PORT {
    bind 127.0.0.1
    errors
    health 127.0.0.1:HEALTH {
        lameduck 100ms
    }
    ready 127.0.0.1:READY
    pprof 127.0.0.1:PPROF
    prometheus 127.0.0.1:METRICS
    loadbalance
    bufsize 1232
    cache 3600 {
        control DIR/control
        warm DIR/warm
    }
    forward up.example 127.0.0.1:SOURCE
    template IN A test {
        answer "{{ .Name }} 3600 IN A 192.0.2.1"
    }
}
logged.test:PORT {
    bind 127.0.0.1
    log
    cache
    file DIR/zone
}
.:SOURCE {
    bind lo
    template IN A {
        answer "{{ .Name }} 3600 IN A 192.0.2.ANSWER"
    }
}
`

// The program does all of its work behind the profile and makes no call that
// it would refuse: such a call is made to end the program (SIGSYS). With
// PENSTOCK_COREDNS_TRACE strace records the work instead, and the test fails
// with the calls that the profile lacks.
func TestWorksBehindItsProfile(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: starts processes")
	}
	bin, dir, trace := staticSelf(t), t.TempDir(), os.Getenv(traceTo)
	write(t, dir, "zone", strings.Replace(zone, "example.org", "logged.test", 1))
	ports := map[string]string{"DIR": dir, "ANSWER": "2"}
	text := func() string {
		return regexp.MustCompile(`DIR|[A-Z]{4,}`).ReplaceAllStringFunc(profileCorefile, func(name string) string {
			if v, ok := ports[name]; ok {
				return v
			}
			return name
		})
	}
	conf := filepath.Join(dir, "Corefile")
	// A file: the second process keeps a pipe open, and Wait would wait for it.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	output := func() string {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	start := func() *server {
		for _, name := range []string{"PORT", "HEALTH", "READY", "PPROF", "METRICS", "SOURCE"} {
			ports[name] = freePort(t)
		}
		write(t, dir, "Corefile", text())
		cmd := exec.Command(bin, "-conf", conf)
		cmd.Env = append(os.Environ(), asMain+"=1", inProfile+"="+profilePath)
		if trace != "" {
			// -D: the program stays our child, so it gets our signals.
			cmd = exec.Command("strace", "-D", "-f", "-qq", "-o", trace, bin, "-conf", conf)
			cmd.Env = append(os.Environ(), asMain+"=1")
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s := &server{cmd: cmd, ended: make(chan struct{})}
		go func() {
			s.err = cmd.Wait()
			close(s.ended)
		}()
		return s
	}
	s := start()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
		if next := processOf(t, conf); next != 0 {
			_ = syscall.Kill(next, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("output:\n%s", output())
		}
	})
	local := func(name string) string { return "127.0.0.1:" + ports[name] }
	for try := 1; !s.answers(t, local("PORT"), "www.test."); try++ {
		if strings.Contains(output(), errNoSeccomp.Error()) {
			t.Skip(strings.TrimSpace(output()))
		}
		// Another process may have taken a port.
		if try == 3 || !strings.Contains(output(), "address already in use") {
			t.Fatal("the program does not answer")
		}
		s = start()
	}
	n := &node{server: s, addr: local("PORT"), metrics: ports["METRICS"], conf: conf, port: ports["PORT"]}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "control"))
	}}}
	defer client.CloseIdleConnections()
	control := func(method, request string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost/"+request, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	answers := func(name, want string) bool {
		a := ask(t, n.addr, name)
		return len(a.Sections[0]) > 0 && strings.HasSuffix(a.Sections[0][0], want)
	}
	works := func(when, source string) {
		t.Helper()
		n.settles(t, bothSteered)
		n.onlyFast(t, when)
		if !answers(when+".up.example.", source) || !answers("ns.logged.test.", "192.0.2.53") {
			t.Errorf("%s: the chain does not answer", when)
		}
		for _, url := range []string{local("HEALTH") + "/health", local("READY") + "/ready"} {
			if got := get(t, "http://"+url); got != "OK" {
				t.Errorf("%s: %s: %q", when, url, got)
			}
		}
		for method, request := range map[string]string{http.MethodGet: "dump?name=www.test", http.MethodPost: "flush?name=" + when + ".up.example"} {
			if err := control(method, request); err != nil {
				t.Errorf("%s: control: %s: %v", when, request, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	until := func(what string, holds func() bool) {
		t.Helper()
		for !holds() {
			select {
			case <-time.After(20 * time.Millisecond): // real time: real processes
			case <-ctx.Done():
				t.Fatal(what)
			}
		}
	}
	works("start", "192.0.2.2")
	until("the flush has written no snapshot", func() bool {
		_, err := os.Stat(filepath.Join(dir, "warm"))
		return err == nil
	})

	// Threads, collections and the profiler's timers, from several clients at
	// once.
	var clients sync.WaitGroup
	clients.Go(func() {
		if got := get(t, "http://"+local("PPROF")+"/debug/pprof/profile?seconds=1"); !strings.HasPrefix(got, "\x1f\x8b") {
			t.Errorf("no profile: %.200s", got)
		}
	})
	for range 4 {
		clients.Go(func() {
			for _, network := range []string{"udp", "tcp"} {
				if got := n.asked(t, network, 50, time.Minute); got != 50 {
					t.Errorf("%s: %d of 50 answered", network, got)
				}
			}
		})
	}
	get(t, "http://"+local("PPROF")+"/debug/pprof/heap?gc=1")
	clients.Wait()

	ports["ANSWER"] = "3"
	write(t, dir, "Corefile", text())
	if err := s.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	until("no reload", func() bool { return strings.Contains(output(), "Reloading complete") })
	works("reload", "192.0.2.3")

	if err := s.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	until("the first process goes on", func() bool {
		select {
		case <-s.ended:
			return true
		default:
			return false
		}
	})
	next := processOf(t, conf)
	if next == 0 {
		t.Fatal("there is no second process")
	}
	until("no control of the second process", func() bool { return control(http.MethodGet, "dump?name=www.test") == nil })
	until("the second process is not ready", func() bool {
		resp, err := http.Get("http://" + local("READY") + "/ready")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	works("upgrade", "192.0.2.3")
	if err := syscall.Kill(next, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until("the second process does not end", func() bool { return processOf(t, conf) == 0 })

	said := output()
	for _, want := range []string{"A IN ns.logged.test. udp", "SIGUSR1: Reloading", "warm " + dir + "/warm: ", "SIGTERM: Shutting down", "lameduck mode for 100ms"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	for _, bad := range []string{"operation not permitted", "No fast path at dns://" + n.addr + " for zone .:", "refuses a system call", "panic"} {
		if strings.Contains(said, bad) {
			t.Errorf("the log has %q", bad)
		}
	}
	if trace != "" {
		compareTrace(t, trace)
	}
}

// compareTrace reports calls of the trace that are not in the profile.
func compareTrace(t *testing.T, trace string) {
	t.Helper()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z]\w*)\(`).FindAllSubmatch(b, -1) {
		seen[string(m[1])]++
	}
	if seen["recvmmsg"] == 0 {
		t.Fatal("no trace of the program")
	}
	for name, times := range seen {
		if _, ok := callNumbers[name]; !ok {
			t.Errorf("%d times %s, which the profile has not", times, name)
		}
	}
	t.Logf("%d system calls: %v", len(seen), seen)
}

// callElsewhere is a system call of the other architecture.
const callElsewhere = ^uint32(0)

// callNumbers has the number of each name in the profile.
var callNumbers = map[string]uint32{
	"accept4":           unix.SYS_ACCEPT4,
	"arch_prctl":        archPrctl(),
	"bind":              unix.SYS_BIND,
	"clock_gettime":     unix.SYS_CLOCK_GETTIME,
	"clone":             unix.SYS_CLONE,
	"close":             unix.SYS_CLOSE,
	"close_range":       unix.SYS_CLOSE_RANGE,
	"connect":           unix.SYS_CONNECT,
	"dup3":              unix.SYS_DUP3,
	"epoll_create1":     unix.SYS_EPOLL_CREATE1,
	"epoll_ctl":         unix.SYS_EPOLL_CTL,
	"epoll_pwait":       unix.SYS_EPOLL_PWAIT,
	"eventfd2":          unix.SYS_EVENTFD2,
	"execve":            unix.SYS_EXECVE,
	"exit":              unix.SYS_EXIT,
	"exit_group":        unix.SYS_EXIT_GROUP,
	"faccessat":         unix.SYS_FACCESSAT,
	"faccessat2":        unix.SYS_FACCESSAT2,
	"fchmod":            unix.SYS_FCHMOD,
	"fcntl":             unix.SYS_FCNTL,
	"flock":             unix.SYS_FLOCK,
	"fstat":             unix.SYS_FSTAT,
	"fstatfs":           unix.SYS_FSTATFS,
	"fsync":             unix.SYS_FSYNC,
	"futex":             unix.SYS_FUTEX,
	"getcwd":            unix.SYS_GETCWD,
	"getdents64":        unix.SYS_GETDENTS64,
	"getegid":           unix.SYS_GETEGID,
	"geteuid":           unix.SYS_GETEUID,
	"getgid":            unix.SYS_GETGID,
	"getgroups":         unix.SYS_GETGROUPS,
	"getpeername":       unix.SYS_GETPEERNAME,
	"getpid":            unix.SYS_GETPID,
	"getppid":           unix.SYS_GETPPID,
	"getrandom":         unix.SYS_GETRANDOM,
	"getrlimit":         unix.SYS_GETRLIMIT,
	"getsockname":       unix.SYS_GETSOCKNAME,
	"getsockopt":        unix.SYS_GETSOCKOPT,
	"gettid":            unix.SYS_GETTID,
	"getuid":            unix.SYS_GETUID,
	"kill":              unix.SYS_KILL,
	"listen":            unix.SYS_LISTEN,
	"lseek":             unix.SYS_LSEEK,
	"madvise":           unix.SYS_MADVISE,
	"mincore":           unix.SYS_MINCORE,
	"mmap":              unix.SYS_MMAP,
	"munmap":            unix.SYS_MUNMAP,
	"nanosleep":         unix.SYS_NANOSLEEP,
	"newfstatat":        unix.SYS_NEWFSTATAT,
	"openat":            unix.SYS_OPENAT,
	"openat2":           unix.SYS_OPENAT2,
	"pidfd_open":        unix.SYS_PIDFD_OPEN,
	"pidfd_send_signal": unix.SYS_PIDFD_SEND_SIGNAL,
	"pipe2":             unix.SYS_PIPE2,
	"ppoll":             unix.SYS_PPOLL,
	"prctl":             unix.SYS_PRCTL,
	"pread64":           unix.SYS_PREAD64,
	"prlimit64":         unix.SYS_PRLIMIT64,
	"pwrite64":          unix.SYS_PWRITE64,
	"read":              unix.SYS_READ,
	"readlinkat":        unix.SYS_READLINKAT,
	"recvfrom":          unix.SYS_RECVFROM,
	"recvmmsg":          unix.SYS_RECVMMSG,
	"recvmsg":           unix.SYS_RECVMSG,
	"renameat":          unix.SYS_RENAMEAT,
	"restart_syscall":   unix.SYS_RESTART_SYSCALL,
	"rt_sigaction":      unix.SYS_RT_SIGACTION,
	"rt_sigprocmask":    unix.SYS_RT_SIGPROCMASK,
	"rt_sigreturn":      unix.SYS_RT_SIGRETURN,
	"sched_getaffinity": unix.SYS_SCHED_GETAFFINITY,
	"sched_yield":       unix.SYS_SCHED_YIELD,
	"sendmmsg":          unix.SYS_SENDMMSG,
	"sendmsg":           unix.SYS_SENDMSG,
	"sendto":            unix.SYS_SENDTO,
	"setitimer":         unix.SYS_SETITIMER,
	"setsockopt":        unix.SYS_SETSOCKOPT,
	"shutdown":          unix.SYS_SHUTDOWN,
	"sigaltstack":       unix.SYS_SIGALTSTACK,
	"socket":            unix.SYS_SOCKET,
	"socketpair":        unix.SYS_SOCKETPAIR,
	"statfs":            unix.SYS_STATFS,
	"statx":             unix.SYS_STATX,
	"tgkill":            unix.SYS_TGKILL,
	"timer_create":      unix.SYS_TIMER_CREATE,
	"timer_delete":      unix.SYS_TIMER_DELETE,
	"timer_settime":     unix.SYS_TIMER_SETTIME,
	"uname":             unix.SYS_UNAME,
	"unlinkat":          unix.SYS_UNLINKAT,
	"wait4":             unix.SYS_WAIT4,
	"waitid":            unix.SYS_WAITID,
	"write":             unix.SYS_WRITE,
	"writev":            unix.SYS_WRITEV,
}

// archPrctl is a call of amd64 only: package unix has no constant for it
// elsewhere.
func archPrctl() uint32 {
	if runtime.GOARCH == "amd64" {
		return 158
	}
	return callElsewhere
}
