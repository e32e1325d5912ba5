package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestOutage checks the time for which a host is asked last, by a script of
// failures.
func TestOutage(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var o outage
	for i, tt := range []struct {
		at, after   time.Duration // time since the start; pause that the host asks for
		pause, till time.Duration
	}{
		{0, 0, 10 * time.Second, 10 * time.Second},
		{time.Second, 0, 10 * time.Second, 11 * time.Second},                // was under way
		{12 * time.Second, 0, 20 * time.Second, 32 * time.Second},           // asked again
		{40 * time.Second, time.Hour, 40 * time.Second, 3640 * time.Second}, // Retry-After
		{50 * time.Second, 0, 40 * time.Second, 3640 * time.Second},         // does not shorten it
		{4000 * time.Second, 0, 80 * time.Second, 4080 * time.Second},
		{5000 * time.Second, 0, 120 * time.Second, 5120 * time.Second},
		{6000 * time.Second, 0, 120 * time.Second, 6120 * time.Second}, // the longest
	} {
		o = o.failed(start.Add(tt.at), tt.after, true, errSilent)
		if o.pause != tt.pause || o.until.Sub(start) != tt.till {
			t.Errorf("failure %d at %v: pause %v until %v, want %v until %v", i, tt.at, o.pause, o.until.Sub(start), tt.pause, tt.till)
		}
	}
}

// TestHostHealth checks that hosts in an outage come last, until any answer
// ends it.
func TestHostHealth(t *testing.T) {
	a, b, c := &host{name: "a", base: "a"}, &host{name: "b", base: "b"}, &host{name: "c", base: "c"}
	all := []*host{a, b, c}
	now := time.Unix(1_700_000_000, 0)
	var r hostHealth
	order := func() (s string) {
		for _, h := range r.order(all, now) {
			s += h.name
		}
		return s
	}
	fault := func(kind ranges.FaultKind, status int) error { return &ranges.Fault{Kind: kind, Status: status} }
	for _, step := range []struct {
		h      *host
		err    error
		want   string
		silent bool // all hosts are
	}{
		{a, nil, "abc", false},
		{a, errSilent, "bca", false},
		{b, fault(ranges.Throttled, 429), "cab", false},
		{c, fault(ranges.Permanent, 0), "abc", false}, // all are in an outage, in the order of its end
		{b, errSilent, "acb", true},                   // the last one to end
		{a, fault(ranges.NotFound, 404), "acb", false},
		{b, fault(ranges.Denied, 401), "abc", false},
		{a, fault(ranges.Retryable, 502), "abc", false}, // one failure does not start an outage
		{b, fault(ranges.Retryable, 0), "abc", false},   // a reset
		{a, nil, "abc", false},
		{a, fault(ranges.Retryable, 502), "abc", false},      // once again
		{b, fault(ranges.Retryable, 500), "acb", false},      // twice
		{b, fmt.Errorf("%w: sent", ErrDigest), "abc", false}, // an answer, though a wrong one
	} {
		r.record(step.h, now, step.err)
		if got := order(); got != step.want {
			t.Errorf("after %s %v: order %s, want %s", step.h.name, step.err, got, step.want)
		}
		if got := r.allSilent(all, now) != nil; got != step.silent {
			t.Errorf("after %s %v: all mute %v", step.h.name, step.err, got)
		}
		now = now.Add(time.Millisecond)
	}
	now = now.Add(firstPause)
	if got := order(); got != "abc" || !r.up(b, now) {
		t.Errorf("after the pause: %s", got)
	}
}

