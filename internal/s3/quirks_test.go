package s3

import (
	"bytes"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// quirky runs an origin with quirks, whose bucket "data" has a few objects.
func quirky(t *testing.T, quirks string, o testorigin.Options) *testorigin.Origin {
	t.Helper()
	q, err := testorigin.ParseQuirks(quirks)
	if err != nil {
		t.Fatal(err)
	}
	o.Quirks = q
	origin := start(t, o)
	for _, k := range []string{"a.txt", "a/x", "k"} {
		if err := origin.Put("data", k, []byte("bytes of "+k)); err != nil {
			t.Fatal(err)
		}
	}
	return origin
}

// everyRead makes one request of each kind that reads, and returns their
// errors.
func everyRead(t *testing.T, c *Client) map[string]error {
	t.Helper()
	out := map[string]error{}
	_, out["head"] = c.Head(t.Context(), "data", "k")
	_, out["list"] = collect(t.Context(), c, "data", ListOptions{Delimiter: "/"})
	_, _, out["get"] = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	long := c.Source("data", "k", SourceOptions{}).(*source)
	p, err := long.locate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	viaSDK := *p.target
	viaSDK.plain = false
	long.place.Store(nil)
	c.mu.Lock()
	c.targets[targetID{DefaultRegion, "data"}] = &viaSDK
	c.mu.Unlock()
	_, _, out["get by the SDK"] = get(t.Context(), long, ranges.Request{Len: 5})
	return out
}

// Accept-Encoding is sent, so that no proxy compresses, and is not signed, so
// that a proxy may rewrite it.
func TestAcceptEncodingIsNotSigned(t *testing.T) {
	var mu sync.Mutex
	sent := map[string]string{}
	origin := quirky(t, "", testorigin.Options{Tap: func(e testorigin.Event) {
		if mu.Lock(); !e.Done {
			sent[e.Op] = strings.Join(e.Header["Accept-Encoding"], "|") + " " + strings.Join(e.Header["Authorization"], "")
		}
		mu.Unlock()
	}})
	for i, quirks := range []testorigin.Quirks{{}, {AcceptEncoding: "drop"}, {AcceptEncoding: "gzip, br"}} {
		if mu.Lock(); i == 1 && (!strings.HasPrefix(sent["GetObject"], "identity ") || !strings.HasPrefix(sent["ListObjectsV2"], "identity ")) {
			t.Errorf("sent: %v", sent)
		}
		mu.Unlock()
		origin.SetQuirks(quirks)
		c := connect(t, origin, Options{})
		for op, err := range everyRead(t, c) {
			if err != nil {
				t.Errorf("Accept-Encoding %q: %s: %v", quirks.AcceptEncoding, op, err)
			}
		}
		if _, err := c.Put(t.Context(), "data", "p", strings.NewReader("x"), PutOptions{}); err != nil {
			t.Errorf("Accept-Encoding %q: put: %v", quirks.AcceptEncoding, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if ops := slices.Sorted(maps.Keys(sent)); !slices.Equal(ops, []string{"GetObject", "HeadObject", "ListObjectsV2", "PutObject"}) {
		t.Errorf("operations: %v", ops)
	}
	for op, s := range sent {
		if strings.Contains(s, "accept-encoding") {
			t.Errorf("%s: signed: %s", op, s)
		}
	}
}

// Each kind of read follows redirects to another host and signs its request for
// that host.
func TestRedirectsAreFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		origin := quirky(t, "", testorigin.Options{})
		origin.SetQuirks(testorigin.Quirks{Redirect: status, RedirectOps: "*"})
		c := connect(t, origin, Options{})
		for op, err := range everyRead(t, c) {
			if err != nil {
				t.Errorf("%d: %s: %v", status, op, err)
			}
		}
		if n := origin.Count("GetObject", "data/k").Requests; n != 4 {
			t.Errorf("%d: %d GETs, want 2 and a hop for each", status, n)
		}
	}
	// A cycle of redirects ends.
	origin := quirky(t, "", testorigin.Options{})
	origin.SetQuirks(testorigin.Quirks{Redirect: 307, RedirectTo: origin.URL(), RedirectOps: "*"})
	c := connect(t, origin, Options{})
	for op, err := range everyRead(t, c) {
		wantText(t, err, "redirects to http://127.0.0.1")
		wantText(t, err, "has been redirected 4 times")
		if strings.HasPrefix(op, "get") {
			wantFault(t, err, ranges.Permanent, "")
		}
	}
	if n := origin.Count("HeadObject", "data/k").Requests; n != 1+maxHops {
		t.Errorf("%d HEADs in a circle", n)
	}
}

// The error about a node that cannot be reached names the node, and not only
// the endpoint that redirects to it.
func TestErrorNamesRedirectedNode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	l.Close()
	origin := quirky(t, "", testorigin.Options{})
	origin.SetQuirks(testorigin.Quirks{Redirect: 307, RedirectTo: dead, RedirectOps: "*"})
	c := connect(t, origin, Options{Retry: ranges.RetryPolicy{Outage: -1}})
	for _, err := range everyRead(t, c) {
		wantText(t, err, dead+" refuses connections")
		wantText(t, err, origin.URL()+" redirects there")
	}
}

// A HEAD without Content-Length is a failed answer, not an empty object.
func TestHeadWithoutLength(t *testing.T) {
	isolate(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.URL.Path == "/data/empty" {
			w.Header().Set("ETag", `"`+emptyETag+`"`)
		}
		w.(http.Flusher).Flush() //nolint:forcetypeassert // the server's own
	}))
	defer srv.Close()
	c := connect(t, nil, Options{Endpoint: srv.URL, Anonymous: true, Retry: ranges.RetryPolicy{Outage: -1}})
	info, err := c.Head(t.Context(), "data", "k")
	if err == nil {
		t.Fatalf("an object of %d bytes", info.Size)
	}
	wantText(t, err, "no Content-Length")
	if info, err := c.Head(t.Context(), "data", "empty"); err != nil || info.Size != 0 {
		t.Errorf("an empty object: %d bytes, %v", info.Size, err)
	}
}

