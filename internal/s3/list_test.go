package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// collect runs a listing to its end and writes prefixes with a trailing "|".
func collect(ctx context.Context, c *Client, bucket string, o ListOptions) ([]string, error) {
	var names []string
	for e, err := range c.List(ctx, bucket, o) {
		if err != nil {
			return names, err
		}
		if e.Prefix != "" {
			names = append(names, e.Prefix+"|")
		} else {
			names = append(names, e.Key)
		}
	}
	return names, nil
}

func TestList(t *testing.T) {
	origin := start(t, testorigin.Options{})
	keys := []string{"a b+c", "dir/1", "dir/2", "dir/sub/3", "dir0", "e\x01f", "q?x=1&y", "tab\tnl\n", "x%2Fy", "z//q", "ü/ö", "<xml>&"}
	for _, k := range keys {
		if err := origin.Put("data", k, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(keys)
	c := connect(t, origin, Options{})
	for _, page := range []int{0, 1, 2, 5} {
		got, err := collect(t.Context(), c, "data", ListOptions{MaxKeys: page})
		if err != nil || !slices.Equal(got, keys) {
			t.Errorf("pages of %d: %q, %v, want %q", page, got, err, keys)
		}
		got, err = collect(t.Context(), c, "data", ListOptions{Delimiter: "/", MaxKeys: page})
		want := []string{"<xml>&", "a b+c", "dir/|", "dir0", "e\x01f", "q?x=1&y", "tab\tnl\n", "x%2Fy", "z/|", "ü/|"}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q, %v, want %q", page, got, err, want)
		}
	}
	if got, err := collect(t.Context(), c, "data", ListOptions{Prefix: "dir/", Delimiter: "/"}); err != nil || !slices.Equal(got, []string{"dir/1", "dir/2", "dir/sub/|"}) {
		t.Errorf("prefix: %q, %v", got, err)
	}
	if got, err := collect(t.Context(), c, "data", ListOptions{StartAfter: "x%2Fy", MaxKeys: 1}); err != nil || !slices.Equal(got, []string{"z//q", "ü/ö"}) {
		t.Errorf("start after: %q, %v", got, err)
	}
	if got, err := collect(t.Context(), c, "data", ListOptions{Prefix: "nothing"}); err != nil || len(got) != 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
	for e, err := range c.List(t.Context(), "data", ListOptions{Prefix: "dir0"}) {
		if err != nil || e.Size != 4 || e.ETag == "" || e.LastModified.IsZero() || e.StorageClass != "STANDARD" || e.Archived {
			t.Errorf("entry %+v, %v", e, err)
		}
	}
	// After the reader stops, no further page is requested.
	before := origin.Count("ListObjectsV2", "data").Requests
	for range c.List(t.Context(), "data", ListOptions{MaxKeys: 2}) {
		break
	}
	if n := origin.Count("ListObjectsV2", "data").Requests - before; n != 1 {
		t.Errorf("%d pages for one entry", n)
	}
}

func TestListFaults(t *testing.T) {
	origin := start(t, testorigin.Options{})
	for i := range 30 {
		if err := origin.Put("data", fmt.Sprintf("k%02d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, origin, Options{})
	if _, err := collect(t.Context(), c, "none", ListOptions{}); !errors.Is(err, ErrNoBucket) {
		t.Errorf("missing bucket: %v", err)
	}
	_, err := collect(t.Context(), c, "data", ListOptions{MaxKeys: 5000})
	wantText(t, err, "use 1 to 1000")
	// A listing survives errors that end, because each page is retried alone.
	faults(t, origin, "ListObjectsV2 first=2 => status code=503")
	if got, err := collect(t.Context(), c, "data", ListOptions{MaxKeys: 10}); err != nil || len(got) != 30 {
		t.Errorf("storm: %d keys, %v", len(got), err)
	}
	// A truncated page is requested again and never taken for a short one.
	faults(t, origin, "ListObjectsV2 nth=2 => truncate at=900")
	if got, err := collect(t.Context(), c, "data", ListOptions{MaxKeys: 10}); err != nil || len(got) != 30 {
		t.Errorf("cut: %d keys, %v", len(got), err)
	}
	faults(t, origin, "ListObjectsV2 => stuck-token")
	got, err := collect(t.Context(), c, "data", ListOptions{MaxKeys: 10})
	if !errors.Is(err, ErrListStuck) || len(got) > 60 {
		t.Errorf("stuck: %v after %d keys", err, len(got))
	}
	wantText(t, err, "listing does not advance")
	one := connect(t, origin, Options{Retry: ranges.RetryPolicy{Attempts: -1}})
	faults(t, origin, "ListObjectsV2 => truncate at=900")
	_, err = collect(t.Context(), one, "data", ListOptions{})
	wantText(t, err, "s3: list s3://data: ")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := collect(ctx, c, "data", ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// page makes a listing document.
func page(truncated bool, token string, keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0"?><ListBucketResult><IsTruncated>%v</IsTruncated><EncodingType>url</EncodingType>`, truncated)
	if token != "" {
		fmt.Fprintf(&b, "<NextContinuationToken>%s</NextContinuationToken>", token)
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size></Contents>", url.QueryEscape(k))
	}
	return b.String() + "</ListBucketResult>"
}

// A listing detects servers that repeat their pages in a cycle of any length.
func TestListDetectsCycles(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, lead := range []int{0, 3, 40} {
		for _, circle := range []int{1, 2, 7, 100} {
			requests := 0
			answerWith(c, func(r *http.Request) (*http.Response, error) {
				at := requests
				if requests++; at >= lead {
					at = lead + (at-lead)%circle
				}
				return answer(r, 200, nil, page(true, fmt.Sprintf("t%d", at), "k")), nil
			})
			_, err := collect(t.Context(), c, "b", ListOptions{})
			if limit := 4*(lead+circle) + 4; !errors.Is(err, ErrListStuck) || requests > limit {
				t.Errorf("circle of %d after %d: %v after %d requests, want ErrListStuck within %d", circle, lead, err, requests, limit)
			}
		}
	}
	answerWith(c, func(r *http.Request) (*http.Response, error) { return answer(r, 200, nil, page(true, "", "k")), nil })
	if _, err := collect(t.Context(), c, "b", ListOptions{}); !errors.Is(err, ErrListStuck) {
		t.Errorf("no token: %v", err)
	}
	endless := strings.Repeat("x", maxAnswer)
	answerWith(c, func(r *http.Request) (*http.Response, error) {
		return answer(r, 200, nil, "<ListBucketResult><Name>"+endless+"</Name></ListBucketResult>"), nil
	})
	_, err = collect(t.Context(), c, "b", ListOptions{})
	wantText(t, err, "unreasonably long")
}

// Tokens that never repeat never count as stuck.
func TestTokensAdvance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var progress tokens
		for i := range rapid.IntRange(1, 500).Draw(t, "n") {
			if !progress.advance(fmt.Sprint("token", i)) {
				t.Fatalf("token %d of a straight line is called stuck", i)
			}
		}
	})
}

func TestMissingBucketAndKey(t *testing.T) {
	c := connect(t, start(t, testorigin.Options{}), Options{})
	_, err := collect(t.Context(), c, "none", ListOptions{})
	wantText(t, err, "s3: list s3://none: no such bucket")
	if !errors.Is(err, ErrNoBucket) || !errors.Is(err, ErrNotFound) {
		t.Errorf("sentinels of %v", err)
	}
	_, err = c.Head(t.Context(), "data", "none")
	wantText(t, err, "s3: head s3://data/none: no such object or bucket (404")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("sentinels of %v", err)
	}
}

// FuzzList lists from any document, without a panic, an endless loop or an
// invented key.
func FuzzList(f *testing.F) {
	f.Add(page(false, "", "a", "b c", "ü"))
	f.Add(page(true, "t", "a"))
	f.Add("<ListBucketResult><CommonPrefixes><Prefix>a%2</Prefix></CommonPrefixes></ListBucketResult>")
	f.Add("<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%zz</Key></Contents></ListBucketResult>")
	f.Add("<Error><Code>NoSuchBucket</Code></Error>")
	f.Add("<html>")
	f.Add("")
	isolate(f)
	c, err := New(f.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		requests := 0
		answerWith(c, func(r *http.Request) (*http.Response, error) {
			requests++
			return answer(r, 200, nil, doc), nil
		})
		for e, err := range c.List(t.Context(), "b", ListOptions{Delimiter: "/"}) {
			if err == nil && e.Key == "" && e.Prefix == "" {
				t.Error("an entry without a name")
			}
		}
		if requests > 4 {
			t.Errorf("%d requests: the same page again and again", requests)
		}
	})
}
