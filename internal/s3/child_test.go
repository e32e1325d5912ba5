package s3

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// child runs a test again in a new process with more environment, because Go
// reads the proxies and the system's authorities once per process. It returns
// true in the new process; the other one then ends the test.
func child(t *testing.T, env func() []string) bool {
	t.Helper()
	if os.Getenv("PENSTOCK_CHILD") == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), "PENSTOCK_CHILD="+t.Name()), env()...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "--- PASS: "+t.Name()) {
		t.Errorf("child: %v\n%s", err, out.String())
	}
	return false
}

// tlsServer serves HTTPS with a new self-signed certificate, and returns its URL
// and the certificate.
func tlsServer(t *testing.T) (url, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: t.Name()}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A CA bundle from any source adds to the authorities of the system.
func TestCABundleAdds(t *testing.T) {
	if !child(t, func() []string {
		dir := t.TempDir()
		system, c1 := tlsServer(t)
		private, c2 := tlsServer(t)
		rewrite(t, filepath.Join(dir, "system.pem"), c1)
		rewrite(t, filepath.Join(dir, "private.pem"), c2)
		rewrite(t, filepath.Join(dir, "config"), "[profile p]\nca_bundle = "+filepath.Join(dir, "private.pem")+"\n")
		return []string{"SSL_CERT_FILE=" + filepath.Join(dir, "system.pem"), "SSL_CERT_DIR=" + dir + "/none", "TEST_DIR=" + dir, "TEST_SYSTEM=" + system, "TEST_PRIVATE=" + private}
	}) {
		return
	}
	dir := os.Getenv("TEST_DIR")
	private := filepath.Join(dir, "private.pem")
	for _, tc := range []struct {
		name   string
		o      Options
		env    [2]string
		system bool // without a bundle
	}{
		{name: "none", system: true},
		{name: "option", o: Options{CABundle: private}},
		{name: "AWS_CA_BUNDLE", env: [2]string{"AWS_CA_BUNDLE", private}},
		{name: "profile", env: [2]string{"AWS_PROFILE", "p"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			isolate(t)
			t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
			if tc.env[0] != "" {
				t.Setenv(tc.env[0], tc.env[1])
			}
			for i, url := range []string{os.Getenv("TEST_SYSTEM"), os.Getenv("TEST_PRIVATE")} {
				tc.o.Endpoint, tc.o.Credentials = url, StaticCredentials("a", "b", "")
				c, err := New(t.Context(), tc.o)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, err = c.Head(t.Context(), "data", "k")
				if want := i == 1 && tc.system; (err != nil) != want {
					t.Errorf("server %d: %v", i, err)
				}
			}
		})
	}
}

// The error of a proxy that cannot be used names the proxy and not the store
// behind it.
func TestErrorNamesProxy(t *testing.T) {
	if !child(t, func() []string {
		denies := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodConnect:
				w.WriteHeader(http.StatusForbidden)
			case strings.Contains(r.URL.Path, "who"):
				w.WriteHeader(http.StatusProxyAuthRequired)
			default:
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, "<html>Access to this site is not permitted</html>")
			}
		}))
		t.Cleanup(denies.Close)
		return []string{"HTTP_PROXY=" + denies.URL, "HTTPS_PROXY=" + strings.Replace(denies.URL, "http://", "http://user:hunter2@", 1), "NO_PROXY=127.0.0.1"}
	}) {
		return
	}
	isolate(t)
	proxy := os.Getenv("HTTP_PROXY")
	for _, tc := range []struct{ endpoint, key, want string }{
		{"https://s3.corp.test", "k", "the proxy " + proxy + " can't be used for https://s3.corp.test (it answers CONNECT with 403 Forbidden): check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"},
		{"http://s3.corp.test", "k", "the answer is a web page, which a proxy or gateway gives and a store does not"},
		{"http://s3.corp.test", "who", "the proxy " + proxy + " wants to know who asks"},
	} {
		c, err := New(t.Context(), Options{Endpoint: tc.endpoint, Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _, err = get(t.Context(), c.Source("data", tc.key, SourceOptions{}), ranges.Request{Len: 1})
		wantText(t, err, tc.want)
		_, err = c.Head(t.Context(), "data", tc.key)
		if tc.key == "k" && strings.HasPrefix(tc.endpoint, "http:") {
			tc.want = "web page" // a HEAD shows a web page by its content type alone
		}
		wantText(t, err, tc.want)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v has the password", err)
		}
	}
}

