package s3

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestValidatorsOfRealStores reads listed and headed objects from stores with
// every known spelling of validators. Another spelling must not count as a
// change of the object, and a change must be found.
func TestValidatorsOfRealStores(t *testing.T) {
	for _, tc := range []struct {
		quirks  string
		changed bool
	}{
		{"", false},
		{"list-etag=bare", false},
		{"list-etag=bare if-match=quoted", false}, // NetApp ONTAP
		{"list-etag=weak", false},
		{"if-match=bare", false}, // DigitalOcean Spaces refuses its own spelling
		{"get-etag=bare head-etag=bare list-etag=bare if-match=bare", false},
		{"get-etag=weak", false}, // a proxy that could compress
		{"get-etag=weak head-etag=weak list-etag=weak", false},
		{"get-etag=none head-etag=none list-etag=none", false},            // versitygw with files that it has not written
		{"get-etag=none head-etag=none list-etag=none no-dates", false},   // nothing to compare
		{"get-etag=none head-etag=none list-etag=none bare-range", false}, // and a 416 without a size
		{"list-etag=none", false},
		{"get-etag=none ignore-conditions", false},
		{"get-etag=other", true},
		{"get-etag=other ignore-conditions", true},
	} {
		t.Run(tc.quirks, func(t *testing.T) {
			var gets atomic.Int64
			origin := quirky(t, tc.quirks, testorigin.Options{Tap: func(e testorigin.Event) {
				if e.Op == "GetObject" && !e.Done {
					gets.Add(1)
				}
			}})
			data := realBytes(t, 1<<20)
			if err := origin.Put("data", "big", data); err != nil {
				t.Fatal(err)
			}
			c := connect(t, origin, Options{})
			engine, err := ranges.New(ranges.Options{PartBytes: 256 << 10, MaxConns: 2, Budget: budget.New(16 << 20), Hedge: ranges.HedgePolicy{Quantile: -1}})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			head, err := c.Head(t.Context(), "data", "big")
			if err != nil {
				t.Fatal(err)
			}
			var listed Entry
			for e, err := range c.List(t.Context(), "data", ListOptions{Prefix: "big"}) {
				if err != nil {
					t.Fatal(err)
				}
				listed = e
			}
			for name, info := range map[string]ObjectInfo{
				"head": head,
				"list": {Size: listed.Size, ETag: listed.ETag, LastModified: listed.LastModified},
			} {
				gets.Store(0)
				o := engine.Object(c.Source("data", "big", SourceOptions{}), c.Spec("data", "big", info))
				s := o.Stream(t.Context(), 0, -1, ranges.StreamOptions{})
				got, err := io.ReadAll(s)
				s.Close()
				if tc.changed {
					if !errors.Is(err, ranges.ErrChanged) {
						t.Errorf("by %s: %v, want ErrChanged", name, err)
					}
					continue
				}
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("by %s: %d bytes, %v", name, len(got), err)
				}
				if n := gets.Load(); n > 5+2 { // five parts, and two first requests that learn the spelling
					t.Errorf("by %s: %d requests", name, n)
				}
			}
		})
	}
}

// A single proxy page or empty body among good answers costs one request.
func TestOneOddAnswerCostsOneRequest(t *testing.T) {
	for _, action := range []testorigin.Action{testorigin.ActPage, testorigin.ActEmpty, testorigin.ActWrongTotal, testorigin.ActWrongLength} {
		origin := quirky(t, "", testorigin.Options{})
		data := realBytes(t, 1<<20)
		if err := origin.Put("data", "big", data); err != nil {
			t.Fatal(err)
		}
		c := connect(t, origin, Options{})
		engine, err := ranges.New(ranges.Options{PartBytes: 256 << 10, Budget: budget.New(16 << 20), Hedge: ranges.HedgePolicy{Quantile: -1}})
		if err != nil {
			t.Fatal(err)
		}
		head, err := c.Head(t.Context(), "data", "big")
		if err != nil {
			t.Fatal(err)
		}
		origin.SetFaults(testorigin.Fault{Op: "GetObject", Nth: 2, Action: action})
		o := engine.Object(c.Source("data", "big", SourceOptions{}), c.Spec("data", "big", head))
		s := o.Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", action, len(got), err)
		}
		s.Close()
		if st := engine.Stats(); st.Retries != 1 {
			t.Errorf("%s: %+v", action, st)
		}
		engine.Close()
	}
}

// If a store gives no ETag, the time of the last change keeps a reader from
// returning bytes of two versions.
func TestSourcePinsByDate(t *testing.T) {
	isolate(t)
	for _, conditions := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
			if err != nil {
				t.Fatal(err)
			}
			content, changed := strings.Repeat("A", 300_000), time.Now()
			answerWith(c, func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				if !conditions {
					r = r.Clone(r.Context())
					r.Header.Del("If-Unmodified-Since")
				}
				http.ServeContent(w, r, "", changed, strings.NewReader(content))
				resp := w.Result()
				resp.Request = r
				return resp, nil
			})
			head, err := c.Head(t.Context(), "b", "k")
			if err != nil || head.ETag != "" || head.Size != 300_000 {
				t.Fatalf("%+v, %v", head, err)
			}
			engine, err := ranges.New(ranges.Options{PartBytes: 64 << 10, Budget: budget.New(16 << 20)})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			o := engine.Object(c.Source("b", "k", SourceOptions{}), c.Spec("b", "k", head))
			p := make([]byte, 1000)
			if _, err := o.Fetch(t.Context(), p, 0); err != nil || p[999] != 'A' {
				t.Fatalf("%q, %v", p[999], err)
			}
			time.Sleep(2 * time.Second) // of the bubble's clock
			content, changed = strings.Repeat("B", 300_000), time.Now()
			if _, err := o.Fetch(t.Context(), p, 200_000); !errors.Is(err, ranges.ErrChanged) {
				t.Errorf("conditions %v: bytes %q of the new version, %v", conditions, p[0], err)
			}
		})
	}
}

// If a listing has an ETag that cannot be a condition, and a GET has no ETag,
// the date ensures that all answers of a reader have the same version.
func TestListedSourcePinsByDate(t *testing.T) {
	isolate(t)
	synctest.Test(t, func(t *testing.T) {
		c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
		if err != nil {
			t.Fatal(err)
		}
		content, changed := strings.Repeat("A", 300_000), time.Now()
		answerWith(c, func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			http.ServeContent(w, r, "", changed, strings.NewReader(content))
			resp := w.Result()
			resp.Request = r
			return resp, nil
		})
		engine, err := ranges.New(ranges.Options{PartBytes: 64 << 10, Budget: budget.New(16 << 20)})
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		o := engine.Object(c.Source("b", "k", SourceOptions{}), c.Spec("b", "k", ObjectInfo{Size: 300_000, ETag: "7fc56270"}))
		p := make([]byte, 1000)
		for _, off := range []int64{0, 100_000} {
			if _, err := o.Fetch(t.Context(), p, off); err != nil || p[999] != 'A' {
				t.Fatalf("%q, %v", p[999], err)
			}
		}
		time.Sleep(2 * time.Second) // of the bubble's clock
		content, changed = strings.Repeat("B", 300_000), time.Now()
		if _, err := o.Fetch(t.Context(), p, 200_000); !errors.Is(err, ranges.ErrChanged) {
			t.Errorf("bytes %q of the new version, %v", p[0], err)
		}
	})
}
