package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
)

func TestSourceRead(t *testing.T) {
	origin := start(t, testorigin.Options{})
	data := realBytes(t, 1<<20)
	// The keys have every byte that a signature may escape wrongly.
	for _, key := range []string{"plain", "a b+c", "ü/ö/ä", "q?x=1&y=2#f", "%41%2F", "a//b", "/lead", "dots/../x", "tilde~!*'()", "trail/", ";:@=,$"} {
		if err := origin.Put("data", key, data); err != nil {
			t.Fatal(err)
		}
		c := connect(t, origin, Options{})
		src := c.Source("data", key, SourceOptions{})
		got, info, err := get(t.Context(), src, ranges.Request{Off: 100, Len: 5000})
		if err != nil || !bytes.Equal(got, data[100:5100]) {
			t.Fatalf("%q: %d bytes, %v", key, len(got), err)
		}
		if info.Size != int64(len(data)) || info.Off != 100 || info.Len != 5000 || !strings.HasPrefix(info.Pin, "etag:") || info.Sum.Algorithm != ranges.NoChecksum {
			t.Errorf("%q: info %+v", key, info)
		}
		if p, err := src.(*source).locate(t.Context()); err != nil || !p.plain {
			t.Fatalf("%q takes the long way: %v", key, err)
		}
		// The whole object, pinned, with a range that goes beyond the end.
		got, whole, err := get(t.Context(), src, ranges.Request{Off: 0, Len: 2 << 20, Pin: info.Pin})
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%q: whole: %d bytes, %v", key, len(got), err)
		}
		if whole.Len != int64(len(data)) || whole.Pin != info.Pin {
			t.Errorf("%q: whole: %+v", key, whole)
		}
	}
}

// S3 reports the size of an object in the body of a 416 and not in its header.
func TestSourceBeyondEnd(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[string]int64{"100": 100, "": -1, "-5": -1, "many": -1} {
		answerWith(c, func(r *http.Request) (*http.Response, error) {
			return answer(r, 416, nil, "<Error><Code>InvalidRange</Code><ActualObjectSize>"+size+"</ActualObjectSize></Error>"), nil
		})
		_, info, err := get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Off: 200, Len: 10})
		wantFault(t, err, ranges.OutOfRange, "beyond the end")
		if info.Size != want {
			t.Errorf("size %q: %d, want %d", size, info.Size, want)
		}
	}
}

// The checksum of an answer counts for a whole object only, because the answer
// for a range that is a part may have the part's.
func TestSourceChecksum(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
	if err != nil {
		t.Fatal(err)
	}
	whole := ranges.Checksum{Algorithm: ranges.CRC64NVME, Value: 0x0102030405060708}
	for _, tc := range []struct {
		off  int64
		kind string
		want ranges.Checksum
		mode string
	}{
		{0, "FULL_OBJECT", whole, "ENABLED"},
		{0, "", whole, "ENABLED"},
		{0, "COMPOSITE", ranges.Checksum{}, "ENABLED"},
		{5, "FULL_OBJECT", ranges.Checksum{}, ""},
	} {
		answerWith(c, func(r *http.Request) (*http.Response, error) {
			if got := r.Header.Get("X-Amz-Checksum-Mode"); got != tc.mode {
				t.Errorf("offset %d: checksum mode %q, want %q", tc.off, got, tc.mode)
			}
			h := http.Header{"Content-Range": {fmt.Sprintf("bytes %d-9/10", tc.off)}, "X-Amz-Checksum-Crc64nvme": {"AQIDBAUGBwg="}}
			if tc.kind != "" {
				h.Set("X-Amz-Checksum-Type", tc.kind)
			}
			return answer(r, 206, h, "0123456789"[tc.off:]), nil
		})
		_, info, err := get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Off: tc.off, Len: 10 - tc.off})
		if err != nil || info.Sum != tc.want {
			t.Errorf("offset %d, type %q: %v, %v, want %v", tc.off, tc.kind, info.Sum, err, tc.want)
		}
	}
}

