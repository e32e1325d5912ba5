package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) {
	if os.Getenv(interfacesEnv) != "" {
		if err := runInterfacesClient(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// isolate hides this machine's AWS configuration from a test.
func isolate(t testing.TB) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", nowhere)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// start runs an origin with a bucket "data".
func start(t testing.TB, o testorigin.Options) *testorigin.Origin {
	t.Helper()
	isolate(t)
	origin, err := testorigin.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	if err := origin.CreateBucket("data", testorigin.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return origin
}

// connect makes a client of the origin.
func connect(t testing.TB, origin *testorigin.Origin, o Options) *Client {
	t.Helper()
	if o.Endpoint == "" {
		o.Endpoint = origin.URL()
	}
	if o.Credentials == nil && !o.Anonymous {
		o.Credentials = StaticCredentials(testorigin.AccessKey, testorigin.SecretKey, "")
	}
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// faults sets a fault script.
func faults(t testing.TB, origin *testorigin.Origin, script string) {
	t.Helper()
	list, err := testorigin.ParseFaults(script)
	if err != nil {
		t.Fatal(err)
	}
	origin.SetFaults(list...)
}

// realBytes returns n bytes of this Go tree, so that tests run on real input.
func realBytes(t testing.TB, n int) []byte {
	t.Helper()
	var all bytes.Buffer
	files, err := filepath.Glob(filepath.Join(runtime.GOROOT(), "src", "net", "http", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go tree under %s: %v", runtime.GOROOT(), err)
	}
	for i := 0; all.Len() < n; i++ {
		p, err := os.ReadFile(files[i%len(files)])
		if err != nil {
			t.Fatal(err)
		}
		all.Write(p)
	}
	return all.Bytes()[:n]
}

// get reads one range of a source to its end.
func get(ctx context.Context, src ranges.Source, req ranges.Request) ([]byte, ranges.Info, error) {
	body, info, err := src.Open(ctx, req)
	if err != nil {
		return nil, info, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return data, info, err
}

// wantFault checks kind and message of a source's failure.
func wantFault(t *testing.T, err error, kind ranges.FaultKind, text string) {
	t.Helper()
	var f *ranges.Fault
	if !errors.As(err, &f) {
		t.Fatalf("error %v is no fault", err)
	}
	if f.Kind != kind {
		t.Errorf("fault is %v, want %v: %v", f.Kind, kind, err)
	}
	wantText(t, err, text)
}

// wantText checks that an error is one line with a text and without secrets.
func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", text)
	}
	if s := err.Error(); !strings.Contains(s, text) || strings.ContainsAny(s, "\r\n") {
		t.Errorf("message %q, want one line with %q", s, text)
	}
	for _, secret := range []string{testorigin.SecretKey, "AWS4-HMAC", "X-Amz-Signature"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("message %q has a secret", err)
		}
	}
}

// roundTrip is an http.RoundTripper made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answerWith replaces the network of a client.
func answerWith(c *Client, f roundTrip) {
	c.client.Transport, c.fresh.Transport = f, f
}

// answer makes an HTTP answer.
func answer(r *http.Request, status int, header http.Header, body string) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	if header.Get("Content-Length") == "" { // as servers send it for HEAD, too
		header = header.Clone()
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r, TLS: &tls.ConnectionState{},
	}
}
