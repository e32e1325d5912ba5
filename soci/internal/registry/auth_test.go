package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/penstock/penstock/internal/nic"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
)

// gatedRegistry is a registry of one image with a token server. The test
// controls both.
type gatedRegistry struct {
	*httptest.Server
	l *lab

	mu     sync.Mutex
	asked  []*http.Request // to the token server
	token  func(w http.ResponseWriter, r *http.Request)
	refuse func(r *http.Request) (challenge string) // "" lets the request pass
}

func newGatedRegistry(t *testing.T) *gatedRegistry {
	t.Helper()
	g := &gatedRegistry{l: newLab(t, testorigin.RegistryOptions{}, nil)}
	g.l.put("org/x:1", g.l.forPlatform("linux/amd64"))
	g.token = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"good"}`) }
	g.refuse = func(r *http.Request) string {
		if r.Header.Get("Authorization") == "Bearer good" {
			return ""
		}
		return fmt.Sprintf(`Bearer realm="%s/token",service="s",scope="repository:org/x:pull"`, g.URL)
	}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	return g
}

func (g *gatedRegistry) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.URL.Path == "/token" {
		_ = r.ParseForm()
		g.asked = append(g.asked, r.Clone(context.Background()))
		g.token(w, r)
		return
	}
	if challenge := g.refuse(r); challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.Header.Del("Authorization")
	proxyTo(g.l.o.URL(), w, r)
}

// proxyTo forwards a request and returns its answer.
func proxyTo(to string, w http.ResponseWriter, r *http.Request) {
	out, _ := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.RequestURI(), nil)
	out.Header = r.Header.Clone()
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (g *gatedRegistry) reference(t *testing.T) Reference {
	t.Helper()
	ref, err := ParseReference(strings.TrimPrefix(g.URL, "http://") + "/org/x:1")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// pull resolves with a new client, and returns its log.
func (g *gatedRegistry) pull(t *testing.T, opts Options) (*Image, string, error) {
	t.Helper()
	var text strings.Builder
	opts.Log = slog.New(slog.NewTextHandler(&text, nil))
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, _ := ParsePlatform("linux/amd64")
	img, err := c.Resolve(t.Context(), g.l.e, g.reference(t), p)
	g.mu.Lock() // the last handler has ended
	defer g.mu.Unlock()
	return img, text.String(), err
}

// TestScopes checks that a token is requested with exactly the scopes of the
// challenge, and with a guessed one only if the challenge has none.
func TestScopes(t *testing.T) {
	for challenge, want := range map[string]string{
		`,scope="repository:mirror/docker.io/org/x:pull"`: "repository:mirror/docker.io/org/x:pull",
		`,scope="repository:a:pull repository:b:pull"`:    "repository:a:pull,repository:b:pull",
		``:          "repository:org/x:pull",
		`,scope=""`: "repository:org/x:pull",
	} {
		g := newGatedRegistry(t)
		g.refuse = func(r *http.Request) string {
			if r.Header.Get("Authorization") == "Bearer good" {
				return ""
			}
			return fmt.Sprintf(`Bearer realm="%s/token",service="s"`, g.URL) + challenge
		}
		if _, _, err := g.pull(t, Options{Credentials: anonymous}); err != nil {
			t.Errorf("%q: %v", challenge, err)
			continue
		}
		if got := strings.Join(g.asked[0].URL.Query()["scope"], ","); got != want {
			t.Errorf("challenge %q: asked with %q, want %q", challenge, got, want)
		}
	}
}

func anonymous(context.Context, string, string) (Credential, error) { return Credential{}, nil }

// TestAnswerTo checks the choice of the challenge to answer, given the last
// one. Harbor refuses an expired token with a Basic challenge.
func TestAnswerTo(t *testing.T) {
	basic, bearer, other := auth.Challenge{Scheme: auth.BasicAuth}, auth.Challenge{Scheme: auth.BearerAuth}, auth.Challenge{Scheme: auth.DigestAuth}
	for _, tt := range []struct {
		name   string
		all    []auth.Challenge
		status int
		last   *auth.Challenge
		want   *auth.Challenge
	}{
		{"first", []auth.Challenge{basic}, 401, nil, &basic},
		{"a token first", []auth.Challenge{bearer, basic}, 401, nil, &bearer},
		{"Harbor, after a token", []auth.Challenge{basic}, 401, &bearer, &bearer},
		{"a token again", []auth.Challenge{bearer}, 401, &bearer, &bearer},
		{"a password again", []auth.Challenge{basic}, 401, &basic, &basic},
		{"unknown", []auth.Challenge{other}, 401, nil, nil},
		{"a 401 without any", nil, 401, &bearer, nil},
		{"Amazon's 403", nil, 403, &basic, &basic},
		{"a 403 before any login", nil, 403, nil, nil},
	} {
		got := answerTo(tt.all, tt.status, tt.last)
		if (got == nil) != (tt.want == nil) || got != nil && got.Scheme != tt.want.Scheme {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestHarborTokenExpires checks that a token that expires during a pull is
// renewed, although the refusal names Basic and no password is configured.
func TestHarborTokenExpires(t *testing.T) {
	g := newGatedRegistry(t)
	token := "first"
	g.token = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"token":%q}`, token) }
	g.refuse = func(r *http.Request) string {
		switch r.Header.Get("Authorization") {
		case "Bearer " + token:
			return ""
		case "":
			return fmt.Sprintf(`Bearer realm="%s/token",service="s",scope="repository:org/x:pull"`, g.URL)
		}
		return `Basic realm="harbor"`
	}
	c, err := New(Options{Credentials: anonymous})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, _ := ParsePlatform("linux/amd64")
	img, err := c.Resolve(t.Context(), g.l.e, g.reference(t), p)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	token = "second"
	g.mu.Unlock()
	if err := readLayer(t, g.l.e, c, img); err != nil {
		t.Error(err)
	}
}