// TestOutcome checks which of several errors comes first, and whether a retry
// may help. The last host is the registry itself.
func TestOutcome(t *testing.T) {
	fault := func(kind ranges.FaultKind, status int, err error) error {
		return &ranges.Fault{Kind: kind, Status: status, Err: err}
	}
	noName := fault(ranges.Permanent, 0, &net.DNSError{Err: "no such host", IsNotFound: true})
	noAnswer := fault(ranges.Retryable, 0, syscall.ETIMEDOUT)
	denied, missing := fault(ranges.Denied, 401, errors.New("no right")), fault(ranges.NotFound, 404, errors.New("not here"))
	badCert := fault(ranges.Permanent, 0, fmt.Errorf("tls: %w", x509.UnknownAuthorityError{}))
	busy := &ranges.Fault{Kind: ranges.Throttled, Status: 429, RetryAfter: time.Minute, Err: errors.New("busy")}
	for _, tt := range []struct {
		name          string
		mirror, own   error
		kind          ranges.FaultKind
		first         string
		after         time.Duration
		isDen, isMiss bool
	}{
		{"the mirror refuses, no way out", denied, noName, ranges.Denied, "mirror", 0, true, false},
		{"the mirror is dead, the registry refuses", noAnswer, denied, ranges.Denied, "own", 0, true, false},
		{"the mirror does not have it, no way out", missing, noName, ranges.Permanent, "own", 0, false, false},
		{"neither has it", missing, missing, ranges.NotFound, "own", 0, false, true},
		{"the mirror is dead, the registry does not have it", noAnswer, missing, ranges.NotFound, "own", 0, false, true},
		{"both are silent", noAnswer, noAnswer, ranges.Retryable, "mirror", 0, false, false},
		{"the mirror is silent, no way out", noAnswer, noName, ranges.Retryable, "mirror", 0, false, false},
		{"the mirror is busy, the registry silent", busy, noAnswer, ranges.Retryable, "mirror", 0, false, false},
		{"both are busy", busy, busy, ranges.Throttled, "mirror", time.Minute, false, false},
		{"the mirror refuses, the registry is busy", denied, busy, ranges.Throttled, "mirror", time.Minute, true, false},
		{"a wrong certificate, no way out", badCert, noName, ranges.Permanent, "mirror", 0, false, false},
		{"wrong bytes, no way out", ErrDigest, noName, ranges.Permanent, "mirror", 0, false, false},
		{"a login fails, the mirror is silent", noAnswer, fault(ranges.Denied, 0, errors.New("no helper")), ranges.Denied, "own", 0, true, false},
	} {
		errs := new(hostErrors)
		errs.add(&host{name: "mirror"}, tt.mirror, false)
		errs.add(&host{name: "own"}, tt.own, true)
		f := outcome(errs, tt.own)
		if f.Kind != tt.kind || f.RetryAfter != tt.after {
			t.Errorf("%s: %v after %v, want %v after %v", tt.name, f.Kind, f.RetryAfter, tt.kind, tt.after)
		}
		if !strings.HasPrefix(f.Error(), tt.first+": ") || !strings.Contains(f.Error(), "; ") {
			t.Errorf("%s: %q does not begin with %s, or tells one error only", tt.name, f, tt.first)
		}
		if got := errors.Is(errs, ranges.ErrDenied); got != tt.isDen {
			t.Errorf("%s: denied %v", tt.name, got)
		}
		if got := errors.Is(errs, ranges.ErrNotFound); got != tt.isMiss {
			t.Errorf("%s: not found %v", tt.name, got)
		}
	}
}

