package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin"
	"github.com/penstock/penstock/internal/dnsload"
)

// asMain makes the test binary run as the program, so that it is built once.
const asMain = "PENSTOCK_COREDNS_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		if what := os.Getenv(inSandbox); what != "" {
			if err := enterSandbox(what); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if path := os.Getenv(inProfile); path != "" {
			if err := enterProfile(path); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
		main()
		return
	}
	code := m.Run()
	_ = os.RemoveAll(builtDir)
	os.Exit(code)
}

func TestDirectivesKeepCoreDNSsOrder(t *testing.T) {
	got := directives(dnsserver.Directives)
	at := slices.Index(got, "penstock")
	if at < 1 || got[at-1] != "cache" {
		t.Fatalf("penstock is not beside cache: %v", got)
	}
	if !slices.Equal(slices.Delete(slices.Clone(got), at, at+1), dnsserver.Directives) {
		t.Error("the order of the others has changed")
	}
}

// plugins.go has everything: each directive of CoreDNS has a plugin behind it.
func TestEveryDirectiveHasItsPlugin(t *testing.T) {
	for _, d := range directives(dnsserver.Directives) {
		if _, err := caddy.DirectiveAction("dns", d); err != nil {
			t.Errorf("%s: %v: import its package in plugins.go", d, err)
		}
	}
}

// self is this test binary, which is the program when asMain is set.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// program starts the program; its output is complete when wait returns.
func program(t *testing.T, args ...string) (cmd *exec.Cmd, out *output) {
	t.Helper()
	return run(t, self(t), args...)
}

// run starts a program that is this one or CoreDNS's own.
func run(t *testing.T, bin string, args ...string) (cmd *exec.Cmd, out *output) {
	t.Helper()
	cmd, out = exec.Command(bin, args...), &output{}
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out
}

// output is the output of a running program. It is safe for concurrent use.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// drawnPorts are the ports that freePort has returned in this process.
var drawnPorts sync.Map

// freePort returns a port that is free for TCP and UDP now, and that no test of
// this process has drawn before: the program that is to use it may not have bound
// it yet. While another test forwards many queries, UDP uses one port in five.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if _, drawn := drawnPorts.LoadOrStore(port, true); drawn {
			continue
		}
		return port
	}
	t.Fatal("no free port")
	return ""
}

// corefile has the usual chain, and rewrite, before the cache.
const corefile = `example.org:%s {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:%s
    log
    loadbalance
    rewrite name exact alias.example.org www.example.org
    cache {
        maxmem 8MiB
        serve_stale 1h immediate 30s 30s
    }
    file %s
}
example.net:%s {
    bind 127.0.0.1
    penstock 10
    template IN A {
        answer "{{ .Name }} 60 IN A 192.0.2.99"
    }
}
`

const zone = `$ORIGIN example.org.
$TTL 60
@ IN SOA ns host 1 7200 1800 86400 60
@ IN NS ns
ns IN A 192.0.2.53
www IN A 192.0.2.1
www IN A 192.0.2.2
`

// server is a running program that answers at addr.
type server struct {
	cmd   *exec.Cmd
	out   *output // complete when ended is closed
	ended chan struct{}
	err   error // of Wait; set when ended is closed
}

// serve starts the program with the Corefile that conf makes and waits until
// it answers at the address that conf returns. Ports that conf found free may
// be taken when the program binds them; then it is tried again.
func serve(t *testing.T, conf func() (corefile, addr, name string)) (*server, string) {
	t.Helper()
	return serveBy(t, self(t), conf)
}

// serveBy is serve with another program.
func serveBy(t *testing.T, bin string, conf func() (corefile, addr, name string)) (*server, string) {
	t.Helper()
	var last *server
	for range 3 {
		text, addr, name := conf()
		s := &server{ended: make(chan struct{})}
		s.cmd, s.out = run(t, bin, "-conf", write(t, t.TempDir(), "Corefile", text))
		go func() {
			s.err = s.cmd.Wait()
			close(s.ended)
		}()
		if s.answers(t, addr, name) {
			t.Cleanup(func() {
				_ = s.cmd.Process.Kill()
				<-s.ended
				if t.Failed() {
					t.Logf("output:\n%s", s.out)
				}
			})
			return s, addr
		}
		last = s
	}
	t.Fatalf("the program does not answer:\n%s", last.out)
	return nil, ""
}