// TestExpiry checks that a token without a lifetime is renewed after a minute.
func TestExpiry(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for seconds, want := range map[int]time.Duration{0: time.Minute, -1: time.Minute, 1: time.Second, 300: 5 * time.Minute, math.MaxInt: 365 * 24 * time.Hour} {
		if got := expiry(seconds, now).Sub(now); got != want {
			t.Errorf("expires_in %d: %v, want %v", seconds, got, want)
		}
	}
}

// TestSecretEndsWithPull checks that the credential of one pull is not used for
// the next.
func TestSecretEndsWithPull(t *testing.T) {
	g := newGatedRegistry(t)
	g.refuse = func(r *http.Request) string {
		if user, password, ok := r.BasicAuth(); ok && user == "tenant-a" && password == "secret" {
			return ""
		}
		return `Basic realm="r"`
	}
	running := true // the pull that has the secret
	c, err := New(Options{Credentials: func(context.Context, string, string) (Credential, error) {
		if !running {
			return Credential{}, nil
		}
		return Credential{Username: "tenant-a", Password: "secret"}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, _ := ParsePlatform("linux/amd64")
	img, err := c.Resolve(t.Context(), g.l.e, g.reference(t), p)
	if err != nil {
		t.Fatal(err)
	}
	running = false
	if err := readLayer(t, g.l.e, c, img); err != nil {
		t.Errorf("the same pull: %v", err)
	}
	if _, err := c.Resolve(t.Context(), g.l.e, g.reference(t), p); !errors.Is(err, ranges.ErrDenied) {
		t.Errorf("another pull, without a secret: %v, want denied", err)
	}
	secret := Credential{Username: "tenant-a", Password: "secret"}
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(f, secret); strings.Contains(s, "secret") {
			t.Errorf("%s tells the secret: %s", f, s)
		}
	}
}

// TestHostHeaderScope checks that the header of hosts.toml is sent to its host
// only, even if a token server is elsewhere.
func TestHostHeaderScope(t *testing.T) {
	g := newGatedRegistry(t)
	var leaked []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		leaked = append(leaked, r.Header["X-Mirror-Key"]...)
		leaked = append(leaked, r.Header["Authorization"]...)
		fmt.Fprint(w, `{"token":"good"}`)
	}))
	defer other.Close()
	dir := hostsDir(t, g.reference(t).Host, fmt.Sprintf("server = %q\n[header]\nX-Mirror-Key = \"key\"\n", g.URL))
	realm := g.URL + "/token"
	seen := 0
	g.refuse = func(r *http.Request) string {
		if r.Header.Get("X-Mirror-Key") == "key" {
			seen++
		}
		if r.Header.Get("Authorization") == "Bearer good" {
			return ""
		}
		return fmt.Sprintf(`Bearer realm=%q,service="s"`, realm)
	}
	if _, _, err := g.pull(t, Options{HostsDir: dir, Credentials: anonymous}); err != nil {
		t.Fatal(err)
	}
	if len(g.asked) == 0 || g.asked[0].Header.Get("X-Mirror-Key") != "key" || seen == 0 {
		t.Errorf("the host itself did not get its header: %d times, %v", seen, g.asked)
	}
	realm = other.URL + "/token"
	if _, _, err := g.pull(t, Options{HostsDir: dir, Credentials: anonymous}); err != nil {
		t.Fatal(err)
	}
	if len(leaked) > 0 {
		t.Errorf("another host got %q", leaked)
	}
}

