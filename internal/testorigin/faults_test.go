package testorigin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faulty starts an origin with the object b/k of n bytes, on disk, so that
// tests use the sendfile path.
func faulty(t *testing.T, n int, faults ...Fault) (*Origin, *http.Client, []byte) {
	t.Helper()
	o, c, data := start(t, Options{Seed: 7}), client(t), sample(n)
	path := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.PutFile("b", "k", path); err != nil {
		t.Fatal(err)
	}
	o.SetFaults(faults...)
	return o, c, data
}

func wantFired(t *testing.T, o *Origin, want ...int64) {
	t.Helper()
	var got []int64
	for _, c := range o.FaultCounts() {
		got = append(got, c.Fired)
	}
	if !slices.Equal(got, want) {
		t.Errorf("fired %v, want %v", got, want)
	}
}

func TestFaultStatus(t *testing.T) {
	o, c, _ := faulty(t, 1000,
		Fault{Op: "GetObject", Nth: 1, Action: ActStatus, RetryAfter: 1500 * time.Millisecond},
		Fault{Op: "GetObject", Nth: 2, Action: ActStatus, Status: 429, Error: "SlowDown", RetryAfter: time.Minute, RetryDate: true},
		Fault{Op: "GetObject", Nth: 3, Action: ActStatus, Status: 500})
	for i, want := range []struct {
		status int
		code   string
	}{{503, "SlowDown"}, {429, "SlowDown"}, {500, "InternalError"}, {200, ""}} {
		resp, body, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
		if err != nil || resp.StatusCode != want.status {
			t.Fatalf("GET %d: %v %v, want %d", i+1, resp.Status, err, want.status)
		}
		if want.code != "" && !strings.Contains(string(body), "<Code>"+want.code+"</Code>") {
			t.Errorf("GET %d: body %s, want code %s", i+1, body, want.code)
		}
		switch i {
		case 0:
			if ra := resp.Header.Get("Retry-After"); ra != "2" {
				t.Errorf("Retry-After %q, want whole seconds rounded up", ra)
			}
		case 1:
			if _, err := http.ParseTime(resp.Header.Get("Retry-After")); err != nil {
				t.Errorf("Retry-After %q is no date", resp.Header.Get("Retry-After"))
			}
		}
	}
	wantFired(t, o, 1, 1, 1)
	if n := o.Count("GetObject", "b/k"); n.Requests != 4 || n.Success != 1 || n.Faults != 3 || n.Bytes != 1000 {
		t.Errorf("Count = %+v; error documents must not count as object bytes", n)
	}
}

func TestFaultTruncateAndReset(t *testing.T) {
	const size, at = 500_000, 123_457
	for _, f := range []Fault{
		{Action: ActTruncate, At: at}, {Action: ActReset, At: at}, {Action: ActTruncate, At: AtHeader}, {Action: ActReset, At: AtHeader},
	} {
		t.Run(f.String(), func(t *testing.T) {
			f.Op = "GetObject"
			o, c, data := faulty(t, size, f)
			resp, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
			if err == nil || resp == nil || resp.ContentLength != size {
				t.Fatalf("error %v, want a broken body under a full Content-Length", err)
			}
			want := max(0, f.At)
			if int64(len(got)) != want || !bytes.Equal(got, data[:want]) {
				t.Errorf("%d bytes, want %d", len(got), want)
			}
			if f.Action == ActReset != errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: error %v", f.Action, err)
			}
			wantFired(t, o, 1)
			if n := o.TotalBytes("b/k"); n != want {
				t.Errorf("TotalBytes = %d, want %d", n, want)
			}
		})
	}
}

func TestFaultResetBeforeHeader(t *testing.T) {
	o, c, _ := faulty(t, 10, Fault{Op: "GetObject", First: 5, Action: ActReset})
	// The connection is new, because net/http would retry on one that was used
	// before.
	if _, _, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil); err == nil {
		t.Error("no error from a reset connection")
	}
	if n := o.Count("GetObject", "b/k"); n.Success != 0 || n.Faults == 0 {
		t.Errorf("Count = %+v", n)
	}
}