func TestSourcePinned(t *testing.T) {
	origin := start(t, testorigin.Options{})
	data := realBytes(t, 1<<16)
	if err := origin.Put("data", "k", data); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	src := c.Source("data", "k", SourceOptions{})
	_, info, err := get(t.Context(), src, ranges.Request{Len: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := origin.Put("data", "k", data[:100]); err != nil {
		t.Fatal(err)
	}
	_, _, err = get(t.Context(), src, ranges.Request{Len: 10, Pin: info.Pin})
	wantFault(t, err, ranges.Changed, "s3: get s3://data/k: the object is not the expected one (412 PreconditionFailed")
	if !errors.Is(err, ranges.ErrChanged) || !errors.Is(err, ErrPrecondition) {
		t.Errorf("sentinels of %v", err)
	}
	_, _, err = get(t.Context(), src, ranges.Request{Off: 5000, Len: 10, Pin: info.Pin})
	wantFault(t, err, ranges.Changed, "not the expected one")
	_, out, err := get(t.Context(), src, ranges.Request{Off: 5000, Len: 10})
	wantFault(t, err, ranges.OutOfRange, "beyond the end")
	if out.Size != 100 {
		t.Errorf("size told by 416: %d", out.Size)
	}
}

func TestSourceVersion(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.CreateBucket("kept", testorigin.BucketOptions{Versioning: true}); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	old, err := c.Put(t.Context(), "kept", "k", strings.NewReader("old"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), "kept", "k", strings.NewReader("newer"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if old.VersionID == "" {
		t.Fatal("no version id")
	}
	src := c.Source("kept", "k", SourceOptions{VersionID: old.VersionID})
	info, err := c.HeadVersion(t.Context(), "kept", "k", old.VersionID)
	if err != nil || info.Size != 3 {
		t.Fatalf("%+v, %v", info, err)
	}
	spec := c.SpecVersion("kept", "k", old.VersionID, info)
	got, read, err := get(t.Context(), src, ranges.Request{Len: spec.Size, Pin: spec.Pin})
	if err != nil || string(got) != "old" || read.Pin != spec.Pin {
		t.Errorf("%q, %+v, %v", got, read, err)
	}
	_, _, err = get(t.Context(), c.Source("kept", "k", SourceOptions{VersionID: "0123456789abcdef"}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.NotFound, "no such version")
	// A bucket without versions must not return its current bytes as a version.
	if err := origin.Put("data", "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		return answer(r, 206, http.Header{"Content-Range": {"bytes 0-0/1"}}, "x"), nil
	})
	_, _, err = get(t.Context(), src, ranges.Request{Len: 1})
	wantFault(t, err, ranges.Permanent, "does not keep versions")
}

func TestSourceFaults(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.Put("data", "k", realBytes(t, 1<<16)); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	for _, tc := range []struct {
		script string
		kind   ranges.FaultKind
		text   string
	}{
		{"GetObject => status code=503", ranges.Throttled, "asks to slow down (503 SlowDown"},
		{"GetObject => status code=429", ranges.Throttled, "429"},
		{"GetObject => status code=500", ranges.Retryable, "500 InternalError"},
		{"GetObject => status code=502 error=BadGateway", ranges.Retryable, "502"},
		{"GetObject => status code=400 error=RequestTimeout", ranges.Retryable, "RequestTimeout"},
		{"GetObject => status code=400 error=InvalidArgument", ranges.Permanent, "400 InvalidArgument"},
		{"GetObject => status code=403", ranges.Denied, "access denied"},
		{"GetObject => status code=403 error=InvalidObjectState", ranges.Denied, "archived: restore"},
		{"GetObject => status code=501 error=NotImplemented", ranges.Permanent, "501"},
		{"GetObject => reset", ranges.Retryable, "s3: get s3://data/k: "},
		{"GetObject => wrong-range", ranges.Retryable, "Content-Range"},
		{"GetObject => multipart", ranges.Permanent, "multipart/byteranges"},
		{"GetObject => expire", ranges.Retryable, "expired: renew"},
	} {
		faults(t, origin, tc.script)
		_, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 100})
		t.Run(tc.script, func(t *testing.T) { wantFault(t, err, tc.kind, tc.text) })
	}
	faults(t, origin, "GetObject => status code=503 retry-after=7s")
	_, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 100})
	var f *ranges.Fault
	if !errors.As(err, &f) || f.RetryAfter != 7*time.Second {
		t.Errorf("Retry-After: %+v", f)
	}
	faults(t, origin, "GetObject => truncate at=50")
	if _, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 100}); err == nil {
		t.Error("a body that was cut passed as whole")
	}
	if n := origin.Count("GetObject", "data/k").Requests; n > 17 {
		t.Errorf("%d requests: a source must not retry", n)
	}
}

