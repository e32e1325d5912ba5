package dnsplugin

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// filled returns a cache with entries of several names, types and bits.
func filled(t testing.TB, cfg Config) *Cache {
	t.Helper()
	src := &source{}
	c := cacheOf(t, cfg, src)
	src.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		q := r.Question[0]
		if q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: 1, Ttl: 300}, A: net.IP{192, 0, 2, 1}})
		} else {
			m.Rcode = dns.RcodeNameError
			m.Ns = append(m.Ns, &dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 300}, Ns: "ns.", Mbox: "host.", Minttl: 300})
		}
		return 0, w.WriteMsg(m)
	}
	ask(t, c, question("a.example.", dns.TypeA))
	ask(t, c, question("a.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	ask(t, c, question("A.example.", dns.TypeAAAA))
	ask(t, c, question("b.a.example.", dns.TypeA))
	ask(t, c, question("ba.example.", dns.TypeA))
	ask(t, c, question("a.example.net.", dns.TypeA))
	return c
}

// call sends a request to c without a socket.
func call(c *Cache, method, target string) (status int, body string) {
	w := httptest.NewRecorder()
	c.controlled(w, httptest.NewRequest(method, target, nil))
	return w.Code, w.Body.String()
}

func (c *Cache) entries() int { return c.sides.Success.Store.Len() + c.sides.Denial.Store.Len() }

func TestControlFlushesOnlySelectedEntries(t *testing.T) {
	for target, want := range map[string]int{
		"/flush?name=a.example":             3,
		"/flush?name=A.EXAMPLE.":            3,
		"/flush?name=a.example&type=a":      2,
		"/flush?name=a.example&type=TYPE28": 1,
		"/flush?name=a.example&type=MX":     0,
		"/flush?name=example":               0,
		"/flush?zone=a.example":             4,
		"/flush?zone=example&type=AAAA":     1,
		"/flush?zone=example":               5,
		"/flush?zone=.":                     6,
		"/flush?all":                        6,
	} {
		c := filled(t, Config{})
		if n := c.entries(); n != 6 {
			t.Fatalf("%d entries", n)
		}
		status, body := call(c, http.MethodPost, target)
		if gone := 6 - c.entries(); status != http.StatusOK || gone != want || !strings.HasPrefix(body, "flushed "+string(rune('0'+want))) {
			t.Errorf("%s: %d %q, %d are gone, want %d", target, status, body, gone, want)
		}
	}
}

func TestFlushedNameIsFetchedAgain(t *testing.T) {
	c := filled(t, Config{})
	asked := c.Next.(*source).count()
	call(c, http.MethodPost, "/flush?name=a.example&type=A")
	ask(t, c, question("a.example.", dns.TypeA))
	ask(t, c, question("ba.example.", dns.TypeA))
	if n := c.Next.(*source).count() - asked; n != 1 {
		t.Errorf("%d questions to the source", n)
	}
	// The series of metrics follow.
	m := c.meters.Of("")
	call(c, http.MethodPost, "/flush?all")
	if s, d := value(t, m.Success.Entries), value(t, m.Denial.Entries); s+d != 0 {
		t.Errorf("%v and %v entries in the metrics", s, d)
	}
}

func TestControlDumps(t *testing.T) {
	c := filled(t, Config{})
	clock := c.now()
	c.now = func() time.Time { return clock }
	status, body := call(c, http.MethodGet, "/dump?name=a.example")
	for _, want := range []string{
		"; a.example. IN A: success, NOERROR, 300 of 300 s left, ",
		"; a.example. IN A: success, NOERROR, DO, 300 of 300 s left, ",
		"; A.example. IN AAAA: denial, NXDOMAIN, 300 of 300 s left, ",
		"\na.example.\t300\tIN\tA\t192.0.2.1\n",
		"\n; authority\nexample.\t300\tIN\tSOA\t",
		"; 3 entries\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in %d:\n%s", want, status, body)
		}
	}
	// All but the comments can be read as a zone file.
	n := 0
	for p := dns.NewZoneParser(strings.NewReader(body), ".", ""); ; n++ {
		if _, ok := p.Next(); !ok {
			if p.Err() != nil {
				t.Error(p.Err())
			}
			break
		}
	}
	if n != 3 {
		t.Errorf("%d records", n)
	}
}

