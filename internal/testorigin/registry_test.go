package testorigin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// noRedirect is a client that returns redirects instead of following them.
func noRedirect(t *testing.T) *http.Client {
	c := client(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

func TestBlobsByRange(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	data := sample(100_000)
	path := filepath.Join(t.TempDir(), "layer")
	writeFile(t, path, data)
	d, err := o.PutBlobFile("app", path, "")
	if err != nil || d != digest.FromBytes(data) {
		t.Fatal(d, err)
	}
	u := o.URL() + "/v2/app/blobs/" + d.String()
	resp, got, err := do(t, c, "GET", u, nil, "Range", "bytes=1000-1999")
	if err != nil || resp.StatusCode != 206 || resp.Header.Get("Content-Range") != "bytes 1000-1999/100000" || !bytes.Equal(got, data[1000:2000]) {
		t.Errorf("%v %v", resp, err)
	}
	if resp, _, _ = do(t, c, "GET", u, nil, "Range", "bytes=100000-"); resp.StatusCode != 416 {
		t.Errorf("past the end: %s", resp.Status)
	}
	if resp, _, _ = do(t, c, "HEAD", u, nil); resp.StatusCode != 200 || resp.ContentLength != 100_000 || resp.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("HEAD: %v", resp)
	}
	if resp, _, _ = do(t, c, "GET", o.URL()+"/v2/other/blobs/"+d.String(), nil); resp.StatusCode != 404 {
		t.Errorf("from a repository without it: %s", resp.Status)
	}
	if n := o.TotalBytes("app@" + d.String()); n != 1000 {
		t.Errorf("TotalBytes = %d", n)
	}
}

// TestRedirectsExpire redirects GETs of blobs to the second host, with URLs
// that expire by time, by number of uses and by fault, and with an
// Authorization header that the second host refuses.
func TestRedirectsExpire(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := start(t, Options{
		Now: func() time.Time { return now }, Registry: RegistryOptions{RedirectBlobs: true, RedirectTTL: time.Minute, RedirectUses: 2},
	})
	c := noRedirect(t)
	d := o.PutBlob("app", []byte("layer"))
	location := func() string {
		t.Helper()
		resp, _, err := do(t, c, "GET", o.URL()+"/v2/app/blobs/"+d.String(), nil)
		if err != nil || resp.StatusCode != 307 {
			t.Fatal(resp, err)
		}
		return resp.Header.Get("Location")
	}
	get := func(u string, headers ...string) int {
		t.Helper()
		resp, _, err := do(t, c, "GET", u, nil, headers...)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	u := location()
	if !strings.HasPrefix(u, "http://"+o.RedirectHost()+"/") || strings.HasPrefix(u, o.URL()) {
		t.Errorf("redirect to %s", u)
	}
	if s := get(u, "Range", "bytes=1-2"); s != 206 {
		t.Errorf("first use: %d", s)
	}
	if s := get(u, "Authorization", "Bearer secret"); s != 400 {
		t.Errorf("with an Authorization header: %d, want 400 as S3 answers", s)
	}
	if s := get(u); s != 200 {
		t.Errorf("second use: %d", s)
	}
	if s := get(u); s != 403 {
		t.Errorf("third use: %d, want 403", s)
	}
	u = location()
	now = now.Add(2 * time.Minute)
	if s := get(u); s != 403 {
		t.Errorf("after its time: %d, want 403", s)
	}
	o.SetFaults(Fault{Op: "GetBlob", Nth: 1, Action: ActExpire}, Fault{Op: "FetchBlob", Key: "app@*", Nth: 2, Action: ActExpire})
	if s := get(location()); s != 403 { // FetchBlob 1
		t.Errorf("born expired: %d, want 403", s)
	}
	u = location()
	if s := get(u); s != 403 { // FetchBlob 2
		t.Errorf("expired by fault: %d, want 403", s)
	}
	if s := get(u); s != 200 {
		t.Errorf("after the faults: %d", s)
	}
	o.SetFaults(Fault{Op: "FetchBlob", Action: ActStatus})
	resp, body, err := do(t, c, "GET", location(), nil)
	if err != nil || resp.StatusCode != 503 || code(body) != "SlowDown" {
		t.Errorf("throttled by the store: %v %s %v, want an S3 error", resp, body, err)
	}
	o.SetFaults()
	if resp, body, _ = do(t, c, "GET", location(), nil, "Range", "bytes=99-"); resp.StatusCode != 416 || code(body) != "InvalidRange" {
		t.Errorf("past the end: %s %s", resp.Status, body)
	}
	if s := get(strings.Replace(u, "x-serial=", "x-serial=0", 1)); s != 403 {
		t.Errorf("with a changed query: %d, want 403", s)
	}
}

func TestTokens(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := start(t, Options{
		Now: func() time.Time { return now }, Registry: RegistryOptions{Auth: "token", AnonymousPull: true, TokenTTL: time.Minute},
	})
	c := client(t)
	d := o.PutBlob("app", []byte("layer"))
	blob := o.URL() + "/v2/app/blobs/" + d.String()
	token := func(query string, auth bool) string {
		t.Helper()
		u := o.URL() + "/token?" + query
		if auth {
			u = strings.Replace(u, "http://", "http://"+RegistryUser+":"+RegistryPassword+"@", 1)
		}
		resp, body, err := do(t, c, "GET", u, nil)
		var doc struct {
			Token     string `json:"token"`
			ExpiresIn int    `json:"expires_in"`
		}
		if err != nil || resp.StatusCode != 200 || json.Unmarshal(body, &doc) != nil || doc.ExpiresIn != 60 {
			t.Fatal(resp, err, string(body))
		}
		return doc.Token
	}
	check := func(what, method, u, token string, status int, challenge string) {
		t.Helper()
		var headers []string
		if token != "" {
			headers = []string{"Authorization", "Bearer " + token}
		}
		resp, _, err := do(t, c, method, u, nil, headers...)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status || !strings.Contains(resp.Header.Get("WWW-Authenticate"), challenge) {
			t.Errorf("%s: %s, challenge %q; want %d with %q", what, resp.Status, resp.Header.Get("WWW-Authenticate"), status, challenge)
		}
	}
	check("no token", "GET", blob, "", 401, `scope="repository:app:pull"`)
	check("no token, base", "GET", o.URL()+"/v2/", "", 401, `realm="`+o.URL()+`/token"`)
	pull := token("scope=repository:app:pull,push&service=penstock-origin", false)
	check("pull", "GET", blob, pull, 200, "")
	check("anonymous push", "POST", o.URL()+"/v2/app/blobs/uploads/", pull, 401, "insufficient_scope")
	check("another repository", "GET", o.URL()+"/v2/other/blobs/"+d.String(), pull, 401, "insufficient_scope")
	check("forged", "GET", blob, pull+"x", 401, "invalid_token")
	push := token("scope=repository:app:pull,push", true)
	check("push", "POST", o.URL()+"/v2/app/blobs/uploads/", push, 202, "")
	now = now.Add(2 * time.Minute)
	check("expired", "GET", blob, pull, 401, "invalid_token")
	resp, _, _ := do(t, c, "GET", strings.Replace(o.URL(), "http://", "http://who:what@", 1)+"/token", nil)
	if resp.StatusCode != 401 {
		t.Errorf("wrong password: %s", resp.Status)
	}
	o.SetFaults(Fault{Op: "Token", Action: ActStatus, Status: 429, RetryAfter: time.Second})
	if resp, _, _ = do(t, c, "GET", o.URL()+"/token", nil); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("throttled: %v", resp)
	}
}

func TestChunkedBlobUpload(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	data := sample(200_000)
	d := digest.SHA512.FromBytes(data)
	resp, _, err := do(t, c, "POST", o.URL()+"/v2/app/blobs/uploads/", nil)
	if err != nil || resp.StatusCode != 202 {
		t.Fatal(resp, err)
	}
	u := o.URL() + resp.Header.Get("Location")
	patch := func(from, to int) int {
		resp, _, err := do(t, c, "PATCH", u, data[from:to], "Content-Range", fmt.Sprintf("%d-%d", from, to-1))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if s := patch(0, 100_000); s != 202 {
		t.Fatal(s)
	}
	if s := patch(0, 100_000); s != 416 {
		t.Errorf("the same chunk again: %d", s)
	}
	resp, _, _ = do(t, c, "GET", u, nil)
	if resp.StatusCode != 204 || resp.Header.Get("Range") != "0-99999" {
		t.Errorf("state: %v", resp)
	}
	if s := patch(100_000, 150_000); s != 202 {
		t.Fatal(s)
	}
	resp, body, _ := do(t, c, "PUT", u+"?digest="+d.String(), data[150_000:])
	if resp.StatusCode != 201 {
		t.Fatal(resp.Status, string(body))
	}
	if _, got, _ := do(t, c, "GET", o.URL()+resp.Header.Get("Location"), nil); !bytes.Equal(got, data) {
		t.Error("the blob came back different")
	}
	if resp, _, _ = do(t, c, "GET", u, nil); resp.StatusCode != 404 {
		t.Errorf("the session outlived its end: %s", resp.Status)
	}
	resp, _, _ = do(t, c, "POST", o.URL()+"/v2/app/blobs/uploads/", nil)
	if resp, _, _ = do(t, c, "DELETE", o.URL()+resp.Header.Get("Location"), nil); resp.StatusCode != 204 {
		t.Errorf("cancel: %s", resp.Status)
	}
	whole := digest.FromBytes(data)
	if resp, _, _ = do(t, c, "POST", o.URL()+"/v2/app/blobs/uploads/?digest="+whole.String(), data); resp.StatusCode != 201 {
		t.Errorf("monolithic: %s", resp.Status)
	}
	if resp, _, _ = do(t, c, "DELETE", o.URL()+"/v2/app/blobs/"+whole.String(), nil); resp.StatusCode != 202 {
		t.Errorf("delete: %s", resp.Status)
	}
	if resp, _, _ = do(t, c, "HEAD", o.URL()+"/v2/app/blobs/"+whole.String(), nil); resp.StatusCode != 404 {
		t.Errorf("deleted: %s", resp.Status)
	}
}

func TestManifestNeedsItsBlobs(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"x","digest":"` +
		digest.FromString("{}").String() + `","size":2},"layers":[]}`)
	put := func() *http.Response {
		resp, _, err := do(t, c, "PUT", o.URL()+"/v2/app/manifests/v1", body, "Content-Type", ocispec.MediaTypeImageManifest)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := put(); resp.StatusCode != 404 {
		t.Errorf("without its config: %s", resp.Status)
	}
	o.PutBlob("app", []byte("{}"))
	if resp := put(); resp.StatusCode != 201 || resp.Header.Get("Docker-Content-Digest") != digest.FromBytes(body).String() {
		t.Errorf("with its config: %v", resp)
	}
}

func TestPutLayout(t *testing.T) {
	dir := t.TempDir()
	blob := func(p []byte) ocispec.Descriptor {
		d := digest.FromBytes(p)
		writeFile(t, filepath.Join(dir, "blobs", "sha256", d.Encoded()), p)
		return ocispec.Descriptor{Digest: d, Size: int64(len(p))}
	}
	doc := func(v any) []byte {
		p, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	layer := blob(sample(5000))
	m := blob(doc(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blob([]byte("{}")), Layers: []ocispec.Descriptor{layer}}))
	m.MediaType = ocispec.MediaTypeImageManifest
	idx := blob(doc(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m}}))
	idx.MediaType = ocispec.MediaTypeImageIndex
	idx.Annotations = map[string]string{ocispec.AnnotationRefName: "v1"}
	writeFile(t, filepath.Join(dir, "index.json"), doc(ocispec.Index{Manifests: []ocispec.Descriptor{idx}}))
	o, c := start(t, Options{}), client(t)
	if err := o.PutLayout("demo/app", dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"manifests/v1", "manifests/" + m.Digest.String(), "blobs/" + layer.Digest.String()} {
		if resp, _, err := do(t, c, "GET", o.URL()+"/v2/demo/app/"+path, nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %v %v", path, resp, err)
		}
	}
}
