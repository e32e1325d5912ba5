package s3

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		status int
		code   string
		want   ranges.FaultKind
	}{
		{503, "SlowDown", ranges.Throttled},
		{503, "", ranges.Throttled},
		{429, "", ranges.Throttled},
		{400, "ThrottlingException", ranges.Throttled},
		{500, "InternalError", ranges.Retryable},
		{502, "", ranges.Retryable},
		{504, "", ranges.Retryable},
		{400, "RequestTimeout", ranges.Retryable},
		{409, "OperationAborted", ranges.Retryable},
		{412, "PreconditionFailed", ranges.Changed},
		{412, "", ranges.Changed},
		{404, "NoSuchKey", ranges.NotFound},
		{404, "NoSuchBucket", ranges.NotFound},
		{404, "NoSuchVersion", ranges.NotFound},
		{404, "", ranges.NotFound},
		{405, "MethodNotAllowed", ranges.NotFound},
		{403, "AccessDenied", ranges.Denied},
		{403, "", ranges.Denied},
		{401, "", ranges.Denied},
		{403, "InvalidAccessKeyId", ranges.Denied},
		{400, "ExpiredToken", ranges.Denied},
		{400, "InvalidToken", ranges.Denied},
		{416, "InvalidRange", ranges.OutOfRange},
		{416, "", ranges.OutOfRange},
		{400, "InvalidArgument", ranges.Permanent},
		{501, "NotImplemented", ranges.Permanent},
		{301, "PermanentRedirect", ranges.Permanent},
		{409, "BucketNotEmpty", ranges.Permanent},
	} {
		if got := classify(tc.status, tc.code); got != tc.want {
			t.Errorf("%d %s is %v, want %v", tc.status, tc.code, got, tc.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, tc := range []struct {
		status                      int
		code, message, header, body string
		want                        string
	}{
		{301, "PermanentRedirect", "", "eu-west-1", "", "eu-west-1"},
		{301, "", "", "eu-west-1", "", "eu-west-1"},
		{307, "TemporaryRedirect", "", "", "eu-west-1", "eu-west-1"},
		{400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'", "", "", "eu-west-1"},
		{400, "AuthorizationHeaderMalformed", "", "", "eu-west-1", "eu-west-1"},
		{400, "", "", "eu-west-1", "", "eu-west-1"}, // HEAD
		{403, "AccessDenied", "", "eu-west-1", "", ""},
		{404, "NoSuchKey", "", "eu-west-1", "", ""},
		{301, "PermanentRedirect", "", "not a region", "", ""},
		{301, "PermanentRedirect", "", "", "", ""},
	} {
		if got := redirect(tc.status, tc.code, tc.message, tc.header, tc.body); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// The retry loop of the package waits as long as the policy says, gives up when
// the policy does, and stops when the context ends. The test runs in fake time,
// without a network.
func TestCallRetries(t *testing.T) {
	isolate(t)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, err := New(t.Context(), Options{
			Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""),
			Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		storm := func(until int, h http.Header) {
			n = 0
			answerWith(c, func(r *http.Request) (*http.Response, error) {
				if n++; n <= until {
					return answer(r, 503, h, "<Error><Code>SlowDown</Code></Error>"), nil
				}
				return answer(r, 200, http.Header{"Etag": {`"e"`}}, ""), nil
			})
		}
		start := time.Now()
		storm(2, http.Header{"Retry-After": {"7"}})
		if _, err := c.Head(t.Context(), "b", "k"); err != nil || n != 3 || time.Since(start) != 14*time.Second {
			t.Errorf("%v after %d requests and %v", err, n, time.Since(start))
		}
		start = time.Now()
		storm(100, nil)
		_, err = c.Head(t.Context(), "b", "k")
		// The last attempt starts when the outage has lasted for Outage, or within the
		// shortest pause (20 ms) after that if the attempt before ended near it.
		if took := time.Since(start); n < 15 || n > 40 || took < ranges.DefaultOutage || took > ranges.DefaultOutage+20*time.Millisecond {
			t.Errorf("%d requests in %v", n, took)
		}
		wantText(t, err, "503")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start = time.Now()
		storm(100, http.Header{"Retry-After": {"7"}})
		if _, err := c.Head(ctx, "b", "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 50*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if s := log.String(); !strings.Contains(s, "s3 request retried") || strings.Contains(s, "AWS4-HMAC") {
			t.Errorf("log %q", s)
		}
	})
}

func TestCertificate(t *testing.T) {
	isolate(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}))
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()
	o := Options{Endpoint: srv.URL, Credentials: StaticCredentials("a", "b", "")}
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Head(t.Context(), "b", "k")
	wantText(t, err, "certificate that is not trusted")
	_, _, err = get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.Permanent, "set AWS_CA_BUNDLE")
	c.Close()
	o.CABundle = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(o.CABundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Head(t.Context(), "b", "k"); err != nil {
		t.Errorf("with the authority: %v", err)
	}
}

func TestSSECustomerKey(t *testing.T) {
	isolate(t)
	key := bytes.Repeat([]byte{7}, 32)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""), SSECustomerKey: key, Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		t.Fatal(err)
	}
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		for name, want := range map[string]string{"Algorithm": "AES256", "Key": *c.sseC.key, "Key-Md5": *c.sseC.md5} {
			if got := r.Header.Get("X-Amz-Server-Side-Encryption-Customer-" + name); got != want {
				t.Errorf("%s: %s %q, want %q", r.Method, name, got, want)
			}
		}
		return answer(r, 400, nil, "<Error><Code>InvalidRequest</Code><Message>no</Message></Error>"), nil
	})
	_, _, e1 := get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Len: 1})
	_, e2 := c.Head(t.Context(), "b", "k")
	_, e3 := c.Put(t.Context(), "b", "k", strings.NewReader("x"), PutOptions{})
	for _, err := range []error{e1, e2, e3} {
		if err == nil || strings.Contains(err.Error(), *c.sseC.key) {
			t.Errorf("error %v", err)
		}
	}
}