func TestControlRefuses(t *testing.T) {
	c := filled(t, Config{})
	for _, tt := range []struct {
		method, target string
		status         int
		want           string
	}{
		{"POST", "/flush", 400, "give one of name=NAME, zone=ZONE and all, found 0"},
		{"POST", "/flush?name=a&zone=b", 400, "found 2"},
		{"POST", "/flush?name=a&name=b", 400, "name is given 2 times"},
		{"POST", "/flush?name=", 400, `"" is not a domain name`},
		{"POST", "/flush?name=a..b", 400, `"a..b" is not a domain name`},
		{"POST", "/flush?name=" + strings.Repeat("a", 64), 400, "is not a domain name"},
		{"POST", "/flush?zone=%ff%ff..", 400, "is not a domain name"},
		{"POST", "/flush?name=a&type=B", 400, `type "B" is unknown`},
		{"POST", "/flush?name=a&type=TYPE0", 400, "is unknown"},
		{"POST", "/flush?name=a&type=TYPE65536", 400, "is unknown"},
		{"POST", "/flush?all=false", 400, "all takes no value"},
		{"POST", "/flush?host=a", 400, `unknown parameter "host"`},
		{"POST", "/flush?name=%zz", 400, "can't be parsed"},
		{"GET", "/dump?type=A", 400, "found 0"},
		{"GET", "/flush?all", 405, "/flush needs POST"},
		{"DELETE", "/dump?all", 405, "/dump needs GET"},
		{"GET", "/", 404, "GET /dump or POST /flush"},
	} {
		status, body := call(c, tt.method, tt.target)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: %d %q", tt.method, tt.target, status, body)
		}
	}
	if c.entries() != 6 {
		t.Error("something was flushed")
	}
}

// FuzzSelector: any query string is refused or means something, and never panics.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{"name=a.example&type=A", "zone=.", "all", "name=%00\\.", "type=TYPE1"} {
		f.Add(s)
	}
	c := filled(f, Config{})
	f.Fuzz(func(t *testing.T, raw string) {
		sel, err := parseSelector(raw)
		if err == nil && len(sel.name) == 0 {
			t.Error("no name")
		}
		if err == nil {
			c.dump(httptest.NewRecorder(), &sel)
		}
	})
}

// dialled returns a client of the socket at path.
func dialled(t *testing.T, path string) *http.Client {
	t.Helper()
	// A POST is not sent again when a server that ends closes an idle connection.
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return &http.Client{Transport: tr}
}

func flushAll(t *testing.T, client *http.Client) string {
	t.Helper()
	res, err := client.Post("http://localhost/flush?all", "", nil)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func claimed(t *testing.T, path string) *Cache {
	t.Helper()
	c := filled(t, Config{Control: path})
	if err := proc.controls.claim(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proc.controls.release(c) })
	return c
}

func TestControlSocketLivesAsLongAsTheInstance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.sock")
	c := claimed(t, path)
	st, err := os.Stat(path)
	if err != nil || st.Mode() != fs.ModeSocket|controlMode {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if body := flushAll(t, dialled(t, path)); body != "flushed 6 entries\n" {
		t.Error(body)
	}
	if err := proc.controls.claim(filled(t, Config{Control: path})); err == nil || !strings.Contains(err.Error(), "another server block has it") {
		t.Errorf("claimed twice: %v", err)
	}
	proc.controls.release(c)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestControlSocketIsTakenOverAtAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.sock")
	old := claimed(t, path)
	client := dialled(t, path)
	proc.controls.offer(old)
	next := filled(t, Config{Control: path})
	if err := proc.controls.claim(next); err != nil {
		t.Fatal(err)
	}
	proc.controls.release(old)
	if body := flushAll(t, client); body != "flushed 6 entries\n" || next.entries() != 0 || old.entries() != 6 {
		t.Errorf("%q: %d, %d", body, next.entries(), old.entries())
	}
	proc.controls.release(next)
	if body := flushAll(t, client); !strings.Contains(body, "no such file") {
		t.Error(body)
	}
}

func TestFailedReloadRestoresTheControlSocket(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "cache.sock"), filepath.Join(dir, "other.sock")
	old := claimed(t, path)
	for range 2 {
		proc.controls.offer(old)
		for _, p := range []string{path, other} {
			if err := proc.controls.claim(filled(t, Config{Control: p})); err != nil {
				t.Fatal(err)
			}
		}
		proc.controls.rollback()
		proc.controls.rollback() // every cache of the instance calls it
	}
	if body := flushAll(t, dialled(t, path)); body != "flushed 6 entries\n" || old.entries() != 0 {
		t.Error(body)
	}
	if _, err := os.Lstat(other); !os.IsNotExist(err) {
		t.Errorf("the socket of the instance that failed: %v", err)
	}
}

func TestControlSocketDoesNotReplaceUsedPaths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	attempt := func() error {
		c, err := newCache("penstock", Config{Control: path}, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		defer proc.controls.release(c)
		return proc.controls.claim(c)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attempt(); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := attempt(); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Error(err)
	}
	l.SetUnlinkOnClose(false) // as a killed process leaves it
	l.Close()
	if err := attempt(); err != nil {
		t.Error(err)
	}
	path = filepath.Join(dir, "no", "s")
	if err := attempt(); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}
