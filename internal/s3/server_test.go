package s3

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/penstock/penstock/internal/ranges"
)

// TestServer runs the client against the S3 service of PENSTOCK_S3_BUCKET:
//
//	PENSTOCK_S3_BUCKET=scratch AWS_ENDPOINT_URL_S3=http://127.0.0.1:7070 go test -run TestServer
//
// Credentials come from the environment. It writes and deletes keys below
// "penstock-test/".
func TestServer(t *testing.T) {
	bucket := os.Getenv("PENSTOCK_S3_BUCKET")
	if bucket == "" {
		t.Skip("needs a server: set PENSTOCK_S3_BUCKET and AWS_ENDPOINT_URL_S3")
	}
	c, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = collect(t.Context(), c, bucket+"-none-such", ListOptions{})
	if !errors.Is(err, ErrNoBucket) {
		t.Errorf("missing bucket: %v", err)
	}
	data := realBytes(t, 2*minPart+12345)
	var want []string
	for i, key := range []string{"a b+c", "dir/ü", "dir/%41", "q?x=1&y", "tilde~!*'()", "<xml>&"} {
		key = "penstock-test/" + key
		want = append(want, key)
		small := data[:1000*i]
		res, err := c.Put(t.Context(), bucket, key, bytes.NewReader(small), PutOptions{ContentType: "text/x-go", Metadata: map[string]string{"who": "me"}})
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		info, err := c.Head(t.Context(), bucket, key)
		if err != nil || info.ETag != res.ETag || info.Size != res.Size || info.Metadata["who"] != "me" || info.Checksum != res.Checksum {
			t.Errorf("%s: head %+v, %v, want %+v", key, info, err, res)
		}
		if i == 0 {
			continue
		}
		src := c.Source(bucket, key, SourceOptions{})
		got, _, err := get(t.Context(), src, ranges.Request{Off: 10, Len: 100})
		if err != nil || !bytes.Equal(got, small[10:110]) {
			t.Errorf("%s: %d bytes, %v", key, len(got), err)
		}
		got, whole, err := get(t.Context(), src, ranges.Request{Len: 5000, Pin: "etag:" + res.ETag})
		if err != nil || !bytes.Equal(got, small) {
			t.Errorf("%s: whole %d bytes, %v", key, len(got), err)
		}
		t.Logf("%s: checksum of a range that is the whole: %v", key, whole.Sum)
		_, _, err = get(t.Context(), src, ranges.Request{Len: 1, Pin: `etag:"other"`})
		wantFault(t, err, ranges.Changed, "not the expected one")
		_, end, err := get(t.Context(), src, ranges.Request{Off: 1 << 20, Len: 1})
		wantFault(t, err, ranges.OutOfRange, "")
		t.Logf("%s: size told by 416: %d", key, end.Size)
	}
	slices.Sort(want)
	if got, err := collect(t.Context(), c, bucket, ListOptions{Prefix: "penstock-test/", MaxKeys: 2}); err != nil || !slices.Equal(got, want) {
		t.Errorf("list %q, %v, want %q", got, err, want)
	}
	if got, err := collect(t.Context(), c, bucket, ListOptions{Prefix: "penstock-test/", Delimiter: "/"}); err != nil || !slices.Contains(got, "penstock-test/dir/|") {
		t.Errorf("list by folder %q, %v", got, err)
	}
	for _, sum := range []UploadChecksum{ChecksumCRC64NVME, ChecksumCRC32C, ChecksumOff} {
		key := fmt.Sprint("penstock-test/big", sum)
		res, err := c.Upload(t.Context(), bucket, key, bytes.NewReader(data), PutOptions{PartBytes: minPart, Checksum: sum})
		if err != nil || res.Parts != 3 {
			t.Errorf("upload: %+v, %v", res, err)
			continue
		}
		info, err := c.Head(t.Context(), bucket, key)
		if err != nil || info.Size != int64(len(data)) || info.PartsCount != 3 || sum != ChecksumOff && info.Checksum != res.Checksum {
			t.Errorf("upload, checksum %d: head %+v, %v, want %+v", sum, info, err, res)
		}
		if !bytes.Equal(read(t, c, bucket, key), data) {
			t.Error("upload: other bytes came back")
		}
		want = append(want, key)
	}
	if _, err := c.Put(t.Context(), bucket, want[0], bytes.NewReader(nil), PutOptions{IfNoneMatch: true}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("IfNoneMatch: %v", err)
	}
	if _, err := c.Copy(t.Context(), bucket, want[1], bucket, "penstock-test/copy", PutOptions{}); err != nil {
		t.Errorf("copy: %v", err)
	}
	for _, key := range append(want, "penstock-test/copy") {
		if err := c.Delete(t.Context(), bucket, key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	_, err = c.Head(t.Context(), bucket, want[0])
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}