func TestSSE(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""), SSE: "aws:kms:dsse", SSEKMSKeyID: "key-1", Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		t.Fatal(err)
	}
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		if r.Method == "PUT" && (r.Header.Get("X-Amz-Server-Side-Encryption") != "aws:kms:dsse" || r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != "key-1") {
			t.Errorf("header %v", r.Header)
		}
		return answer(r, 200, http.Header{"Etag": {`"e"`}}, ""), nil
	})
	if _, err := c.Put(t.Context(), "b", "k", strings.NewReader("x"), PutOptions{}); err != nil {
		t.Error(err)
	}
}

// Answers of proxies, and of servers that do not follow the protocol, are errors.
func TestStrangeAnswers(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		status int
		body   string
		kind   ranges.FaultKind
		text   string
	}{
		{502, "<html><body>Bad\ngateway</body></html>", ranges.Retryable, "(502)"},
		{503, "", ranges.Throttled, "(503)"},
		{403, "<Error><Code>Access\nDenied</Code>", ranges.Denied, "access denied"},
		{400, "<Error><Code>Odd</Code><Message>two\nlines\x1b[31m</Message></Error>", ranges.Permanent, "(400"},
		{404, "<Error><Code>NoSuchKey</Code></Error>" + strings.Repeat(" ", 1<<20), ranges.NotFound, "no such object"},
		{204, "", ranges.Permanent, "(204)"},
		{302, "", ranges.Permanent, "(302)"},
	} {
		answerWith(c, func(r *http.Request) (*http.Response, error) { return answer(r, tc.status, nil, tc.body), nil })
		_, _, err := get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Len: 1})
		wantFault(t, err, tc.kind, tc.text)
		if _, err := c.Put(t.Context(), "b", "k", strings.NewReader("x"), PutOptions{}); tc.status >= 300 && err == nil {
			t.Errorf("%d: a put succeeded", tc.status)
		}
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "two\r\nlines": "two lines", "\x1b[31mred\x00": `\x1b[31mred\x00`, "bad\xffutf8": `bad\xffutf8`, "": "", " \t ": "", "ünïcode": "ünïcode",
	} {
		if got := oneLine(in, 100); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	if got := oneLine(strings.Repeat("ü", 100), 11); got != "üüüü..." {
		t.Errorf("cut: %q", got)
	}
}

// FuzzErrorBody parses any error document and makes a message from it.
func FuzzErrorBody(f *testing.F) {
	f.Add(404, "<Error><Code>NoSuchKey</Code><Message>gone</Message><RequestId>1</RequestId></Error>")
	f.Add(301, "<Error><Code>PermanentRedirect</Code><Region>eu-west-1</Region></Error>")
	f.Add(400, "<Error><Code>AuthorizationHeaderMalformed</Code><Message>expecting 'eu-west-1'</Message></Error>")
	f.Add(500, "<html>\n</html>")
	f.Add(200, "<Error><Code>a\x00b</Code></Error>")
	f.Fuzz(func(t *testing.T, status int, doc string) {
		e := fromAnswer(&http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(doc))}, time.Unix(0, 0))
		e.Bucket, e.Key = "b", "k"
		s := e.Error()
		if strings.ContainsAny(s, "\n\r\x00\x1b") || !utf8.ValidString(s) || len(s) > 1000 {
			t.Errorf("message %q", s)
		}
		if e.region != "" && !regionRE.MatchString(e.region) {
			t.Errorf("region %q", e.region)
		}
		_ = fmt.Sprint(errors.Is(e, ErrNotFound), errors.Is(e, ErrDenied), errors.Is(e, ErrNoBucket))
	})
}

// BenchmarkSignedGet measures locating and signing one GET, without a network.
func BenchmarkSignedGet(b *testing.B) {
	origin := start(b, testorigin.Options{})
	c := connect(b, origin, Options{})
	s := c.Source("data", "weights/model-00001-of-00009.safetensors", SourceOptions{}).(*source)
	req, err := http.NewRequest("GET", "http://127.0.0.1:1/data/weights/model-00001-of-00009.safetensors", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		clear(req.Header)
		req.Header["Range"] = []string{"bytes=8388608-16777215"}
		p, err := s.locate(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := p.sign(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
