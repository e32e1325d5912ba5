package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// The contestants.
const (
	oursName    = "CoreDNS + penstock"
	stockName   = "CoreDNS + its cache"
	unboundName = "unbound"
	dnsdistName = "dnsdist"
	chainName   = oursName + ", fastpath off"
	aclName     = oursName + ", acl before the cache"
	aclStock    = stockName + ", acl before the cache"
	allName     = oursName + ", all cores"
	procs8Name  = oursName + ", GOMAXPROCS 8"
	procs32Name = oursName + ", GOMAXPROCS 32"
	hotName     = oursName + ", one hot key"
	hotAllName  = oursName + ", all cores, one hot key"
	echoName    = "kernel only"
	echoAllName = "kernel only, all cores"
)

// readyWithin is how long a server may take to answer its first question.
const readyWithin = 20 * time.Second

// server is one server under load.
type server struct {
	name    string
	addr    string
	proc    *bench.Server
	metrics int // port of Prometheus's series, or 0
}

func numCPU() int { return runtime.NumCPU() }

// cpu is the time that the server's threads have run, exact to nanoseconds.
// The kernel's own sum of user and system time is the same in steps of 10 ms.
func (s *server) cpu() time.Duration {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.proc.PID()))
	if err != nil {
		return 0
	}
	var sum time.Duration
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has just ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}

// sleeps is how often the server's threads have gone to sleep by themselves.
func (s *server) sleeps() (sum int64) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.proc.PID()))
	if err != nil {
		return 0
	}
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has just ended
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// startEcho starts the control.
func startEcho(ctx context.Context, how placement, name, exe string, workers int) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	argv, env := how.argv([]string{exe, "echo", "-addr", addr, "-workers", strconv.Itoa(workers)})
	proc, err := bench.StartServer(argv, env)
	if err != nil {
		return nil, err
	}
	s := &server{name: name, addr: addr, proc: proc}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err = proc.WaitReady(ctx, func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write(make([]byte, 20)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 512))
		return err
	})
	if err != nil {
		proc.Stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// userCPU is the time that the server has spent outside of the kernel.
func (s *server) userCPU() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.proc.PID()))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; utime is the twelfth field
	// after it.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 12 {
		return 0
	}
	ticks, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// freePort asks the kernel for a port that is free for UDP and TCP now.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("no TCP address: %v", l.Addr())
	}
	return addr.Port, nil
}

// cacheEntries holds every name of the mix, positive and negative, in each
// server: the benchmark is of answers, not of evictions.
const cacheEntries = 200_000

// startCoreDNS starts a CoreDNS whose server block holds body.
func startCoreDNS(ctx context.Context, how placement, name, bin, dir, body string, q dnsload.Query) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "Corefile."+strconv.Itoa(port))
	text := fmt.Sprintf(".:%d {\n\tbind 127.0.0.1\n\terrors\n%s}\n", port, body)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return start(ctx, how, name, []string{bin, "-conf", conf}, port, q)
}

// placement says where a server runs.
type placement struct {
	cpus  string // list for taskset; "" means everywhere
	procs int    // GOMAXPROCS; 0 means as Go finds it
	env   []string
}

// argv is the command with its placement, env what goes with it.
func (p placement) argv(cmd []string) (argv, env []string) {
	env = p.env
	if p.procs > 0 {
		env = []string{"GOMAXPROCS=" + strconv.Itoa(p.procs)}
	}
	if p.cpus == "" {
		return cmd, env
	}
	return append([]string{"taskset", "-c", p.cpus}, cmd...), env
}

// cacheBody is the block of a caching CoreDNS: the usual chain of a cluster
// with the cache before the forwarder. Both binaries read the same text.
func cacheBody(upstream string, metricsPort int, options string) string {
	return fmt.Sprintf("\tprometheus 127.0.0.1:%d\n\tloadbalance\n\tcache 3600 {\n\t\tsuccess %d\n\t\tdenial %d\n%s\t}\n\tforward . %s\n",
		metricsPort, cacheEntries, cacheEntries, options, upstream)
}

// beforeCache is a plugin that must see every query, and lets each pass.
const beforeCache = "\tacl {\n\t\tallow net 127.0.0.0/8\n\t}\n"

// zonesBody is the block of the upstream, which serves the zones of the mix.
func zonesBody(zones map[string]string) string {
	var b strings.Builder
	for origin, path := range zones {
		fmt.Fprintf(&b, "\tfile %s %s\n", path, origin)
	}
	return b.String()
}

// startUnbound starts unbound in the foreground with one thread for each core.
func startUnbound(ctx context.Context, how placement, bin, dir, upstream string, threads int, q dnsload.Query) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	host, upPort, err := net.SplitHostPort(upstream)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "unbound.conf")
	text := fmt.Sprintf(`server:
  interface: 127.0.0.1
  port: %d
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "%s"
  use-syslog: no
  verbosity: 0
  num-threads: %d
  so-reuseport: yes
  module-config: "iterator"
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  msg-cache-size: 64m
  rrset-cache-size: 128m
  outgoing-range: 2048
  num-queries-per-thread: 1024
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: %s@%s
`, port, dir, threads, host, upPort)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return start(ctx, how, unboundName, []string{bin, "-d", "-c", conf}, port, q)
}

// startDnsdist starts dnsdist with its packet cache, one thread for queries.
func startDnsdist(ctx context.Context, how placement, bin, dir, upstream string, q dnsload.Query) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "dnsdist.conf")
	text := fmt.Sprintf(`setLocal("127.0.0.1:%d")
newServer({address="%s"})
getPool(""):setCache(newPacketCache(%d, {maxTTL=86400, minTTL=0}))
setACL("127.0.0.0/8")
setSecurityPollSuffix("")
`, port, upstream, cacheEntries)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return start(ctx, how, dnsdistName, []string{bin, "--supervised", "--disable-syslog", "-C", conf}, port, q)
}

// start starts a server and waits until it answers q.
func start(ctx context.Context, how placement, name string, argv []string, port int, q dnsload.Query) (*server, error) {
	argv, env := how.argv(argv)
	proc, err := bench.StartServer(argv, env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &server{name: name, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), proc: proc}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err = proc.WaitReady(ctx, func(ctx context.Context) error {
		a, err := dnsload.Ask(ctx, s.addr, q)
		if err == nil && a.Rcode != "NOERROR" && a.Rcode != "NXDOMAIN" {
			err = errors.New(a.Rcode)
		}
		return err
	})
	if err != nil {
		proc.Stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}