// hostsDir writes hosts.toml of a registry into a new directory.
func hostsDir(t *testing.T, registry, toml string) string {
	t.Helper()
	dir := t.TempDir()
	writeHosts(t, dir, registry, toml)
	return dir
}

func writeHosts(t *testing.T, dir, registry, toml string) {
	t.Helper()
	at := filepath.Join(dir, registry)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRealms lists the token servers that a registry may name.
func TestRealms(t *testing.T) {
	for _, tt := range []struct {
		realm    string
		http     bool
		registry scope
		ok       bool
	}{
		{"https://auth.example/token", false, scopePublic, true},
		{"https://8.8.8.8/token", false, scopePublic, true},
		{"http://auth.example/token", false, scopePublic, false},
		{"http://127.0.0.1:5000/token", false, scopeLoopback, false},
		{"http://auth.example/token", true, scopePublic, true},
		{"https://auth.example/token", true, scopePublic, true},
		{"https://169.254.169.254/latest", false, scopePublic, false},
		{"http://169.254.169.254/latest", true, scopePublic, false},
		{"http://169.254.169.254/latest", true, scopePrivate, false},
		{"http://[fe80::1]/", true, scopePrivate, false},
		{"https://10.0.0.1/", false, scopePublic, false},
		{"https://10.0.0.1/", false, scopeUnknown, false},
		{"https://10.0.0.1/", false, scopePrivate, true},
		{"https://[fd00::1]/", false, scopePrivate, true},
		{"https://localhost/", false, scopePrivate, false},
		{"https://[::1]:8443/", false, scopePublic, false},
		{"http://10.0.0.1/", true, scopeLoopback, true},
		{"ftp://auth.example/", true, scopePublic, false},
		{"file:///etc/passwd", true, scopeLoopback, false},
		{"::", true, scopeLoopback, false},
	} {
		if err := checkRealm(tt.realm, tt.http, tt.registry); (err == nil) != tt.ok {
			t.Errorf("%s for %v registry (http: %v): %v", tt.realm, tt.registry, tt.http, err)
		}
	}
	for ip, want := range map[string]scope{
		"8.8.8.8": scopePublic, "2001:4860::1": scopePublic, "10.1.2.3": scopePrivate, "172.31.0.1": scopePrivate,
		"192.168.1.1": scopePrivate, "100.64.0.1": scopePrivate, "fd12::1": scopePrivate, "169.254.169.254": scopeLinkLocal,
		"fe80::1": scopeLinkLocal, "127.8.8.8": scopeLoopback, "::1": scopeLoopback, "0.0.0.0": scopeLoopback,
		"::ffff:169.254.169.254": scopeLinkLocal, "64:ff9b::a9fe:a9fe": scopeLinkLocal, "224.0.0.1": scopeLinkLocal,
	} {
		if got := scopeOf(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s has %v address, want %v", ip, got, want)
		}
	}
}

// at is a connection that reports another peer address.
type at struct {
	net.Conn
	ip string
}

func (c at) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 443} }