func TestFaultStall(t *testing.T) {
	o, c, data := faulty(t, 400_000, Fault{Op: "GetObject", Action: ActStall, At: 100_000})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", o.ObjectURL("b", "k"), nil)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 100_000)
	if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, data[:100_000]) {
		t.Fatalf("the bytes before the stall: %v", err)
	}
	more := make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		more <- err
	}()
	select {
	case err := <-more:
		t.Fatalf("the body continued after the stall: %v", err)
	default:
	}
	cancel() // the client goes away, which frees both ends
	if err := <-more; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := o.Count("GetObject", "b/k").Bytes; n != 100_000 {
		t.Errorf("%d bytes counted, want those before the stall", n)
	}
}

// TestFaultStallEndsWithClose stalls one request before its header and one
// inside its body, and closes the origin.
func TestFaultStallEndsWithClose(t *testing.T) {
	arrived := make(chan struct{}, 2)
	o, err := Start(Options{Anonymous: true, Tap: func(e Event) {
		if !e.Done {
			arrived <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Put("b", "k", sample(1000)); err != nil {
		t.Fatal(err)
	}
	o.SetFaults(Fault{Nth: 1, Action: ActStall}, Fault{Nth: 2, Action: ActStall, At: 10})
	c := client(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", o.ObjectURL("b", "k"), nil)
			resp, err := c.Do(req)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err == nil {
				t.Error("a stalled request ended well")
			}
		})
	}
	<-arrived
	<-arrived
	if err := o.Close(); err != nil {
		t.Error("Close:", err)
	}
	wg.Wait()
}

// TestFaultOrdinalsAgree evaluates many requests at once under rules for one
// request each. Every rule must count the requests in the same order. Otherwise
// one request gets the effects of two rules, and another request gets none.
func TestFaultOrdinalsAgree(t *testing.T) {
	const requests, rounds = 16, 200
	var faults []Fault
	for n := range requests {
		faults = append(faults, Fault{Nth: n + 1, Action: ActStall})
	}
	for range rounds {
		fs := newFaultSet(1, faults)
		start := make(chan struct{})
		effects := make(chan int, requests)
		for range requests {
			go func() {
				<-start
				effects <- len(fs.eval("GetObject", "b/k", ""))
			}()
		}
		close(start)
		for range requests {
			if n := <-effects; n != 1 {
				t.Fatalf("a request has %d effects, want 1", n)
			}
		}
	}
}

func TestFaultRanges(t *testing.T) {
	const rng = "bytes=1000-1999"
	for _, tt := range []struct {
		f            Fault
		status       int
		contentRange string
		from, to     int
	}{
		{Fault{Action: ActShort, Bytes: 10}, 206, "bytes 1000-1989/5000", 1000, 1990},
		{Fault{Action: ActWrongLength, Bytes: 10}, 206, "bytes 1000-1999/5000", 1000, 1990},
		{Fault{Action: ActWrongRange}, 206, "bytes 1001-2000/5000", 1000, 2000},
		{Fault{Action: ActWrongTotal, Bytes: 7}, 206, "bytes 1000-1999/5007", 1000, 2000},
		{Fault{Action: ActIgnoreRange}, 200, "", 0, 5000},
	} {
		t.Run(tt.f.String(), func(t *testing.T) {
			o, c, data := faulty(t, 5000, tt.f)
			resp, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "Range", rng)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Range") != tt.contentRange {
				t.Errorf("%s, Content-Range %q", resp.Status, resp.Header.Get("Content-Range"))
			}
			if resp.ContentLength != int64(tt.to-tt.from) || !bytes.Equal(got, data[tt.from:tt.to]) {
				t.Errorf("Content-Length %d, body of %d bytes", resp.ContentLength, len(got))
			}
		})
	}
}

func TestFaultMultipart(t *testing.T) {
	o, c, data := faulty(t, 5000, Fault{Action: ActMultipart})
	resp, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "Range", "bytes=10-19")
	if err != nil || resp.StatusCode != 206 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges") {
		t.Fatalf("%v %v %v", resp.Status, resp.Header, err)
	}
	if !bytes.Contains(got, data[10:20]) || !bytes.Contains(got, []byte("Content-Range: bytes 10-19/5000")) {
		t.Errorf("body %q", got)
	}
}

func TestFaultFlipAndSlow(t *testing.T) {
	o, c, data := faulty(t, 5000,
		Fault{Nth: 1, Action: ActFlip, At: 100, Bytes: 3}, Fault{Nth: 2, Action: ActFlip}, Fault{Nth: 3, Action: ActSlow, Rate: 100_000})
	_, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	want := slices.Clone(data)
	for i := 100; i < 103; i++ {
		want[i] ^= 0xff
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the body differs from one with 3 bytes flipped at 100 (%v)", err)
	}
	_, got, _ = do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	wrong := 0
	for i := range data {
		if got[i] != data[i] {
			wrong++
		}
	}
	if wrong != 1 {
		t.Errorf("%d bytes are wrong, want 1 at a random place", wrong)
	}
	if _, got, err = do(t, c, "GET", o.ObjectURL("b", "k"), nil); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a slow body is not the same body (%v)", err)
	}
}

