package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// These tests open and close sockets of an address while the fast path runs,
// with real processes and real reloads.

// cachedBlock has one name, which is in the cache from the first question on.
const cachedBlock = `.:%s {
    bind %s
    %s
    prometheus 127.0.0.1:%s
    cache 3600
    template IN A {
        answer "{{ .Name }} 3600 IN A 192.0.2.1"
    }
}
`

// node is a program with one block at a port that others may share.
type node struct {
	*server
	addr, metrics, conf string
	port                string
}

func startNode(t *testing.T, bin, port, hosts, extra string) *node {
	t.Helper()
	var n node
	n.server, n.addr = serveBy(t, bin, func() (string, string, string) {
		p := port
		if p == "" {
			p = freePort(t)
		}
		n.port, n.metrics = p, freePort(t)
		return fmt.Sprintf(cachedBlock, p, hosts, extra, n.metrics), "127.0.0.1:" + p, "www.test."
	})
	n.conf = n.cmd.Args[2]
	return &n
}

// steered returns the protocols of which the kernel sends all queries to the
// fast path, once for each address, or noneSteered if some go to other sockets.
func (n *node) steered(t *testing.T) string {
	t.Helper()
	var protos []string
	for _, line := range n.series(t, "coredns_penstock_fastpath_steered{") {
		if strings.HasSuffix(line, " 0") {
			return noneSteered
		}
		_, after, _ := strings.Cut(line, `proto="`)
		protos = append(protos, after[:3]+" ")
	}
	slices.Sort(protos)
	return strings.Join(protos, "")
}

// series returns the lines of the node's metrics that begin with prefix. There
// are none while it starts.
func (n *node) series(t *testing.T, prefix string) (all []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+n.metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			all = append(all, lines.Text())
		}
	}
	return all
}