// TestRealmRebinds checks that the name of a token server is judged by the
// address that it resolves to when the connection is made.
func TestRealmRebinds(t *testing.T) {
	for _, tt := range []struct {
		registry, realm string
		ok              bool
	}{
		{"8.8.8.8", "8.8.4.4", true},
		{"8.8.8.8", "169.254.169.254", false},
		{"8.8.8.8", "10.0.0.1", false},
		{"10.0.0.2", "10.0.0.1", true},
		{"10.0.0.2", "127.0.0.1", false},
	} {
		g := newGatedRegistry(t)
		g.refuse = func(r *http.Request) string {
			if r.Header.Get("Authorization") == "Bearer good" {
				return ""
			}
			return `Bearer realm="http://auth.example/token",service="s"`
		}
		to := g.Listener.Addr().String()
		c, err := New(Options{PlainHTTP: true, Credentials: anonymous, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, to)
			ip := tt.registry
			if strings.HasPrefix(address, "auth.example:") {
				ip = tt.realm
			}
			return at{conn, ip}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ref, _ := ParseReference("registry.example/org/x:1")
		p, _ := ParsePlatform("linux/amd64")
		_, err = c.Resolve(t.Context(), g.l.e, ref, p)
		c.Close()
		g.mu.Lock() // the last handler has ended
		asked := len(g.asked)
		g.mu.Unlock()
		if (err == nil) != tt.ok || !tt.ok && (!errors.Is(err, ranges.ErrDenied) || asked > 0) {
			t.Errorf("registry at %s, token server at %s: %v, asked %d times", tt.registry, tt.realm, err, asked)
		}
	}
}

// TestHelpers checks that a public image is pulled although its credential
// helper fails or is missing, and that a helper that hangs is killed with its
// children when the pull ends.
func TestHelpers(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("HOME", bin)
	t.Setenv("DOCKER_CONFIG", bin)
	fifo := filepath.Join(bin, "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"fails": "echo 'the vault is locked \033[2J'; exit 1",
		"empty": "echo '" + helperNotFound + "'; exit 1",
		"odd":   "echo secret-but-no-json",
		"hangs": "sleep 1000 > '" + fifo + "' & sleep 1000", // a child that would outlive the helper
	} {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g := newGatedRegistry(t)
	host := g.reference(t).Host
	config := func(helper string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:%q}}`, host, helper), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for helper, warns := range map[string]string{"fails": `the vault is locked \\x1b[2J`, "empty": "", "odd": "not JSON", "missing": "not found", "../x": "must not be a path"} {
		config(helper)
		_, log, err := g.pull(t, Options{})
		if err != nil || !strings.Contains(log, warns) || warns == "" && log != "" || strings.Contains(log, "secret-but") {
			t.Errorf("%s: %v, log %q", helper, err, log)
		}
	}
	// The error for a private image names the failed helper.
	g.token = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
	config("fails")
	if _, _, err := g.pull(t, Options{}); !errors.Is(err, ranges.ErrDenied) || !strings.Contains(err.Error(), "the vault is locked") {
		t.Errorf("private image: %v", err)
	}
	config("hangs")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the pull was cancelled")
	done := make(chan error)
	go func() {
		_, err := DockerCredentials(ctx, host, "org/x")
		done <- err
	}()
	alive, err := os.Open(fifo) // returns when the child runs
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, alive); n != 0 || err != nil { // ends when the child has ended
		t.Error(n, err)
	}
}

// TestCredentialsByPath checks that the longest path above the repository wins,
// then the host, and that the credential of another path is never used.
func TestCredentialsByPath(t *testing.T) {
	entry := func(user string) string { return fmt.Sprintf(`{"username":%q,"password":"p"}`, user) }
	file := func(pairs ...string) string {
		var all []string
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, fmt.Sprintf("%q:%s", pairs[i], entry(pairs[i+1])))
		}
		return `{"auths":{` + strings.Join(all, ",") + `}}`
	}
	for _, tt := range []struct{ name, file, host, repository, want string }{
		{"the namespace", file("r.example/org", "org", "r.example/other", "other"), "r.example", "org/x", "org"},
		{"the other namespace", file("r.example/org", "org", "r.example/other", "other"), "r.example", "other/x", "other"},
		{"neither namespace", file("r.example/org", "org", "r.example/other", "other"), "r.example", "third/x", ""},
		{"no part of a name", file("r.example/org", "org"), "r.example", "organic/x", ""},
		{"namespace before host", file("r.example/org", "org", "r.example", "host"), "r.example", "org/x", "org"},
		{"host for the rest", file("r.example/org", "org", "r.example", "host"), "r.example", "x", "host"},
		{"the longest", file("r.example/a", "a", "r.example/a/b", "ab", "r.example/a/b/c", "abc"), "r.example", "a/b/x", "ab"},
		{"the repository itself", file("r.example/a", "a", "r.example/a/b", "ab"), "r.example", "a/b", "ab"},
		{"another port", file("r.example:5000", "port"), "r.example", "x", ""},
		{"docker's form", file("https://r.example/v2/", "https"), "r.example", "x", "https"},
		{"plain before docker's form", file("https://r.example/v1/", "https", "r.example", "plain"), "r.example", "x", "plain"},
		{"Docker Hub", file("https://index.docker.io/v1/", "hub"), "docker.io", "library/x", "hub"},
		{"Docker Hub as podman writes it", file("docker.io", "hub"), "docker.io", "library/x", "hub"},
		{"a namespace of Docker Hub", file("docker.io/org", "org", "https://index.docker.io/v1/", "hub"), "registry-1.docker.io", "org/x", "org"},
		{"none", `{}`, "r.example", "x", ""},
	} {
		f, err := parseAuths("f", []byte(tt.file))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // the order of a map must not matter
			c, found, err := f.lookup(t.Context(), tt.host, tt.repository)
			if err != nil || c.Username != tt.want || found != (tt.want != "") {
				t.Errorf("%s: %q, %v, %v; want %q", tt.name, c.Username, found, err, tt.want)
				break
			}
		}
	}
	env := map[string]string{"REGISTRY_AUTH_FILE": "/a/auth.json", "DOCKER_CONFIG": "/d"}
	get := func(k string) string { return env[k] }
	if got := strings.Join(authPaths(get, "/home/u"), " "); got != "/d/config.json /a/auth.json" {
		t.Error(got)
	}
	clear(env)
	if got := strings.Join(authPaths(get, "/home/u"), " "); got != "/home/u/.docker/config.json /home/u/.config/containers/auth.json" {
		t.Error(got)
	}
	if got := authPaths(get, ""); len(got) > 0 {
		t.Error(got)
	}
}

// TestRealmRefusedBeforeDial dials over chosen interfaces. A token server at an
// address that the registry may not name is refused before a packet is sent: a
// connection to the closed port would fail with ECONNREFUSED instead.
func TestRealmRefusedBeforeDial(t *testing.T) {
	closed := testport.Addr(t)
	spread, err := nic.New(nic.Options{Locals: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, timeout := range []time.Duration{0, time.Minute} {
		d := newDialer(spread.DialContext, "8.8.8.8:443", timeout)
		d.spread = spread
		if _, err := d.toRealm(closed)(t.Context(), "tcp", closed); !errors.Is(err, errScope) {
			t.Errorf("token server on loopback, public registry, timeout %v: error %v", timeout, err)
		}
		d = newDialer(spread.DialContext, "127.0.0.1:443", timeout)
		d.spread = spread
		if _, err := d.toRealm(closed)(t.Context(), "tcp", closed); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("token server and registry on loopback, timeout %v: error %v", timeout, err)
		}
	}
}