func TestFaultSwap(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("another version"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, c, data := faulty(t, 5000,
		Fault{Op: "GetObject", Nth: 2, Action: ActSwap}, Fault{Op: "GetObject", Nth: 3, Action: ActSwap, File: other})
	first, _, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	resp, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "If-Match", first.Header.Get("ETag"))
	if err != nil || resp.StatusCode != 412 {
		t.Errorf("the swapping GET with the old ETag: %v %v, %d bytes; want 412", resp.Status, err, len(got))
	}
	_, got, _ = do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	if string(got) != "another version" {
		t.Errorf("%d bytes, want the file's", len(got))
	}
	_ = data
}

func TestFaultExpire(t *testing.T) {
	o, c, _ := faulty(t, 10, Fault{Op: "GetObject", First: 2, Action: ActExpire})
	resp, body, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	if resp.StatusCode != 400 || !strings.Contains(string(body), "ExpiredToken") {
		t.Errorf("%s %s", resp.Status, body)
	}
	resp, body, _ = do(t, c, "GET", o.Presign("GET", "b", "k", time.Hour), nil)
	if resp.StatusCode != 403 || !strings.Contains(string(body), "Request has expired") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, _, _ = do(t, c, "GET", o.Presign("GET", "b", "k", time.Hour), nil); resp.StatusCode != 200 {
		t.Errorf("after the fault: %s", resp.Status)
	}
	if resp, _, _ = do(t, c, "GET", o.Presign("GET", "b", "k", -time.Hour), nil); resp.StatusCode != 403 {
		t.Errorf("a URL that was already expired when it was made: %s", resp.Status)
	}
}