// settles waits until steered returns want.
func (n *node) settles(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n.steered(t) != want {
		select {
		case <-ctx.Done():
			t.Fatalf("steered: %q, want %q", n.steered(t), want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// asked sends questions and counts the answers.
func (n *node) asked(t *testing.T, network string, times int, patience time.Duration) (answered int) {
	t.Helper()
	for range times {
		m := new(dns.Msg)
		m.SetQuestion("www.test.", dns.TypeA)
		client := dns.Client{Net: network, Timeout: patience}
		if r, _, err := client.ExchangeContext(t.Context(), m, n.addr); err == nil && len(r.Answer) == 1 {
			answered++
		}
	}
	return answered
}

// requests returns the number of questions that the program's cache has seen.
func (n *node) requests(t *testing.T) (all float64) {
	t.Helper()
	return n.sum(t, "coredns_cache_requests_total{")
}

func (n *node) sum(t *testing.T, prefix string) (all float64) {
	t.Helper()
	for _, line := range n.series(t, prefix) {
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
			t.Fatal(err)
		}
		all += v
	}
	return all
}

// onlyFast fails unless all questions come to be answered by our sockets. A
// worker looks at the members of the kernel's group a second apart when nothing
// changes, so after a socket of CoreDNS has gone some questions may reach
// another one until then.
func (n *node) onlyFast(t *testing.T, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		problem := n.missFast(t)
		if problem == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %s", when, problem)
		case <-time.After(20 * time.Millisecond): // real time: another process
		}
	}
}

// missFast asks 40 questions by UDP and 40 by TCP, and returns how many of them
// did not come to the fast path, or "". Every question must be answered.
func (n *node) missFast(t *testing.T) string {
	t.Helper()
	const times = 40
	const batches, open = "coredns_penstock_fastpath_batches_total{", "coredns_penstock_fastpath_connections{"
	was := n.sum(t, batches)
	if got := n.asked(t, "udp", times, time.Minute); got != times {
		t.Fatalf("%d of %d answered over UDP", got, times)
	}
	// One question at a time: each is a batch.
	if got := n.sum(t, batches) - was; got < times {
		return fmt.Sprintf("%v of %d questions came to the fast path", got, times)
	}
	was = n.sum(t, open)
	for range times {
		c, err := (&dns.Client{Net: "tcp"}).DialContext(t.Context(), n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m := new(dns.Msg)
		m.SetQuestion("www.test.", dns.TypeA)
		if _, _, err := (&dns.Client{Net: "tcp", Timeout: time.Minute}).ExchangeWithConnContext(t.Context(), m, c); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.sum(t, open) - was; got < times-2 { // earlier connections may end during the count
		return fmt.Sprintf("%v of %d connections came to the fast path", got, times)
	}
	return ""
}

func needsFastPath(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" || testing.Short() {
		t.Skip("short mode: takes seconds, and needs Linux")
	}
}

// Results of steered.
const (
	bothSteered = "tcp udp "
	noneSteered = "none"
)

// In an overlapping restart a second process starts while the first one runs.
// While both run, each gets its share. After the end of the first, the second
// gets all.
func TestOverlappingRestart(t *testing.T) {
	needsFastPath(t)
	a := startNode(t, self(t), "", "127.0.0.1", "")
	a.settles(t, bothSteered)
	a.onlyFast(t, "alone")
	b := startNode(t, self(t), a.port, "127.0.0.1", "")
	a.settles(t, noneSteered)
	b.settles(t, noneSteered)
	for _, network := range []string{"udp", "tcp"} {
		was := a.requests(t)
		if got := a.asked(t, network, 100, time.Minute); got != 100 {
			t.Errorf("%s: %d of 100 answered by two", network, got)
		}
		if got := a.requests(t) - was; got < 10 || got > 90 {
			t.Errorf("%s: the first has answered %v of 100", network, got)
		}
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	b.settles(t, bothSteered)
	b.onlyFast(t, "alone after the first")
}

// If a process hangs, only its share is lost, over both transports.
func TestHangingProcessTakesItsOwnShare(t *testing.T) {
	needsFastPath(t)
	a := startNode(t, self(t), "", "127.0.0.1", "")
	a.settles(t, bothSteered)
	b := startNode(t, self(t), a.port, "127.0.0.1", "")
	a.settles(t, noneSteered)
	b.settles(t, noneSteered)
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := b.asked(t, network, 20, 100*time.Millisecond); got < 2 {
			t.Errorf("%s: %d of 20 answered beside a process that hangs", network, got)
		}
	}
	_ = a.cmd.Process.Kill()
	<-a.ended
	b.settles(t, bothSteered)
	b.onlyFast(t, "after the one that hung")
}

// In a migration the old server is a plain CoreDNS. It keeps its share until it
// ends. Then the fast path gets all.
func TestMigrationFromCoreDNS(t *testing.T) {
	needsFastPath(t)
	a := startNode(t, stockBinary(t), "", "127.0.0.1", "")
	b := startNode(t, self(t), a.port, "127.0.0.1", "")
	b.settles(t, noneSteered)
	for _, network := range []string{"udp", "tcp"} {
		was := a.requests(t)
		if got := b.asked(t, network, 100, time.Minute); got != 100 {
			t.Errorf("%s: %d of 100 answered by two", network, got)
		}
		if got := a.requests(t) - was; got < 5 || got > 80 {
			t.Errorf("%s: CoreDNS has answered %v of 100", network, got)
		}
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	b.settles(t, bothSteered)
	b.onlyFast(t, "after CoreDNS")
}

// Reloads change the number of CoreDNS's sockets and restore it.
func TestReloadWithAnotherMultisocket(t *testing.T) {
	needsFastPath(t)
	n := startNode(t, self(t), "", "127.0.0.1", "multisocket 4")
	n.settles(t, bothSteered)
	n.onlyFast(t, "four sockets")
	workers := n.workers(t)
	for i, extra := range []string{"", "multisocket 4", ""} {
		write(t, strings.TrimSuffix(n.conf, "/Corefile"), "Corefile", fmt.Sprintf(cachedBlock, n.port, "127.0.0.1", extra, n.metrics))
		if err := n.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		own := 1
		if extra != "" {
			own = 4
		}
		n.reloaded(t, i+1, own+workers)
		n.settles(t, bothSteered)
		n.onlyFast(t, fmt.Sprintf("reload %d, %q", i+1, extra))
	}
}

// workers returns how many workers, with a socket each, the program said it has.
// The number of sockets at the port does not tell: a probe for the kernel's order
// may be open. The program answers before it says so.
func (n *node) workers(t *testing.T) int {
	t.Helper()
	line := regexp.MustCompile(`Fast path at \S+: (\d+) workers`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if m := line.FindStringSubmatch(n.out.String()); m != nil {
			count, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			return count
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the program does not say how many workers it has:\n%s", n.out)
		case <-time.After(20 * time.Millisecond): // real time: another process
		}
	}
}

// reloaded waits until the program has reloaded that many times and has that
// many UDP sockets at the port. The count alone is not enough: while the
// servers of a reload start and end, it passes through the wanted one.
func (n *node) reloaded(t *testing.T, times, sockets int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for strings.Count(n.out.String(), "Reloading complete") < times || n.sockets(t) != sockets {
		select {
		case <-ctx.Done():
			t.Fatalf("%d sockets, want %d after reload %d", n.sockets(t), sockets, times)
		case <-time.After(20 * time.Millisecond): // real time: another process
		}
	}
}

// sockets counts the UDP sockets at the port.
func (n *node) sockets(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(n.port)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), fmt.Sprintf(": 0100007F:%04X 00000000:0000", port))
}

// Both addresses share one group of the kernel.
func TestBindToBothFamilies(t *testing.T) {
	needsFastPath(t)
	n := startNode(t, self(t), "", "0.0.0.0 ::", "")
	n.settles(t, "tcp tcp udp udp ")
	n.onlyFast(t, "0.0.0.0 and ::")
}
