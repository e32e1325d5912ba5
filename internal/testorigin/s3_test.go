package testorigin

import (
	"crypto/md5"
	"encoding/base64"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signed sends a GET that cred signs in the header for the region, with more
// headers.
func signed(t *testing.T, o *Origin, c *http.Client, cred Credential, region, bucket, key string, headers ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", o.ObjectURL(bucket, key), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := o.opts.Now().UTC()
	s := sigv4{
		accessKey: cred.AccessKey, date: now.Format("20060102"), region: region, service: "s3", at: now,
		signed: []string{"host", "x-amz-content-sha256", "x-amz-date"},
	}
	req.Header.Set("X-Amz-Date", now.Format(sigTimeFormat))
	req.Header.Set("X-Amz-Content-Sha256", unsignedPayload)
	if cred.SessionToken != "" {
		req.Header.Set("X-Amz-Security-Token", cred.SessionToken)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.Header.Set("Authorization", sigAlgorithm+" Credential="+cred.AccessKey+"/"+s.scope()+", SignedHeaders="+
		strings.Join(s.signed, ";")+", Signature="+s.sign(s.signingKey(cred.SecretKey), req, unsignedPayload))
	resp, body, err := do(t, c, "GET", req.URL.String(), nil, flatten(req.Header)...)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, code(body), resp.Header
}

func flatten(h http.Header) (out []string) {
	for name := range h {
		out = append(out, name, h.Get(name))
	}
	return out
}

// code returns the error code of an S3 error document.
func code(body []byte) string {
	_, rest, _ := strings.Cut(string(body), "<Code>")
	c, _, _ := strings.Cut(rest, "<")
	return c
}

func TestReadAuthorization(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := func() time.Time { return now }
	temp := Credential{AccessKey: "TEMP", SecretKey: "s", SessionToken: "tok", Expires: now.Add(time.Hour)}
	o, err := Start(Options{Now: clock, Credentials: []Credential{temp}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	c := client(t)
	for name, opts := range map[string]BucketOptions{
		"b": {}, "far": {Region: "eu-west-1"}, "pays": {RequesterPays: true}, "theirs": {Owner: "999988887777"},
	} {
		if err := o.CreateBucket(name, opts); err != nil {
			t.Fatal(err)
		}
		if err := o.Put(name, "k", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	static := Credential{AccessKey: AccessKey, SecretKey: SecretKey}
	wrongToken, stale := temp, temp
	wrongToken.SessionToken = "other"
	for _, tt := range []struct {
		what    string
		cred    Credential
		region  string
		bucket  string
		headers []string
		status  int
		code    string
	}{
		{"static", static, Region, "b", nil, 200, ""},
		{"session", temp, Region, "b", nil, 200, ""},
		{"wrong token", wrongToken, Region, "b", nil, 400, "InvalidToken"},
		{"wrong secret", Credential{AccessKey: AccessKey, SecretKey: "x"}, Region, "b", nil, 403, "SignatureDoesNotMatch"},
		{"unknown key", Credential{AccessKey: "x", SecretKey: "x"}, Region, "b", nil, 403, "InvalidAccessKeyId"},
		{"wrong region", static, Region, "far", nil, 301, "PermanentRedirect"},
		{"right region", static, "eu-west-1", "far", nil, 200, ""},
		{"not paying", static, Region, "pays", nil, 403, "AccessDenied"},
		{"paying", static, Region, "pays", []string{"X-Amz-Request-Payer", "requester"}, 200, ""},
		{"expected owner", static, Region, "theirs", []string{"X-Amz-Expected-Bucket-Owner", "999988887777"}, 200, ""},
		{"unexpected owner", static, Region, "theirs", []string{"X-Amz-Expected-Bucket-Owner", OwnerID}, 403, "AccessDenied"},
		{"no bucket", static, Region, "nope", nil, 404, "NoSuchBucket"},
	} {
		status, code, h := signed(t, o, c, tt.cred, tt.region, tt.bucket, "k", tt.headers...)
		if status != tt.status || code != tt.code {
			t.Errorf("%s: %d %s, want %d %s", tt.what, status, code, tt.status, tt.code)
		}
		if tt.status == 301 && h.Get("X-Amz-Bucket-Region") != "eu-west-1" {
			t.Errorf("%s: no x-amz-bucket-region", tt.what)
		}
	}
	resp, body, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	if resp.StatusCode != 403 || code(body) != "AccessDenied" {
		t.Errorf("unsigned: %s %s", resp.Status, body)
	}
	now = now.Add(2 * time.Hour)
	if status, code, _ := signed(t, o, c, stale, Region, "b", "k"); status != 400 || code != "ExpiredToken" {
		t.Errorf("expired session: %d %s", status, code)
	}
	u := o.Presign("GET", "b", "k", time.Minute)
	if resp, _, _ := do(t, c, "GET", u, nil); resp.StatusCode != 200 {
		t.Errorf("presigned: %s", resp.Status)
	}
	if resp, body, _ := do(t, c, "GET", u, nil, "Authorization", "Bearer x"); resp.StatusCode != 400 || code(body) != "InvalidArgument" {
		t.Errorf("presigned and an Authorization header: %s %s", resp.Status, body)
	}
	now = now.Add(2 * time.Minute)
	if resp, body, _ := do(t, c, "GET", u, nil); resp.StatusCode != 403 || code(body) != "AccessDenied" {
		t.Errorf("presigned, expired: %s %s", resp.Status, body)
	}
}

func TestCustomerKey(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	if err := o.CreateBucket("b", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	key := []byte("0123456789abcdef0123456789abcdef")
	sum := md5.Sum(key)
	headers := []string{
		"X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256", "X-Amz-Server-Side-Encryption-Customer-Key", base64.StdEncoding.EncodeToString(key),
		"X-Amz-Server-Side-Encryption-Customer-Key-MD5", base64.StdEncoding.EncodeToString(sum[:]),
	}
	if resp, body, err := do(t, c, "PUT", o.ObjectURL("b", "k"), []byte("x"), headers...); err != nil || resp.StatusCode != 200 {
		t.Fatalf("PUT: %v %s", err, body)
	}
	if resp, _, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil); resp.StatusCode != 400 {
		t.Errorf("without the key: %s", resp.Status)
	}
	if resp, _, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil, headers...); resp.StatusCode != 200 {
		t.Errorf("with the key: %s", resp.Status)
	}
	headers[5] = "AAAAAAAAAAAAAAAAAAAAAA=="
	if resp, _, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil, headers...); resp.StatusCode != 403 {
		t.Errorf("with another key: %s", resp.Status)
	}
}

func TestPutFileOptions(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	dir := t.TempDir()
	data := sample(10_000)
	writeFile(t, filepath.Join(dir, "sub", "f"), data)
	if err := o.PutDir("b", dir, PutFileOptions{Unhashed: true, CRC64NVME: true}); err != nil {
		t.Fatal(err)
	}
	first, _, _ := do(t, c, "HEAD", o.ObjectURL("b", "sub/f"), nil, "X-Amz-Checksum-Mode", "ENABLED")
	if etag := first.Header.Get("ETag"); !strings.HasSuffix(etag, `-1"`) {
		t.Errorf("ETag %s looks like a hash of the bytes", etag)
	}
	h := newChecksum("CRC64NVME")
	h.Write(data)
	if got := first.Header.Get("X-Amz-Checksum-Crc64nvme"); got != base64.StdEncoding.EncodeToString(h.Sum(nil)) {
		t.Errorf("CRC64NVME %q", got)
	}
	if err := o.PutFile("b", "g", filepath.Join(dir, "sub", "f"), PutFileOptions{ETag: "mine"}); err != nil {
		t.Fatal(err)
	}
	if second, _, _ := do(t, c, "HEAD", o.ObjectURL("b", "g"), nil); second.Header.Get("ETag") != `"mine"` {
		t.Errorf("ETag %s", second.Header.Get("ETag"))
	}
	if err := o.PutFile("b", "g", dir); err == nil {
		t.Error("a folder was put as an object")
	}
}

func TestScratchFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	o, c := start(t, Options{Dir: dir}), client(t)
	if err := o.CreateBucket("b", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	big := sample(memoryBody + 1)
	for range 3 { // each overwrites the previous one
		if resp, _, err := do(t, c, "PUT", o.ObjectURL("b", "k"), big); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
	}
	if n := count(); n != 1 {
		t.Errorf("%d scratch files for one object", n)
	}
	if resp, _, err := do(t, c, "PUT", o.ObjectURL("b", "copy"), nil, "X-Amz-Copy-Source", "/b/k"); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	o.Delete("b", "k")
	if n := count(); n != 1 {
		t.Errorf("%d scratch files while a copy shares the bytes", n)
	}
	if resp, _, err := do(t, c, "PUT", o.ObjectURL("b", "bad"), big, "Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA=="); err != nil || resp.StatusCode != 400 {
		t.Fatal(resp, err)
	}
	o.Delete("b", "copy")
	if n := count(); n != 0 {
		t.Errorf("%d scratch files are left", n)
	}
}

func TestVirtualHostStyle(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	if err := o.Put("b", "dir/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", o.URL()+"/dir/k", nil)
	req.Host = "b.localhost:80"
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}