// TestRace checks that the next host is asked after a silence or at once after
// a failure, and that no call runs after the answer.
func TestRace(t *testing.T) {
	fails := errors.New("fails")
	for _, tt := range []struct {
		name    string
		answers []time.Duration // negative for a failure after that time; 0 for no answer
		winner  int             // or -1
		took    time.Duration
		asked   int
		silent  []int
	}{
		{"the first answers", []time.Duration{1, 1}, 0, 1, 1, nil},
		{"the first fails", []time.Duration{-1, 1}, 1, 2, 2, nil},
		{"the first is silent", []time.Duration{0, 1}, 1, staggerDelay + 1, 2, []int{0}},
		{"the first is late and wins", []time.Duration{staggerDelay + 1, time.Hour}, 0, staggerDelay + 1, 2, nil},
		{"two are silent", []time.Duration{0, 0, 1}, 2, 2*staggerDelay + 1, 3, []int{0, 1}},
		{"all fail", []time.Duration{-1, -2, -3}, -1, 6, 3, nil},
		{"one is silent, the others fail", []time.Duration{-1, 0, -1}, -1, time.Minute, 3, []int{1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the engine gives up
			defer cancel()
			start, asked := time.Now(), 0
			var mu sync.Mutex
			got, ok, errs := race(ctx, len(tt.answers), staggerDelay, func(ctx context.Context, i int) (int, error) {
				mu.Lock()
				asked++
				mu.Unlock()
				d := tt.answers[i]
				if d == 0 {
					<-ctx.Done()
					return 0, ctx.Err()
				}
				select {
				case <-ctx.Done():
					return 0, ctx.Err()
				case <-time.After(max(d, -d)):
				}
				if d < 0 {
					return 0, fails
				}
				return i, nil
			})
			if ok != (tt.winner >= 0) || ok && got != tt.winner || time.Since(start) != tt.took || asked != tt.asked {
				t.Errorf("%s: %d, %v after %v, %d asked", tt.name, got, ok, time.Since(start), asked)
			}
			for i, err := range errs {
				if errors.Is(err, errSilent) != slices.Contains(tt.silent, i) {
					t.Errorf("%s: place %d: %v", tt.name, i, err)
				}
			}
		})
	}
}

// TestAnswerTimer checks that the timer of a resolution restarts with each
// usable answer, and is paused while a credential helper runs.
func TestAnswerTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var ended atomic.Int64
		p := newAnswerTimer(5*time.Second, func() { ended.Store(int64(time.Since(start))) })
		time.Sleep(4 * time.Second)
		p.answered(200) // until 9 s
		time.Sleep(4 * time.Second)
		p.answered(503)
		p.answered(429)
		resume := p.pause() // with a second left
		time.Sleep(time.Minute)
		p.answered(401)
		resume() // 5 s more
		time.Sleep(6 * time.Second)
		if d := time.Duration(ended.Swap(0)); d != 73*time.Second {
			t.Errorf("ended after %v", d)
		}
		p = newAnswerTimer(time.Second, func() { ended.Store(1) })
		p.stop()
		p.answered(200)
		p.pause()()
		time.Sleep(time.Minute)
		if ended.Load() != 0 {
			t.Error("ended after it was stopped")
		}
		var none *answerTimer
		none.answered(200)
		none.pause()()
		none.stop()
	})
}

