package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// read reads a whole object through its source.
func read(t *testing.T, c *Client, bucket, key string) []byte {
	t.Helper()
	data, _, err := get(t.Context(), c.Source(bucket, key, SourceOptions{}), ranges.Request{Len: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPut(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	data := realBytes(t, 100_000)
	for _, sum := range []UploadChecksum{ChecksumCRC64NVME, ChecksumCRC32C, ChecksumOff} {
		res, err := c.Put(t.Context(), "data", "k", bytes.NewReader(data), PutOptions{ContentType: "text/x-go", Metadata: map[string]string{"who": "me"}, Checksum: sum})
		if err != nil || res.Size != int64(len(data)) || res.ETag == "" || res.Checksum != sum.of(data) {
			t.Fatalf("%+v, %v", res, err)
		}
		if !bytes.Equal(read(t, c, "data", "k"), data) {
			t.Fatal("other bytes came back")
		}
		info, err := c.Head(t.Context(), "data", "k")
		if err != nil || info.Size != int64(len(data)) || info.ETag != res.ETag || info.ContentType != "text/x-go" || info.Metadata["who"] != "me" ||
			info.StorageClass != "STANDARD" || info.Archived || info.PartsCount != 0 || info.LastModified.IsZero() {
			t.Errorf("head %+v, %v", info, err)
		}
		if sum != ChecksumOff && info.Checksum != res.Checksum {
			t.Errorf("checksum %v, want %v", info.Checksum, res.Checksum)
		}
		spec := c.Spec("data", "k", info)
		if spec.Name != "s3://data/k" || spec.Host != origin.Host() || spec.Size != info.Size || spec.Pin != "etag:"+info.ETag || spec.Sum != info.Checksum {
			t.Errorf("spec %+v", spec)
		}
	}
	if res, err := c.Put(t.Context(), "data", "empty", strings.NewReader(""), PutOptions{}); err != nil || res.Size != 0 {
		t.Errorf("empty: %+v, %v", res, err)
	}
	if err := c.Delete(t.Context(), "data", "empty"); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), "data", "empty"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if res, err := c.Copy(t.Context(), "data", "k", "data", "copy ü", PutOptions{}); err != nil || res.ETag == "" {
		t.Errorf("copy: %+v, %v", res, err)
	}
	if !bytes.Equal(read(t, c, "data", "copy ü"), data) {
		t.Error("the copy differs")
	}
	if _, err := c.Copy(t.Context(), "data", "none", "data", "x", PutOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("copy of a missing object: %v", err)
	}
}

func TestPutConditional(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	put := func(text string, o PutOptions) error {
		_, err := c.Put(t.Context(), "data", "k", strings.NewReader(text), o)
		return err
	}
	if err := put("one", PutOptions{IfNoneMatch: true}); err != nil {
		t.Fatal(err)
	}
	err := put("two", PutOptions{IfNoneMatch: true})
	wantText(t, err, "s3: put s3://data/k: the object is not the expected one (412")
	if !errors.Is(err, ErrPrecondition) {
		t.Errorf("sentinels of %v", err)
	}
	info, err := c.Head(t.Context(), "data", "k")
	if err != nil {
		t.Fatal(err)
	}
	if err := put("three", PutOptions{IfMatch: info.ETag}); err != nil {
		t.Error(err)
	}
	if err := put("four", PutOptions{IfMatch: info.ETag}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("stale ETag: %v", err)
	}
	if got := string(read(t, c, "data", "k")); got != "three" {
		t.Errorf("content %q", got)
	}
	// The answer of a conditional write is lost, and the repetition finds the
	// object that the first request created.
	if err := c.Delete(t.Context(), "data", "k"); err != nil {
		t.Fatal(err)
	}
	lost := 0
	real := c.client.Transport
	c.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := real.RoundTrip(r)
		if err == nil && r.Method == "PUT" && lost == 0 {
			lost++
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			return nil, io.ErrUnexpectedEOF
		}
		return resp, err
	})
	if err := put("five", PutOptions{IfNoneMatch: true}); err != nil || lost != 1 {
		t.Errorf("lost answer: %v", err)
	}
	c.client.Transport = real
}