// answers waits for an answer, or for the end of the program.
func (s *server) answers(t *testing.T, addr, name string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := dnsload.Ask(ctx, addr, dnsload.Query{Name: name, Type: dns.TypeA}); err == nil {
			return true
		}
		// A real process has no signal to wait for: its port is refused until
		// it listens.
		select {
		case <-s.ended:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
	return false
}

// stop ends the program as a service manager does, and waits for it.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-s.ended
	return s.err
}

func TestServes(t *testing.T) {
	var port, metrics string
	zoneFile := write(t, t.TempDir(), "zone", zone)
	s, addr := serve(t, func() (string, string, string) {
		port, metrics = freePort(t), freePort(t)
		text := fmt.Sprintf(corefile, port, metrics, zoneFile, port)
		return text, "127.0.0.1:" + port, "ready.example.net."
	})
	for range 3 {
		for name, want := range map[string]string{
			"www.example.org.":   "NOERROR 2",
			"alias.example.org.": "NOERROR 2",
			"no.example.org.":    "NXDOMAIN 0",
			"a.example.net.":     "NOERROR 1",
		} {
			a := ask(t, addr, name)
			if got := fmt.Sprintf("%s %d", a.Rcode, len(a.Sections[0])); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
			for _, rr := range a.Sections[0] {
				if !strings.HasPrefix(rr, name) {
					t.Errorf("rewrite did not turn the name back: %s", rr)
				}
			}
		}
	}
	m := get(t, "http://127.0.0.1:"+metrics+"/metrics")
	for _, want := range []string{`coredns_build_info{goversion="` + runtime.Version() + `",revision="penstock `, `coredns_penstock_build_info{commit="`} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics do not have %s", want)
		}
	}
	server := `server="dns://127.0.0.1:` + port + `"`
	for _, want := range []string{
		// www and its alias are one entry: the first question is the only miss.
		`coredns_cache_hits_total{` + server + `,type="success",view="",zones="example.org."} 5`,
		`coredns_cache_hits_total{` + server + `,type="denial",view="",zones="example.org."} 2`,
		`coredns_cache_requests_total{` + server + `,view="",zones="example.org."} 9`,
		// The prometheus plugin sees the codes of answers from the cache too.
		`coredns_dns_responses_total{plugin="errors",rcode="NXDOMAIN",` + server + `,view="",zone="example.org."} 3`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics do not have %s", want)
		}
	}
	if err := s.stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if out := s.out.String(); strings.Count(out, `"A IN no.example.org. udp`) != 3 || strings.Count(out, "NXDOMAIN qr,aa,rd") != 3 {
		t.Errorf("the log lacks answers from the cache")
	}
}

func ask(t *testing.T, addr, name string) dnsload.Answer {
	t.Helper()
	a, err := dnsload.Ask(t.Context(), addr, dnsload.Query{Name: name, Type: dns.TypeA})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<22))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWrongCorefileIsRefusedWithItsPlace(t *testing.T) {
	conf := write(t, t.TempDir(), "Corefile", "example.org {\n    cache {\n        maxmem 1KiB\n    }\n    whoami\n}\n")
	cmd, out := program(t, "-conf", conf, "-dns.port", freePort(t))
	err := cmd.Wait()
	if err == nil || !strings.Contains(out.String(), "Corefile:3") || !strings.Contains(out.String(), "at least 2MiB") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBothNamesInOneBlockAreRefused(t *testing.T) {
	conf := write(t, t.TempDir(), "Corefile", "example.org {\n    bind 127.0.0.1\n    cache\n    penstock\n    whoami\n}\n")
	cmd, out := program(t, "-conf", conf, "-dns.port", freePort(t))
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "Corefile:3 - cache and penstock in one server block") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The version distinguishes the program from CoreDNS's own.
func TestVersionNamesPenstock(t *testing.T) {
	cmd, out := program(t, "-version")
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "CoreDNS-") || !strings.Contains(out.String(), "penstock "+dnsplugin.Version()) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPluginsAreListed(t *testing.T) {
	cmd, out := program(t, "-plugins")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\ncache\n", "\npenstock\n", "\nkubernetes\n", "\nforward\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
