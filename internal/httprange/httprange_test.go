package httprange_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// source is a plain HTTP object.
type source struct {
	g   *httprange.Getter
	url string
}

func (s source) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	return s.g.Open(ctx, s.url, req, nil)
}

func serve(t *testing.T, h http.HandlerFunc) source {
	t.Helper()
	srv := httptest.NewServer(h)
	client, fresh := httprange.NewClients(nil, nil)
	t.Cleanup(func() {
		client.CloseIdleConnections()
		srv.Close()
	})
	return source{&httprange.Getter{Client: client, FreshClient: fresh}, srv.URL + "/o?X-Amz-Signature=secret"}
}

func TestConforms(t *testing.T) {
	var data atomic.Pointer[[]byte]
	handler := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/missing") {
			http.NotFound(w, r)
			return
		}
		d := *data.Load()
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, d[:8]))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d))
	}
	rangestest.Conform(t, rangestest.Target{
		Open: func(t *testing.T, d []byte) ranges.Source {
			data.Store(&d)
			return serve(t, handler)
		},
		Replace: func(_ *testing.T, _ ranges.Source, d []byte) { data.Store(&d) },
		Missing: func(t *testing.T) ranges.Source {
			s := serve(t, handler)
			s.url = strings.Replace(s.url, "/o", "/missing", 1)
			return s
		},
	})
}