// The error of a proxy that does not answer names the proxy as well.
func TestErrorNamesDeadProxy(t *testing.T) {
	if !child(t, func() []string { return []string{"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1"} }) {
		return
	}
	isolate(t)
	for _, endpoint := range []string{"http://s3.corp.test", "https://s3.corp.test"} {
		c, err := New(t.Context(), Options{Endpoint: endpoint, Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := "the proxy http://127.0.0.1:1 can't be used for " + endpoint + " (connection refused): check HTTPS_PROXY"
		_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 1})
		wantFault(t, err, ranges.Retryable, want)
		_, err = c.Head(t.Context(), "data", "k")
		wantText(t, err, want)
	}
}

// Errors name the wrong bucket, key or credential before a request is sent.
func TestBadNames(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	for bucket, want := range map[string]string{
		"":                 "bucket: no name is given",
		"s3://data/k":      `bucket "s3://data/k": give the name alone, "data"`,
		"data/models":      `a name has no slash: the bucket is "data", and "models" is a prefix`,
		"data\n":           "it has white space at its beginning or end: remove it",
		" data":            "it has white space at its beginning or end: remove it",
		`"data"`:           "it is in quotes: remove them",
		"da ta":            "not a bucket name: use 3 to 63",
		"daten-für-alle":   "not a bucket name: use 3 to 63",
		"-data":            "not a bucket name",
		"data\x1b[2J\x00x": `bucket "data\x1b[2J\x00x": not a bucket name`,
	} {
		wantText(t, CheckBucket(bucket), want)
		_, err := c.Head(t.Context(), bucket, "k")
		wantText(t, err, want)
		_, err = collect(t.Context(), c, bucket, ListOptions{})
		wantText(t, err, want)
		_, _, err = get(t.Context(), c.Source(bucket, "k", SourceOptions{}), ranges.Request{Len: 1})
		if bucket != "" {
			wantFault(t, err, ranges.Permanent, want)
		}
	}
	for _, bucket := range []string{"data", "My_Bucket.2011", "b", "data--use1-az4--x-s3", "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", strings.Repeat("b", 255)} {
		if err := CheckBucket(bucket); err != nil {
			t.Error(err)
		}
	}
	if n := origin.Count("*", "*").Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
	for value, want := range map[string]string{
		"hunter2": "", "a/b+c=": "", "": "is empty", " \n": "is nothing but white space", "hunter2\n": "ends with a line break", "hunter2\r\n": "ends with a line break",
		" hunter2": "has white space at its beginning or end", "hunter2\t": "has white space at its beginning or end", `"hunter2"`: "is in quotes", "'hunter2'": "is in quotes",
		"hunter2 hunter3": "has white space in it", "hunter2\nx": "has white space in it", "hünter2": "has a character that no key has", "\ufeffhunter2": "has a character that no key has",
		"hunter2\x00": "has a character that no key has",
	} {
		got := KeyFlaw(value)
		if want == "" && got != "" || !strings.HasPrefix(got, want) || strings.Contains(got, "hunter") || strings.Contains(got, "ünter") {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
	for i, keys := range [][3]string{{"AKIA\n", "s", ""}, {"AKIA", " s", ""}, {"AKIA", "s", "t\n"}} {
		_, err := New(t.Context(), Options{Credentials: StaticCredentials(keys[0], keys[1], keys[2])})
		wantText(t, err, "s3: "+optionNames[i]+" ")
	}
}

// The error for a bucket whose host name does not exist says how to correct it.
func TestVirtualHostAdvice(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{
		Endpoint: "http://s3.corp.test", VirtualHostStyle: true, Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answerWith(c, func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "models.s3.corp.test", IsNotFound: true}}
	})
	want := "if s3.corp.test has no host name for each bucket, put the bucket into the path: --path-style of penstock-cast and penstock-csi, or addressing_style = path in the profile"
	_, err = c.Head(t.Context(), "models", "k")
	wantText(t, err, want)
	_, _, err = get(t.Context(), c.Source("models", "k", SourceOptions{}), ranges.Request{Len: 1})
	wantText(t, err, want)
}