func TestFaultStuckToken(t *testing.T) {
	o, c, _ := faulty(t, 10, Fault{Op: "ListObjectsV2", After: 1, Action: ActStuckToken})
	for i := range 5 {
		if err := o.Put("b", fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	page := func(token string) (string, string) {
		u := o.URL() + "/b?list-type=2&max-keys=2"
		if token != "" {
			u += "&continuation-token=" + token
		}
		_, body, err := do(t, c, "GET", u, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := string(body)
		_, next, _ := strings.Cut(s, "<NextContinuationToken>")
		next, _, _ = strings.Cut(next, "<")
		_, key, _ := strings.Cut(s, "<Key>")
		key, _, _ = strings.Cut(key, "<")
		return next, key
	}
	token, key := page("")
	if key != "0" {
		t.Fatalf("first key %q", key)
	}
	next, key := page(token)
	if next != token || key != "2" {
		t.Errorf("token %q -> %q, key %q; want the same token again", token, next, key)
	}
	if again, key := page(next); again != next || key != "2" {
		t.Errorf("token %q, key %q; want the same page again", again, key)
	}
}

func TestFaultHeaderAndClose(t *testing.T) {
	o, c, _ := faulty(t, 10, Fault{Action: ActHeader, Header: "ETag:"}, Fault{Action: ActHeader, Header: "Content-Encoding: identity"},
		Fault{Action: ActClose})
	resp, _, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	if err != nil || resp.Header.Get("ETag") != "" || resp.Header.Get("Content-Encoding") != "identity" || !resp.Close {
		t.Errorf("%v %v close=%v", err, resp.Header, resp.Close)
	}
}

func TestFaultsOnUploads(t *testing.T) {
	o, c, _ := faulty(t, 10,
		Fault{Op: "PutObject", Nth: 1, Action: ActReset, At: 70_000}, Fault{Op: "PutObject", Nth: 2, Action: ActFlip, At: 5})
	data := sample(200_000)
	if _, _, err := do(t, c, "PUT", o.ObjectURL("b", "up"), data); err == nil {
		t.Error("an upload survived a reset")
	}
	resp, _, err := do(t, c, "PUT", o.ObjectURL("b", "up"), data, "Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("a flipped upload with a Content-MD5: %v %v", resp, err)
	}
	if resp, _, err = do(t, c, "PUT", o.ObjectURL("b", "up"), data); err != nil || resp.StatusCode != 200 {
		t.Fatalf("a clean upload: %v %v", resp, err)
	}
	if _, got, _ := do(t, c, "GET", o.ObjectURL("b", "up"), nil); !bytes.Equal(got, data) {
		t.Error("the upload came back different")
	}
	if n := o.Count("PutObject", "b/up"); n.Received < 400_000 {
		t.Errorf("received %d bytes, want at least those of two whole uploads", n.Received)
	}
}

func TestFaultsCompose(t *testing.T) {
	o, c, data := faulty(t, 5000, Fault{Action: ActFlip, At: 10}, Fault{Action: ActWrongTotal}, Fault{Action: ActTruncate, At: 20})
	resp, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "Range", "bytes=0-99")
	if err == nil || len(got) != 20 || got[10] != data[10]^0xff || resp.Header.Get("Content-Range") != "bytes 0-99/5001" {
		t.Errorf("%d bytes, %v, %v", len(got), resp.Header, err)
	}
	wantFired(t, o, 1, 1, 1)
}

func TestFaultConditions(t *testing.T) {
	for _, tt := range []struct {
		f    Fault
		want string // which of ten requests fail
	}{
		{Fault{Nth: 3}, "..x......."},
		{Fault{Every: 3}, "..x..x..x."},
		{Fault{First: 2}, "xx........"},
		{Fault{After: 7}, ".......xxx"},
		{Fault{After: 2, Every: 2, Max: 2}, "...x.x...."},
		{Fault{Key: "b/other"}, ".........."},
		{Fault{Key: "b/*"}, "xxxxxxxxxx"},
		{Fault{Op: "Get*", Max: 1}, "x........."},
	} {
		t.Run(tt.f.String(), func(t *testing.T) {
			tt.f.Action = ActStatus
			fs := newFaultSet(1, []Fault{tt.f})
			got := ""
			for range 10 {
				if fs.eval("GetObject", "b/k", "") != nil {
					got += "x"
				} else {
					got += "."
				}
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestFaultsReplay requests many keys from many goroutines, twice, and compares
// the effects on each request of each key.
func TestFaultsReplay(t *testing.T) {
	script := []Fault{{Op: "GetObject", Probability: 0.3, Action: ActStatus}, {Probability: 0.2, Action: ActFlip}}
	run := func(seed uint64, workers int) map[string]string {
		fs := newFaultSet(seed, script)
		var mu sync.Mutex
		got := map[string]string{}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for k := w; k < 40; k += workers {
					key, s := fmt.Sprint("b/", k), ""
					for range 50 {
						for _, f := range fs.eval("GetObject", key, "") {
							s += fmt.Sprint(f.Action, f.draw, " ")
						}
						s += "|"
					}
					mu.Lock()
					got[key] = s
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return got
	}
	a, b, other := run(1, 1), run(1, 8), run(2, 8)
	if !mapsEqual(a, b) {
		t.Error("the same seed gave other faults under concurrency")
	}
	if mapsEqual(a, other) {
		t.Error("another seed gave the same faults")
	}
	fired := 0
	for _, s := range a {
		fired += strings.Count(s, string(ActStatus))
	}
	if fired < 500 || fired > 700 { // 2000 draws at 0.3, six standard deviations wide; the seed is fixed anyway
		t.Errorf("%d of 2000 requests failed, want about 600", fired)
	}
}

func mapsEqual(a, b map[string]string) bool {
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestFaultsPerRange(t *testing.T) {
	fs := newFaultSet(3, []Fault{{PerRange: true, Probability: 0.5, Action: ActStatus}})
	again := newFaultSet(3, []Fault{{PerRange: true, Probability: 0.5, Action: ActStatus}})
	var ranges []string
	for i := range 20 {
		ranges = append(ranges, fmt.Sprintf("bytes=%d-", i))
	}
	want := map[string]bool{}
	for _, r := range ranges {
		want[r] = fs.eval("GetObject", "b/k", r) != nil
	}
	slices.Reverse(ranges)
	for _, r := range ranges {
		if got := again.eval("GetObject", "b/k", r) != nil; got != want[r] {
			t.Errorf("range %s: the order of requests changed its fault", r)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "x", true},
		{"*", "", true},
		{"a", "a", true},
		{"a", "ab", false},
		{"a*", "a/b/c", true},
		{"*c", "a/b/c", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"?x", "ax", true},
		{"?x", "x", false},
		{`a\*`, "a*", true},
		{`a\*`, "ab", false},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}