// Every wrong answer is an error whose kind makes the engine react correctly.
func TestAnswersAreChecked(t *testing.T) {
	head := func(code int, h map[string]string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range h {
				w.Header().Set(k, v)
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	type m = map[string]string
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		kind    ranges.FaultKind
		after   time.Duration
		text    string
	}{
		"no Content-Range":         {head(206, nil, "0123456789"), ranges.Retryable, 0, "without Content-Range"},
		"other range":              {head(206, m{"Content-Range": "bytes 0-9/100"}, "0123456789"), ranges.Retryable, 0, "asked for bytes 10-19"},
		"longer range":             {head(206, m{"Content-Range": "bytes 10-29/100"}, strings.Repeat("x", 20)), ranges.Retryable, 0, "asked for bytes 10-19"},
		"length against range":     {head(206, m{"Content-Range": "bytes 10-19/100"}, "01234"), ranges.Retryable, 0, "does not fit"},
		"hostile Content-Range":    {head(206, m{"Content-Range": "bytes 10-99999999999999999999/5"}, "0123456789"), ranges.Retryable, 0, "bad Content-Range"},
		"multipart":                {head(206, m{"Content-Type": "multipart/byteranges; boundary=x"}, "--x"), ranges.Permanent, 0, "multipart"},
		"precondition":             {head(412, nil, ""), ranges.Changed, 0, "412"},
		"not found":                {head(404, nil, ""), ranges.NotFound, 0, "404"},
		"gone":                     {head(410, nil, ""), ranges.NotFound, 0, "410"},
		"unauthorized":             {head(401, nil, ""), ranges.Denied, 0, "401"},
		"forbidden":                {head(403, nil, ""), ranges.Denied, 0, "403"},
		"internal":                 {head(500, nil, ""), ranges.Retryable, 0, "500"},
		"not implemented":          {head(501, nil, ""), ranges.Permanent, 0, "501"},
		"slow down":                {head(503, m{"Retry-After": "7"}, ""), ranges.Throttled, 7 * time.Second, "503"},
		"too many":                 {head(429, nil, ""), ranges.Throttled, 0, "429"},
		"far away":                 {head(503, m{"Retry-After": "86400"}, ""), ranges.Throttled, 2 * time.Minute, "503"},
		"redirect is not followed": {head(307, m{"Location": "http://elsewhere.invalid/"}, ""), ranges.Permanent, 0, "307"},
	} {
		t.Run(name, func(t *testing.T) {
			src := serve(t, c.handler)
			body, _, err := src.Open(t.Context(), ranges.Request{Off: 10, Len: 10})
			if body != nil {
				t.Error("a body came with the error")
				body.Close()
			}
			var f *ranges.Fault
			if !errors.As(err, &f) || f.Kind != c.kind || f.RetryAfter != c.after {
				t.Fatalf("got %#v (%v), want kind %v after %v", f, err, c.kind, c.after)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("message %q lacks %q", err, c.text)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("message %q shows the query", err)
			}
		})
	}
}

// A body that ends early is an error.
func TestShortBody(t *testing.T) {
	src := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-99/100")
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(206)
		_, _ = io.WriteString(w, "only this")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	body, _, err := src.Open(t.Context(), ranges.Request{Off: 0, Len: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err == nil || len(got) != 9 {
		t.Errorf("got %d bytes and error %v", len(got), err)
	}
}

// Shorter answers, and whole-object answers without a length, are valid. The engine
// continues from them.
func TestAnswersThatRFC9110Allows(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    ranges.Info
		body    string
	}{
		"shorter range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 10-14/100")
			w.WriteHeader(206)
			_, _ = io.WriteString(w, "01234")
		}, ranges.Info{Size: 100, Off: 10, Len: 5}, "01234"},
		"shorter range, size unknown": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 10-14/*")
			w.WriteHeader(206)
			_, _ = io.WriteString(w, "01234")
		}, ranges.Info{Size: -1, Off: 10, Len: 5}, "01234"},
		"chunked range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 10-19/100")
			w.WriteHeader(206)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "0123456789")
		}, ranges.Info{Size: 100, Off: 10, Len: 10}, "0123456789"},
		"whole, chunked": {func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "all of it")
		}, ranges.Info{Size: -1, Off: 0, Len: -1}, "all of it"},
	} {
		body, info, err := serve(t, c.handler).Open(t.Context(), ranges.Request{Off: 10, Len: 10})
		if err != nil || info != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, info, err, c.want)
			continue
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != c.body {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		body.Close()
	}
}

// Conditions are sent for validators that a server can check, in the spelling of
// the object's own answer. Answers are compared by validators of the same kind.
func TestConditions(t *testing.T) {
	const date, other = "Tue, 01 Dec 2026 10:00:00 GMT", "Tue, 01 Dec 2026 10:00:01 GMT"
	type m = map[string]string
	for _, c := range []struct {
		pin    string
		sent   m // conditions that must be sent
		answer m
		want   string // the answer's pin
	}{
		{"", nil, m{"Etag": `"abc"`, "Last-Modified": date}, `etag:"abc"`},
		{"", nil, m{"Etag": `W/"abc"`}, `etag:W/"abc"`},
		{"", nil, m{"Last-Modified": date}, "modified:" + date},
		{"", nil, nil, ""},
		{`etag:"abc"`, m{"If-Match": `"abc"`}, m{"Etag": `"abc"`}, `etag:"abc"`},
		{`etag:"abc"`, m{"If-Match": `"abc"`}, m{"Etag": `"abd"`}, `etag:"abd"`},
		{`etag:"abc"`, m{"If-Match": `"abc"`}, m{"Last-Modified": date}, ""}, // a date can't be compared with a tag
		{`etag:abc`, nil, m{"Etag": `"abc"`}, `etag:"abc"`},                  // from a listing without quotes
		{`etag:W/"abc"`, nil, m{"Etag": `W/"abc"`}, `etag:W/"abc"`},          // If-Match never matches a weak tag
		{"modified:" + date, m{"If-Unmodified-Since": date}, m{"Etag": `"abc"`, "Last-Modified": date}, "modified:" + date},
		{"modified:" + date, m{"If-Unmodified-Since": date}, m{"Last-Modified": "Tuesday, 01-Dec-26 10:00:00 GMT"}, "modified:" + date},
		{"modified:" + date, m{"If-Unmodified-Since": date}, m{"Last-Modified": other}, "modified:" + other},
		{"modified:" + date, m{"If-Unmodified-Since": date}, m{"Etag": `"abc"`}, ""},
		{"version:17", nil, m{"Etag": `"abc"`}, `etag:"abc"`},
	} {
		asked := make(chan http.Header, 1)
		src := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Header.Clone()
			for k, v := range c.answer {
				w.Header().Set(k, v)
			}
			w.Header().Set("Content-Range", "bytes 0-4/5")
			w.WriteHeader(206)
			_, _ = io.WriteString(w, "hello")
		})
		for _, unconditional := range []bool{false, true} {
			src.g.Unconditional = unconditional
			body, info, err := src.Open(t.Context(), ranges.Request{Off: 0, Len: 5, Pin: c.pin})
			if err != nil {
				t.Fatal(err)
			}
			body.Close()
			got := <-asked
			if info.Pin != c.want {
				t.Errorf("pin %q, answer %v: pin %q, want %q", c.pin, c.answer, info.Pin, c.want)
			}
			for _, name := range []string{"If-Match", "If-Unmodified-Since"} {
				if h := got.Get(name); h != c.sent[name] && !unconditional || unconditional && h != "" {
					t.Errorf("pin %q sent %s %q, want %q (unconditional %v)", c.pin, name, h, c.sent[name], unconditional)
				}
			}
		}
	}
}

// The engine over real sockets reuses connections, and hedges get new ones.
func TestEngineOverHTTP(t *testing.T) {
	data := rangestest.Random(8<<20+3, 9)
	src := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	e, err := ranges.New(ranges.Options{PartBytes: 256 << 10, Budget: budget.New(16 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s := e.Object(src, ranges.Spec{Name: src.url, Size: -1}).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
	defer s.Close()
	var out bytes.Buffer
	if _, err := s.WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Fatalf("%d bytes, %v", out.Len(), err)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "0": 0, "-1": 0, "5": 5 * time.Second, " 5 ": 5 * time.Second, "soon": 0,
		"Tue, 24 Nov 2026 12:00:30 GMT": 30 * time.Second,
		"Tue, 24 Nov 2026 11:00:00 GMT": 0,
		"Wed, 25 Nov 2026 12:00:00 GMT": 2 * time.Minute,
		"99999999999999999999":          0,
	} {
		if got, ok := httprange.ParseRetryAfter(in, now); got != want || ok != (want > 0) {
			t.Errorf("%q: %v %v, want %v", in, got, ok, want)
		}
	}
}

func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pw@h.example/a%2Fb?X-Amz-Signature=s#f": "https://h.example/a%2Fb?...",
		"http://127.0.0.1:9/x":                                "http://127.0.0.1:9/x",
		"::bad::?secret":                                      "::bad::",
	} {
		if got := httprange.RedactURL(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 0-18446744073709551615/3", "Bytes 1-2/3", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, size, err := httprange.ParseContentRange(s)
		if err != nil {
			return
		}
		if first < 0 || last < first || (size >= 0 && last >= size) {
			t.Errorf("%q: %d-%d/%d", s, first, last, size)
		}
	})
}

func FuzzParseRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, s := range []string{"5", "Tue, 24 Nov 2026 12:00:30 GMT", "-5", "1e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := httprange.ParseRetryAfter(s, now); d < 0 || d > 2*time.Minute || ok != (d > 0) {
			t.Errorf("%q: %v %v", s, d, ok)
		}
	})
}