func TestPutBadInput(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	for _, tc := range []struct {
		body io.Reader
		o    PutOptions
		text string
	}{
		{strings.NewReader("x"), PutOptions{IfNoneMatch: true, IfMatch: `"e"`}, "exclude each other"},
		{strings.NewReader("x"), PutOptions{Size: -1}, "negative"},
		{strings.NewReader("x"), PutOptions{PartBytes: 1}, "parts of 1 bytes: use 5242880"},
		{strings.NewReader("x"), PutOptions{Size: 1 << 50}, "at most"},
		{strings.NewReader("x"), PutOptions{Size: 5}, "announced"},
		{iotest.ErrReader(errors.New("disk on fire")), PutOptions{}, "read the body: disk on fire"},
	} {
		_, err := c.Put(t.Context(), "data", "bad", tc.body, tc.o)
		wantText(t, err, tc.text)
		_, err = c.Upload(t.Context(), "data", "bad", tc.body, tc.o)
		if err == nil {
			t.Errorf("Upload took %+v", tc.o)
		}
	}
	_, err := c.Put(t.Context(), "data", "bad", io.LimitReader(zeroes{}, MaxPut+1), PutOptions{})
	wantText(t, err, "use Upload")
	if _, err := c.Head(t.Context(), "data", "bad"); !errors.Is(err, ErrNotFound) {
		t.Errorf("something was written: %v", err)
	}
	_, err = c.Put(t.Context(), "none", "k", strings.NewReader("x"), PutOptions{})
	if !errors.Is(err, ErrNoBucket) {
		t.Errorf("missing bucket: %v", err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// uploads counts the multipart uploads that are open.
func uploads(origin *testorigin.Origin, bucket string) int {
	created := origin.Count("CreateMultipartUpload", bucket+"/k").Success
	ended := origin.Count("CompleteMultipartUpload", bucket+"/k").Success + origin.Count("AbortMultipartUpload", bucket+"/k").Success
	return int(created - ended)
}

func TestUpload(t *testing.T) {
	origin := start(t, testorigin.Options{})
	b := budget.New(32 << 20)
	c := connect(t, origin, Options{Budget: b})
	for _, n := range []int{0, 1, minPart - 1, minPart, minPart + 1, 3*minPart + 12345} {
		for _, known := range []bool{false, true} {
			for _, sum := range []UploadChecksum{ChecksumCRC64NVME, ChecksumCRC32C} {
				data := realBytes(t, n)
				o := PutOptions{PartBytes: minPart, Concurrency: 3, Checksum: sum}
				if known {
					o.Size = int64(n)
				}
				res, err := c.Upload(t.Context(), "data", "k", iotest.HalfReader(bytes.NewReader(data)), o)
				if err != nil || res.Size != int64(n) || res.ETag == "" || res.Checksum != sum.of(data) {
					t.Fatalf("%d bytes: %+v, %v", n, res, err)
				}
				if want := max(1, (n+minPart-1)/minPart); res.Parts != want {
					t.Errorf("%d bytes, size known %v: %d parts, want %d", n, known, res.Parts, want)
				}
				info, err := c.Head(t.Context(), "data", "k")
				if err != nil || info.Size != int64(n) || info.Checksum != res.Checksum {
					t.Errorf("%d bytes: head %+v, %v", n, info, err)
				}
				if n > minPart && info.PartsCount != res.Parts {
					t.Errorf("%d bytes: HEAD reports %d parts, want %d", n, info.PartsCount, res.Parts)
				}
				if n > 0 && !bytes.Equal(read(t, c, "data", "k"), data) {
					t.Fatalf("%d bytes: other bytes came back", n)
				}
			}
		}
	}
	if b.InUse() != 0 {
		t.Errorf("%d bytes of the budget not given back", b.InUse())
	}
	if b.Peak() > 32<<20 {
		t.Errorf("peak %d over the budget", b.Peak())
	}
	_, err := c.Upload(t.Context(), "data", "k", bytes.NewReader(realBytes(t, 2*minPart)), PutOptions{PartBytes: minPart, IfNoneMatch: true})
	if !errors.Is(err, ErrPrecondition) {
		t.Errorf("IfNoneMatch: %v", err)
	}
}

// A tiny budget slows an upload down but does not stop it.
func TestUploadTinyBudget(t *testing.T) {
	origin := start(t, testorigin.Options{})
	b := budget.New(1 << 20)
	c := connect(t, origin, Options{Budget: b})
	data := realBytes(t, 3*minPart)
	if _, err := c.Upload(t.Context(), "data", "k", bytes.NewReader(data), PutOptions{PartBytes: minPart}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, c, "data", "k"), data) || b.InUse() != 0 {
		t.Errorf("other bytes, or %d not given back", b.InUse())
	}
}

func TestUploadFails(t *testing.T) {
	data := realBytes(t, 4*minPart)
	for _, tc := range []struct {
		name, script string
		body         func() io.Reader
		o            PutOptions
		text         string
	}{
		{name: "part refused", script: "UploadPart after=1 => status code=403", text: "access denied"},
		{name: "part damaged", script: "UploadPart nth=2 => status code=400 error=BadDigest", text: "arrived damaged"},
		{name: "storm", script: "UploadPart => status code=503", text: "slow down"},
		{name: "complete fails", script: "CompleteMultipartUpload => status code=400 error=InvalidPart", text: "InvalidPart"},
		{name: "body breaks", text: "read the body: disk on fire", body: func() io.Reader {
			return io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errors.New("disk on fire")))
		}},
		{name: "body short", text: "announced", o: PutOptions{Size: int64(len(data)) + 1}},
		{name: "body long", text: "announced", o: PutOptions{Size: int64(len(data)) - 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			origin := start(t, testorigin.Options{})
			b := budget.New(64 << 20)
			c := connect(t, origin, Options{Budget: b, Retry: ranges.RetryPolicy{Attempts: 2}})
			faults(t, origin, tc.script)
			tc.o.PartBytes = minPart
			body := io.Reader(bytes.NewReader(data))
			if tc.body != nil {
				body = tc.body()
			}
			_, err := c.Upload(t.Context(), "data", "k", body, tc.o)
			wantText(t, err, tc.text)
			if n := uploads(origin, "data"); n != 0 {
				t.Errorf("%d uploads left behind", n)
			}
			if _, err := c.Head(t.Context(), "data", "k"); !errors.Is(err, ErrNotFound) {
				t.Errorf("an object was left: %v", err)
			}
			if b.InUse() != 0 {
				t.Errorf("%d bytes of the budget not given back", b.InUse())
			}
		})
	}
}