func TestRedirectTo(t *testing.T) {
	isolate(t)
	const signed = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
	for _, tc := range []struct {
		method, from, to, region string
		status, hop              int
		want                     string
	}{
		{"GET", "http://10.0.0.1/b/k", "http://10.0.0.2:8/b/k", "", 307, 1, "http://10.0.0.2:8/b/k"},
		{"HEAD", "http://10.0.0.1/b/k", "/other?x=%2F", "", 302, 4, "http://10.0.0.1/other?x=%2F"},
		{"GET", "https://s3.example.com/b/k", "https://node7.example.com/b/k", "us-east-1", 301, 1, "https://node7.example.com/b/k"},
		{"GET", "https://s3.example.com/b/k", "https://node7.example.com/b/k", "eu-west-3", 301, 1, "as it is"},
		{"GET", "http://10.0.0.1/b/k", "", "", 307, 1, "as it is"},
		{"GET", "http://10.0.0.1/b/k", "http://10.0.0.2/", "", 304, 1, "as it is"},
		{"PUT", "http://10.0.0.1/b/k", "http://10.0.0.2/", "", 307, 1, "as it is"},
		{"GET", "http://10.0.0.1/b/k", "http://10.0.0.2/", "", 307, 5, "redirected 4 times"},
		{"GET", "https://10.0.0.1/b/k", "http://10.0.0.2/", "", 307, 1, "would leave TLS"},
		{"GET", "http://10.0.0.1/b/k", "ftp://10.0.0.2/", "", 307, 1, "not a URL of http"},
		{"GET", "http://10.0.0.1/b/k", "http://u:p@10.0.0.2/?secret", "", 307, 1, "redirects to http://10.0.0.2/?..., which is not followed: it names a user"},
		{"GET", "http://10.0.0.1/b/k", "http://169.254.169.254/latest/meta-data", "", 307, 1, "belongs to the machine itself"},
		{"GET", "http://10.0.0.1/b/k", "http://[::ffff:127.0.0.1]/", "", 307, 1, "belongs to the machine itself"},
		{"GET", "http://10.0.0.1/b/k", "http://localhost:8080/", "", 307, 1, "belongs to the machine itself"},
		{"GET", "http://127.0.0.1:9000/b/k", "http://localhost:8080/k", "", 307, 1, "http://localhost:8080/k"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, tc.from, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", signed)
		h := http.Header{}
		if tc.to != "" {
			h.Set("Location", tc.to)
		}
		if tc.region != "" {
			h.Set("X-Amz-Bucket-Region", tc.region)
		}
		u, err := redirectTo(req, &http.Response{StatusCode: tc.status, Header: h}, tc.hop)
		got := "as it is"
		if u != nil {
			got = u.String()
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, tc.want) && !strings.Contains(got, tc.want) {
			t.Errorf("%s %s to %q (%d, hop %d): %s, want %s", tc.method, tc.from, tc.to, tc.status, tc.hop, got, tc.want)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://10.0.0.1/", nil)
	req.Header.Set("X-Amz-Server-Side-Encryption-Customer-Key", "k")
	if _, err := redirectTo(req, &http.Response{StatusCode: 307, Header: http.Header{"Location": {"http://10.0.0.2/"}}}, 1); err == nil {
		t.Error("a customer key may cross the network")
	}
	for in, want := range map[string]scope{
		signed: {"us-east-1", "s3"}, "": {}, "AWS4-ECDSA-P256-SHA256 Credential=a/b/s3/aws4_request": {},
		"AWS4-HMAC-SHA256 Credential=": {}, "AWS4-HMAC-SHA256 Credential=A/K/20260101/r/s3-outposts/aws4_request,": {"r", "s3-outposts"},
	} {
		if got := scopeOf(in); got != want {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

// A HEAD that is refused because of the clock has no body with a code, and is
// repeated with the server's time.
func TestHeadWithWrongClock(t *testing.T) {
	for _, skew := range []string{"2h", "-2h"} {
		origin := quirky(t, "skew="+skew, testorigin.Options{})
		for op := range everyRead(t, connect(t, origin, Options{})) {
			c := connect(t, origin, Options{})
			var err error
			switch op {
			case "head":
				_, err = c.Head(t.Context(), "data", "k")
			case "list":
				_, err = collect(t.Context(), c, "data", ListOptions{})
			case "get":
				_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
			}
			if err != nil {
				t.Errorf("skew %s: %s: %v", skew, op, err)
			}
		}
	}
	// With the right clock the refusal is final, so there is one request.
	origin := quirky(t, "head-status=403", testorigin.Options{})
	if _, err := connect(t, origin, Options{}).Head(t.Context(), "data", "k"); err == nil {
		t.Error("no error")
	}
	if n := origin.Count("HeadObject", "data/k").Requests; n != 1 {
		t.Errorf("%d HEADs, want 1", n)
	}
	now := time.Now()
	for _, tc := range []struct {
		e    Error
		want bool
	}{
		{Error{Status: 403, date: now.Add(6 * time.Minute)}, true},
		{Error{Status: 403, date: now.Add(-6 * time.Minute)}, true},
		{Error{Status: 403, date: now.Add(4 * time.Minute)}, false},
		{Error{Status: 403}, false},
		{Error{Status: 403, Code: "AccessDenied", date: now.Add(time.Hour)}, false},
		{Error{Status: 404, date: now.Add(time.Hour)}, false},
		{Error{Status: 403, Code: "RequestTimeTooSkewed", date: now}, true},
		{Error{Status: 403, Code: "RequestTimeTooSkewed"}, false},
	} {
		if got := wrongClock(&tc.e, now); got != tc.want {
			t.Errorf("%+v: %v", tc.e, got)
		}
	}
}

// A preferred version needs no other right than s3:GetObject.
func TestSourceReadsWithoutVersionRight(t *testing.T) {
	const plain, versions = "s3:GetObject,s3:ListBucket", "s3:GetObject,s3:ListBucket,s3:GetObjectVersion"
	for _, tc := range []struct {
		quirks   string
		replaced bool
		want     string // bytes, or part of the error
		requests int64  // of two reads
	}{
		{"rights=" + versions, false, "old", 2},
		{"rights=" + versions, true, "old", 2},
		{"rights=" + plain, false, "old", 3},
		{"rights=" + plain, true, "not the expected one", 5}, // two check that the store's 412 is right
		{"no-versions", false, "old", 3},
		{"rights=s3:ListBucket", false, "access denied", 3},
	} {
		for _, long := range []bool{false, true} {
			origin := start(t, testorigin.Options{})
			if err := origin.CreateBucket("kept", testorigin.BucketOptions{Versioning: true}); err != nil {
				t.Fatal(err)
			}
			c := connect(t, origin, Options{})
			old, err := c.Put(t.Context(), "kept", "k", strings.NewReader("old"), PutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if tc.replaced {
				if _, err := c.Put(t.Context(), "kept", "k", strings.NewReader("new"), PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			q, err := testorigin.ParseQuirks(tc.quirks)
			if err != nil {
				t.Fatal(err)
			}
			origin.SetQuirks(q)
			src := c.Source("kept", "k", SourceOptions{PreferVersion: old.VersionID}).(*source)
			p, err := src.locate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.plain = !long
			for range 2 {
				got, _, err := get(t.Context(), src, ranges.Request{Len: 3, Pin: "etag:" + old.ETag})
				if err != nil && !strings.Contains(err.Error(), tc.want) || err == nil && string(got) != tc.want {
					t.Errorf("%+v: %q, %v", tc, got, err)
				}
			}
			if n := origin.Count("GetObject", "kept/k").Requests; n != tc.requests {
				t.Errorf("%+v: %d requests", tc, n)
			}
		}
	}
	// A deleted version does not stop the use of versions for other objects.
	origin := start(t, testorigin.Options{})
	if err := origin.CreateBucket("kept", testorigin.BucketOptions{Versioning: true}); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{})
	now, err := c.Put(t.Context(), "kept", "k", strings.NewReader("now"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	src := c.Source("kept", "k", SourceOptions{PreferVersion: "0123456789abcdef"}).(*source)
	got, _, err := get(t.Context(), src, ranges.Request{Len: 3, Pin: "etag:" + now.ETag})
	if p, _ := src.locate(t.Context()); err != nil || string(got) != "now" || p.noVersions.Load() {
		t.Errorf("%q, %v", got, err)
	}
}

// Listings in any order are returned with each name once.
func TestListQuirks(t *testing.T) {
	for quirks, want := range map[string]string{
		"":                                     "a.txt a/| k",
		"list-order=filer list-page=1":         "a/| a.txt k",
		"list-order=random list-page=1":        "a/| a.txt k",
		"list-empty-page":                      "a.txt a/| k",
		"list-plain":                           "a.txt a/| k",
		"list-etag=bare no-dates":              "a.txt a/| k",
		"list-etag=none list-order=filer":      "a.txt a/| k",
		"no-versions if-match=bare bare-range": "a.txt a/| k",
	} {
		c := connect(t, quirky(t, quirks, testorigin.Options{}), Options{})
		got, err := collect(t.Context(), c, "data", ListOptions{Delimiter: "/"})
		if s := strings.Join(got, " "); err != nil || s != want {
			t.Errorf("%s: %q, %v, want %q", quirks, s, err, want)
		}
	}
	// A listing that repeats its pages ends.
	c := connect(t, quirky(t, "list-loop list-page=1", testorigin.Options{}), Options{})
	if _, err := collect(t.Context(), c, "data", ListOptions{}); !errors.Is(err, ErrListStuck) {
		t.Errorf("a circle: %v", err)
	}
}

// Uploads need no checksum trailers, which some stores refuse.
func TestUploadSendsNoTrailers(t *testing.T) {
	origin := quirky(t, "no-trailers", testorigin.Options{})
	c := connect(t, origin, Options{})
	data := realBytes(t, 2*minPart+12345)
	if _, err := c.Put(t.Context(), "data", "p", strings.NewReader("x"), PutOptions{}); err != nil {
		t.Errorf("put: %v", err)
	}
	for _, sum := range []UploadChecksum{ChecksumCRC64NVME, ChecksumCRC32C, ChecksumOff} {
		if _, err := c.Upload(t.Context(), "data", "u", bytes.NewReader(data), PutOptions{PartBytes: minPart, Checksum: sum}); err != nil {
			t.Errorf("upload with checksum %v: %v", sum, err)
		}
	}
}

// A HEAD that is refused although a GET would succeed is not repeated, and its
// error has S3's explanation for that case.
func TestRefusedHead(t *testing.T) {
	origin := quirky(t, "head-status=403", testorigin.Options{})
	c := connect(t, origin, Options{})
	_, err := c.Head(t.Context(), "data", "k")
	wantText(t, err, "access denied: the credentials lack the permission, or the object does not exist and listing is not permitted (403")
	if !errors.Is(err, ErrDenied) {
		t.Errorf("%v is not ErrDenied", err)
	}
	if _, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5}); err != nil {
		t.Error(err)
	}
}