func TestSourceMissing(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	_, _, err := get(t.Context(), c.Source("data", "nokey", SourceOptions{}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.NotFound, "no such object (404 NoSuchKey")
	if errors.Is(err, ErrNoBucket) || !errors.Is(err, ErrNotFound) {
		t.Errorf("sentinels of %v", err)
	}
	_, _, err = get(t.Context(), c.Source("nobucket", "k", SourceOptions{}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.NotFound, "no such bucket")
	if !errors.Is(err, ErrNoBucket) || !errors.Is(err, ErrNotFound) {
		t.Errorf("sentinels of %v", err)
	}
	_, _, err = get(t.Context(), c.Source("data", "", SourceOptions{}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.Permanent, "must not be empty")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err = get(ctx, c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSourceRegionRedirect(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.CreateBucket("far", testorigin.BucketOptions{Region: "eu-west-3"}); err != nil {
		t.Fatal(err)
	}
	if err := origin.Put("far", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	src := c.Source("far", "k", SourceOptions{})
	for range 3 {
		if got, _, err := get(t.Context(), src, ranges.Request{Len: 5}); err != nil || string(got) != "bytes" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if n := origin.Count("GetObject", "far/k").Requests; n != 4 {
		t.Errorf("%d requests for 3 GETs and a redirect, want 4", n)
	}
	// Other operations use the learned region.
	if _, err := c.Head(t.Context(), "far", "k"); err != nil {
		t.Error(err)
	}
	if n := origin.Count("HeadObject", "far/k").Requests; n != 1 {
		t.Errorf("%d HEAD requests, want 1", n)
	}
}

// The client gives up on a server that redirects it from region to region.
func TestRedirectLoop(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
	if err != nil {
		t.Fatal(err)
	}
	n, serial := 0, 0
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		n++
		serial++
		return answer(r, 301, http.Header{"X-Amz-Bucket-Region": {fmt.Sprintf("region-%d", serial)}}, "<Error><Code>PermanentRedirect</Code></Error>"), nil
	})
	_, _, err = get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Len: 1})
	wantFault(t, err, ranges.Retryable, "another region")
	if n != 2 {
		t.Errorf("source: %d requests, want 2", n)
	}
	n = 0
	if _, err = c.Head(t.Context(), "b", "k"); err == nil || n != 3 {
		t.Errorf("head: %d requests, %v, want 3", n, err)
	}
}

// Requests are sent from the address in Options.Interfaces, on reused and on
// fresh connections.
func TestInterfaces(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{Interfaces: []string{"127.0.0.1"}})
	for _, fresh := range []bool{false, true} {
		if got, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5, Fresh: fresh}); err != nil || string(got) != "bytes" {
			t.Errorf("%q, %v", got, err)
		}
	}
	refused := connect(t, origin, Options{Interfaces: []string{"127.0.0.1"}, Endpoint: "http://127.0.0.1:1", Retry: ranges.RetryPolicy{Attempts: -1}})
	_, err := refused.Head(t.Context(), "data", "k")
	wantText(t, err, "refuses connections")
}

func TestRefusedConnection(t *testing.T) {
	isolate(t)
	url := "http://" + testport.Addr(t)
	c, err := New(t.Context(), Options{Endpoint: url, Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := url + " refuses connections: check that the server runs"
	_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Retryable, want)
	_, err = c.Head(t.Context(), "data", "k")
	wantText(t, err, "s3: head s3://data/k: "+want)
}

// If this machine's clock is wrong, the client signs with the server's time.
func TestClockSkew(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
	if err != nil {
		t.Fatal(err)
	}
	there := time.Now().Add(3 * time.Hour).UTC()
	n := 0
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		n++
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			t.Error(err)
		}
		if there.Sub(at).Abs() > time.Minute {
			return answer(r, 403, http.Header{"Date": {there.Format(http.TimeFormat)}}, "<Error><Code>RequestTimeTooSkewed</Code></Error>"), nil
		}
		return answer(r, 206, http.Header{"Content-Range": {"bytes 0-0/1"}}, "x"), nil
	})
	for range 2 {
		if got, _, err := get(t.Context(), c.Source("b", "k", SourceOptions{}), ranges.Request{Len: 1}); err != nil || string(got) != "x" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if n != 3 {
		t.Errorf("%d requests, want 3: one refused, two right", n)
	}
}

// Targets with another kind of signature use the SDK and pass the same checks.
func TestSourceViaSDK(t *testing.T) {
	origin := start(t, testorigin.Options{})
	data := realBytes(t, 1<<16)
	if err := origin.Put("data", "a b+c", data); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	long := func(key string) ranges.Source {
		s := c.Source("data", key, SourceOptions{}).(*source)
		p, err := s.locate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.plain = false
		return s
	}
	got, info, err := get(t.Context(), long("a b+c"), ranges.Request{Off: 10, Len: 100})
	if err != nil || !bytes.Equal(got, data[10:110]) || info.Off != 10 || info.Size != int64(len(data)) {
		t.Fatalf("%d bytes, %+v, %v", len(got), info, err)
	}
	_, whole, err := get(t.Context(), long("a b+c"), ranges.Request{Len: 1 << 20, Pin: info.Pin})
	if err != nil || whole.Len != int64(len(data)) {
		t.Errorf("whole: %+v, %v", whole, err)
	}
	_, _, err = get(t.Context(), long("a b+c"), ranges.Request{Len: 10, Pin: `etag:"other"`})
	wantFault(t, err, ranges.Changed, "not the expected one")
	_, _, err = get(t.Context(), long("none"), ranges.Request{Len: 10})
	wantFault(t, err, ranges.NotFound, "no such object")
	faults(t, origin, "GetObject => wrong-range")
	_, _, err = get(t.Context(), long("a b+c"), ranges.Request{Len: 10})
	wantFault(t, err, ranges.Retryable, "Content-Range")
	faults(t, origin, "GetObject => status code=503 retry-after=3s")
	_, _, err = get(t.Context(), long("a b+c"), ranges.Request{Len: 10})
	wantFault(t, err, ranges.Throttled, "slow down")
}