func TestUploadRetries(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	data := realBytes(t, 3*minPart)
	faults(t, origin, `
		CreateMultipartUpload nth=1 => status code=500
		UploadPart nth=2 => reset at=100000
		UploadPart nth=3 => status code=503
		CompleteMultipartUpload nth=1 => status code=500`)
	if _, err := c.Upload(t.Context(), "data", "k", bytes.NewReader(data), PutOptions{PartBytes: minPart}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, c, "data", "k"), data) {
		t.Error("other bytes came back")
	}
}

func TestUploadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	origin := start(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "UploadPart" && !e.Done {
			cancel()
		}
	}})
	c := connect(t, origin, Options{})
	c.abortWait = time.Minute // a busy machine must not fail the test
	_, err := c.Upload(ctx, "data", "k", bytes.NewReader(realBytes(t, 4*minPart)), PutOptions{PartBytes: minPart})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	wantText(t, err, "s3: upload s3://data/k: context canceled")
	if n := uploads(origin, "data"); n != 0 {
		t.Errorf("%d uploads left behind", n)
	}
}

// If the abort fails too, the message names the parts that stay and how to
// remove them.
func TestUploadAbortFails(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{Retry: ranges.RetryPolicy{Attempts: -1}})
	faults(t, origin, "UploadPart => status code=400 error=BadDigest; AbortMultipartUpload => status code=403")
	_, err := c.Upload(t.Context(), "data", "k", bytes.NewReader(realBytes(t, 2*minPart)), PutOptions{PartBytes: minPart})
	wantText(t, err, "arrived damaged")
	wantText(t, err, "its parts could not be removed")
}

func TestPartSize(t *testing.T) {
	const mib = 1 << 20
	if got := partSize(1, 8*mib, 100*mib); got != 8*mib {
		t.Errorf("small: %d", got)
	}
	for _, total := range []int64{80_000 * mib, 80_001 * mib, maxObject} {
		size := partSize(1, 8*mib, total)
		if n := (total + size - 1) / size; n > maxParts || size%mib != 0 {
			t.Errorf("%d bytes: parts of %d make %d", total, size, n)
		}
	}
	var sum int64
	for n := 1; n <= maxParts; n++ {
		size := partSize(n, DefaultPartBytes, 0)
		if size < minPart || size > maxPart {
			t.Fatalf("part %d of %d bytes", n, size)
		}
		sum += size
	}
	if sum < maxObject {
		t.Errorf("parts of unknown total hold %d bytes, less than an object may have", sum)
	}
}

// A body ends while net/http still reads it. net/http must not read the
// buffer's next bytes.
func TestPayloadEnds(t *testing.T) {
	b := newPayload([]byte("secret"))
	if got := fmt.Sprint(b.Seek(0, io.SeekEnd)); got != "6 <nil>" {
		t.Error(got)
	}
	if got := fmt.Sprint(b.Seek(1, io.SeekStart)); got != "1 <nil>" {
		t.Error(got)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != "ecret" {
		t.Errorf("%q, %v", got, err)
	}
	b.end()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, errEnded) {
		t.Errorf("read after the end: %v", err)
	}
	if _, err := b.Seek(0, io.SeekStart); err == nil {
		t.Error("seek after the end")
	}
}