// logged returns an edit of options that collects log lines.
func logged(to *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestHostsReload checks that hosts.toml, certificates and the directory itself
// are read when an image is resolved, and that unchanged hosts keep their
// connections.
func TestHostsReload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d") // created later
	var log bytes.Buffer
	c, err := New(Options{HostsDir: dir, Log: logged(&log)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref := Reference{Host: "r.example", Repository: "x"}
	hosts := func() []*host {
		t.Helper()
		hs, err := c.hostsOf(ref)
		if err != nil {
			t.Fatal(err)
		}
		return hs
	}
	first := hosts()
	if len(first) != 1 || first[0].base != "https://r.example/v2" {
		t.Fatalf("%+v", first)
	}
	if again := hosts(); again[0] != first[0] {
		t.Error("another host without a change")
	}
	toml := "server = \"http://b.example:5000\"\ndial_timeout = \"3s\"\n[host.\"http://a.example:5000\"]\ndial_timeout = \"1s\"\n"
	writeHosts(t, dir, "r.example", toml)
	second := hosts()
	if len(second) != 2 || second[0].base != "http://a.example:5000/v2" || second[1].base != "http://b.example:5000/v2" {
		t.Fatalf("%+v", second)
	}
	if a, b := second[0].config.dialTimeout, second[1].config.dialTimeout; a != time.Second || b != 3*time.Second {
		t.Errorf("dial_timeout %v and %v", a, b)
	}
	if d := second[0].dialer.std.Timeout; d != time.Second {
		t.Errorf("a connection may take %v", d)
	}
	// One host changes.
	writeHosts(t, dir, "r.example", strings.Replace(toml, "b.example", "c.example", 1))
	third := hosts()
	if third[0] != second[0] || third[1].base != "http://c.example:5000/v2" {
		t.Errorf("%+v, want the first as before and another second", third)
	}
	// After half a file, and one with a mistake, the last configuration stays.
	for _, broken := range []string{"server = \"http://d.exa", "dial_timeout = \"soon\""} {
		log.Reset()
		writeHosts(t, dir, "r.example", broken)
		if got := hosts(); !slices.Equal(got, third) || !strings.Contains(log.String(), "hosts.toml") {
			t.Errorf("%q: %+v, log %s", broken, got, log.String())
		}
	}
	// A certificate is added, replaced and removed.
	_, one := selfSigned(t)
	_, two := selfSigned(t)
	writeHosts(t, dir, "r.example", "server = \"https://c.example\"\nca = \"ca.pem\"\n")
	var before *host
	for _, data := range [][]byte{one, two, one} {
		if err := os.WriteFile(filepath.Join(dir, "r.example", "ca.pem"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		now := hosts()[0]
		if now == before || hosts()[0] != now {
			t.Error("a host does not follow its certificate, or changes without")
		}
		before = now
	}
	writeHosts(t, dir, "r.example", "server = \"https://c.example\"\nskip_verify = true\n")
	if now := hosts()[0]; now == before || !now.config.tls.InsecureSkipVerify {
		t.Error("skip_verify does not count")
	}
	// With TLS settings, https is tried first although http is configured.
	writeHosts(t, dir, "r.example", "server = \"http://c.example:5000\"\nskip_verify = true\n")
	if now := hosts()[0]; !now.insecure || !now.config.fallback {
		t.Errorf("%+v", now.config)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if now := hosts(); len(now) != 1 || now[0].base != "https://r.example/v2" {
		t.Errorf("without the directory: %+v", now)
	}
	if len(c.retired) == 0 {
		t.Error("nothing was retired")
	}
}

// TestDialTimeouts checks the hosts whose time-out hosts.toml sets, and its
// valid values.
func TestDialTimeouts(t *testing.T) {
	for _, tt := range []struct{ registry, toml, host, want string }{
		{"r.example", "dial_timeout = \"2s\"", "r.example", "2s"},
		{"docker.io", "dial_timeout = \"2s\"", "registry-1.docker.io", "2s"},
		{"r.example", "server = \"https://other.example:5000/path\"\ndial_timeout = \"2s\"", "other.example:5000", "2s"},
		{"r.example", "[host.\"mirror.example\"]\ndial_timeout = \"150ms\"", "mirror.example", "150ms"},
		{"r.example", "[host.\"http://[::1]:5000\"]\ndial_timeout = \"1m\"", "[::1]:5000", "1m0s"},
		{"r.example", "", "r.example", "0s"},
		{"r.example", "dial_timeout = \"2\"", "", "write a duration"},
		{"r.example", "dial_timeout = \"-2s\"", "", "write a duration"},
		{"r.example", "dial_timeout = 2", "", "hosts.toml"},
	} {
		dir := hostsDir(t, tt.registry, tt.toml)
		find := func(string) (string, error) { return filepath.Join(dir, tt.registry), nil }
		got, err := dialTimeouts(find, tt.registry)
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && got[tt.host].String() != tt.want {
			t.Errorf("%s: %q: %v, %v; want %s", tt.registry, tt.toml, got, err, tt.want)
		}
	}
}

// TestHostsServerChanges checks that the next pull uses a changed hosts.toml.
func TestHostsServerChanges(t *testing.T) {
	one, two := newLab(t, testorigin.RegistryOptions{}, nil), newLab(t, testorigin.RegistryOptions{}, nil)
	img := one.forPlatform("linux/amd64")
	one.put("x:1", img)
	two.put("x:1", img)
	dir := hostsDir(t, "r.example", fmt.Sprintf("server = %q\n", one.o.URL()))
	c, err := New(Options{HostsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref, _ := ParseReference("r.example/x:1")
	p, _ := ParsePlatform("linux/amd64")
	pull := func() {
		t.Helper()
		got, err := c.Resolve(t.Context(), one.e, ref, p)
		if err == nil {
			err = readLayer(t, one.e, c, got)
		}
		if err != nil {
			t.Error(err)
		}
	}
	pull()
	one.o.Reset()
	two.o.Reset()
	writeHosts(t, dir, "r.example", fmt.Sprintf("server = %q\n", two.o.URL()))
	pull()
	if n := one.o.Counters(); len(n) > 0 {
		t.Errorf("the old server was asked: %+v", n)
	}
	if n := two.o.Counters(); len(n) != 3 { // manifest, config, layer
		t.Errorf("the new server was asked %+v", n)
	}
}

// TestDeadMirrorIsRemembered checks that a mirror whose packets are dropped
// costs one dial_timeout, and the next pull no time.
func TestDeadMirrorIsRemembered(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	l.put("x:1", l.forPlatform("linux/amd64"))
	dir := hostsDir(t, "r.example", fmt.Sprintf("server = %q\n[host.\"http://dead.example\"]\ndial_timeout = \"20ms\"\n", l.o.URL()))
	var mu sync.Mutex
	dials := 0
	var log bytes.Buffer
	c, err := New(Options{HostsDir: dir, Log: logged(&log), Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "dead.example:80" {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
		mu.Lock()
		dials++
		mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref, _ := ParseReference("r.example/x:1")
	p, _ := ParsePlatform("linux/amd64")
	for range 3 {
		img, err := c.Resolve(t.Context(), l.e, ref, p)
		if err == nil {
			err = readLayer(t, l.e, c, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if dials != 1 {
		t.Errorf("the dead mirror was dialled %d times in three pulls", dials)
	}
	if s := log.String(); !strings.Contains(s, "dead.example") || !strings.Contains(s, "within 20ms") {
		t.Errorf("the log does not say what failed: %s", s)
	}
}

// TestErrorNamesAllHosts checks that an error names a mirror that wants a login
// and a registry that does not resolve, the mirror first, and each once.
func TestErrorNamesAllHosts(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{Auth: "basic"}, nil)
	dir := hostsDir(t, "r.invalid", fmt.Sprintf("server = \"https://r.invalid\"\n[host.%q]\n", l.o.URL()))
	c, err := New(Options{HostsDir: dir, Credentials: anonymous, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "r.invalid:") {
			return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: "r.invalid", IsNotFound: true}}
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref, _ := ParseReference("r.invalid/x:1")
	p, _ := ParsePlatform("linux/amd64")
	_, err = c.Resolve(t.Context(), l.e, ref, p)
	if !errors.Is(err, ranges.ErrDenied) {
		t.Fatalf("%v, want denied", err)
	}
	mirror, own := strings.Index(err.Error(), "requires a user and password"), strings.Index(err.Error(), "no such host")
	if mirror < 0 || own < mirror {
		t.Errorf("%q", err)
	}
}

// TestQuickResolve checks that with Patience a silent registry is given up
// soon, and later pulls fail at once for a while. An unreachable registry is
// given up at once.
func TestQuickResolve(t *testing.T) {
	const limit = 5 * time.Second
	for _, tt := range []struct {
		name string
		dial func(ctx context.Context) error
		took time.Duration
	}{
		{"packets are dropped", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, limit},
		{"no name server answers", func(ctx context.Context) error {
			<-ctx.Done()
			return &net.DNSError{Err: "i/o timeout", IsTimeout: true}
		}, limit},
		{"no route", func(context.Context) error {
			return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
		}, 0},
		{"no such name", func(context.Context) error { return &net.DNSError{Err: "no such host", IsNotFound: true} }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, err := ranges.New(ranges.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			c, err := New(Options{Patience: limit, Credentials: anonymous, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return nil, tt.dial(ctx)
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ref, _ := ParseReference("r.example/x:1")
			p, _ := ParsePlatform("linux/amd64")
			for i, want := range []time.Duration{tt.took, 0, 0} {
				start := time.Now()
				_, err := c.Resolve(t.Context(), e, ref, p)
				if d := time.Since(start); err == nil || d > want+100*time.Millisecond || d < want {
					t.Errorf("%s, pull %d: %v after %v, want %v", tt.name, i, err, d, want)
				}
				if i > 0 && !strings.Contains(err.Error(), "not asked again so soon") {
					t.Errorf("%s, pull %d: %v", tt.name, i, err)
				}
			}
			time.Sleep(firstPause)
			if _, err := c.Resolve(t.Context(), e, ref, p); err == nil || strings.Contains(err.Error(), "so soon") {
				t.Errorf("%s: after the pause: %v", tt.name, err)
			}
		})
	}
}

// TestWrongManifestAffectsOneImage checks that a manifest with a wrong digest
// does not affect other images of the registry.
func TestWrongManifestAffectsOneImage(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, func(o *Options) { o.Patience = time.Minute })
	bad, good := l.forPlatform("linux/amd64"), l.forPlatform("linux/amd64")
	l.put("bad:1", bad)
	l.put("good:1", good)
	d, err := bad.Digest()
	if err != nil {
		t.Fatal(err)
	}
	l.o.SetFaults(testorigin.Fault{Op: "GetManifest", Key: "bad@" + d.String(), Every: 1, Action: testorigin.ActFlip, At: 20})
	for range 2 {
		if _, err := l.resolve("bad@"+d.String(), "linux/amd64"); !errors.Is(err, ErrDigest) {
			t.Errorf("a wrong manifest: %v", err)
		}
		if _, err := l.resolve("good:1", "linux/amd64"); err != nil {
			t.Errorf("another image: %v", err)
		}
	}
}

// TestCompressedManifest checks a manifest that a proxy compressed without
// being asked to. The digest decides which form is the manifest.
func TestCompressedManifest(t *testing.T) {
	data := []byte(`{"schemaVersion":2}`)
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	w.Close()
	d := digest.FromBytes(data)
	gzipped := http.Header{"Content-Encoding": {"gzip"}}
	for _, tt := range []struct {
		name      string
		body      []byte
		header    http.Header
		announced digest.Digest
		want      digest.Digest
		ok        bool
	}{
		{"by digest", buf.Bytes(), gzipped, "", d, true},
		{"by tag, announced", buf.Bytes(), gzipped, d, "", true},
		{"by tag, without a digest", buf.Bytes(), gzipped, "", "", true},
		{"not compressed in spite of the header", data, gzipped, d, d, true},
		{"compressed without the header", buf.Bytes(), nil, "", d, false},
		{"another manifest", buf.Bytes(), gzipped, "", digest.FromString("other"), false},
		{"damaged", buf.Bytes()[:12], gzipped, "", d, false},
	} {
		h := tt.header.Clone()
		if tt.announced != "" {
			h.Set("Docker-Content-Digest", tt.announced.String())
		}
		doc, err := verified(tt.body, h, tt.want, maxManifest)
		if (err == nil) != tt.ok || tt.ok && doc.desc.Digest != d || !tt.ok && !errors.Is(err, ErrDigest) {
			t.Errorf("%s: %v, %v", tt.name, doc.desc, err)
		}
	}
}

// TestOldTypes checks configs and layers with media types that real builders
// have used.
func TestOldTypes(t *testing.T) {
	for config, ok := range map[string]bool{
		ocispec.MediaTypeImageConfig: true, dockerConfig: true, "": true, "application/octet-stream": true,
		"application/json": true, "text/html": true, "text/html; charset=utf-8": true, "application/vnd.cncf.helm.config.v1+json": false, "image/png": false,
	} {
		m := ocispec.Manifest{Config: ocispec.Descriptor{MediaType: config}}
		if err := checkManifest(m); (err == nil) != ok {
			t.Errorf("config of type %q: %v", config, err)
		}
		m.ArtifactType = "application/vnd.example"
		if err := checkManifest(m); err == nil && isOldConfig(ocispec.Manifest{Config: m.Config}) {
			t.Errorf("an artifact with a config of type %q passes", config)
		}
	}
	for layer, ok := range map[string]bool{
		dockerLayer: true, dockerLayer + ".gzip": true, dockerLayer + ".zstd": true, dockerForeign + ".gzip": true,
		ociLayer: true, ociLayer + "+gzip": true, ociLayer + "+zstd": true, ociForeignLayer + "+zstd": true,
		ociLayer + "+gzip+encrypted": false, "text/plain": false,
	} {
		m := ocispec.Manifest{
			Config: ocispec.Descriptor{MediaType: dockerConfig},
			Layers: []ocispec.Descriptor{{MediaType: layer, Digest: digest.FromString("")}},
		}
		if err := checkManifest(m); (err == nil) != ok {
			t.Errorf("layer of type %q: %v", layer, err)
		}
	}
}

// TestNoPlatform checks that an image without a platform is taken for the
// wanted one.
func TestNoPlatform(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	img := l.forPlatform("linux/amd64")
	l.put("x:1", withoutPlatform(t, img))
	got, err := l.resolve("x:1", "linux/amd64")
	if err != nil || got.Platform.Architecture != "amd64" || len(got.Notes) != 1 || len(got.Layers) != 1 {
		t.Fatal(got, err)
	}
}

// TestSchemes checks that http to an https server, and https to an http server,
// fail at once with an error that names the scheme.
func TestSchemes(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	curt := closesAfterHello(t)
	for _, tt := range []struct{ name, host, toml, want string }{
		{"a TLS server of Go's", strings.TrimPrefix(secure.URL, "https://"), "", "speaks TLS"},
		{"a TLS server that closes the connection", curt, "", "speaks TLS"},
		{"a plain server", "r.example", "server = \"https://" + l.o.Host() + "\"\n", "plain http"},
		{"a port out of range", "r.example", "server = \"http://127.0.0.1:99999\"\n", "invalid port"},
	} {
		dir := t.TempDir()
		if tt.toml != "" {
			dir = hostsDir(t, tt.host, tt.toml)
		}
		c, err := New(Options{HostsDir: dir, Credentials: anonymous})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := ParseReference(tt.host + "/x:1")
		if err != nil {
			t.Fatal(err)
		}
		p, _ := ParsePlatform("linux/amd64")
		_, err = c.Resolve(t.Context(), l.e, ref, p)
		c.Close()
		re, _ := errors.AsType[*ranges.Error](err)
		if re == nil || !strings.Contains(err.Error(), tt.want) || re.Attempts > 1 {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := ParseReference("127.0.0.1:99999/x"); err == nil || !strings.Contains(err.Error(), "99999") {
		t.Error(err)
	}
}

// TestForeignHost checks that a foreign layer counts under the host of its
// URLs, and that the registry is not asked again for a missing layer.
func TestForeignHost(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	data := bytes.Repeat([]byte("x"), 1000)
	d := digest.FromBytes(data)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer other.Close()
	ref, _ := ParseReference(l.o.Host() + "/x:1")
	src, err := l.c.Layer(ref, Layer{Descriptor: ocispec.Descriptor{MediaType: ociForeignLayer, Digest: d, Size: 1000, URLs: []string{other.URL + "/l"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := src.Host(), strings.TrimPrefix(other.URL, "http://"); got != want {
		t.Errorf("counts under %s, want %s", got, want)
	}
	for i := range int64(3) {
		body, _, err := src.Open(t.Context(), ranges.Request{Off: 300 * i, Len: 300, Attempt: int(i)})
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
	}
	if n := l.o.Count("GetBlob", "x@"+d.String()).Requests; n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestSlowManifestRequestedOnce checks that a slow manifest is requested once,
// because registries limit manifests per user.
func TestSlowManifestRequestedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the engine waits before it asks again")
	}
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	l.put("x:1", l.forPlatform("linux/amd64"))
	l.o.SetFaults(testorigin.Fault{Op: "GetManifest", Every: 1, Action: testorigin.ActStall, For: 600 * time.Millisecond})
	l.o.Reset()
	if _, err := l.resolve("x:1", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	if n := l.o.Count("GetManifest", "x:1").Requests; n != 1 {
		t.Errorf("the manifest was asked for %d times", n)
	}
}
