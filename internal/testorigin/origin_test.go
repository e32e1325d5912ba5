package testorigin

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts an anonymous origin that ends with the test.
func start(t *testing.T, opts Options) *Origin {
	t.Helper()
	opts.Anonymous = true
	o, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error("Close:", err)
		}
	})
	return o
}

// client returns a client whose idle connections end with the test.
func client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// do sends a request with "name", "value" headers and returns the answer and
// the received part of its body.
func do(t *testing.T, c *http.Client, method, url string, body []byte, headers ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

// sample returns n bytes without a period of a power of two, so that a wrong
// offset shows.
func sample(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 % 251)
	}
	return p
}

func TestPutFileIsServedInPlace(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	data := sample(300_000)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.PutFile("b", "dir/f", path); err != nil {
		t.Fatal(err)
	}
	resp, got, err := do(t, c, "GET", o.ObjectURL("b", "dir/f"), nil)
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(got, data) {
		t.Fatalf("GET: %v, %v, %d bytes", resp.Status, err, len(got))
	}
	sum := md5.Sum(data)
	if want := `"` + hex.EncodeToString(sum[:]) + `"`; resp.Header.Get("ETag") != want {
		t.Errorf("ETag %s, want %s", resp.Header.Get("ETag"), want)
	}
	resp, got, err = do(t, c, "GET", o.ObjectURL("b", "dir/f"), nil, "Range", "bytes=1000-200999")
	if err != nil || resp.StatusCode != 206 || !bytes.Equal(got, data[1000:201000]) {
		t.Fatalf("ranged GET: %v, %v, %d bytes", resp.Status, err, len(got))
	}
	if n := o.TotalBytes("b/"); n != 500_000 {
		t.Errorf("TotalBytes = %d, want 500000", n)
	}
	if cov := o.Coverage("b/dir/f"); cov != (Coverage{Unique: 300_000, Again: 200_000}) {
		t.Errorf("Coverage = %+v", cov)
	}
	if n := o.Count("GetObject", "b/dir/f"); n.Requests != 2 || n.Success != 2 || n.Bytes != 500_000 {
		t.Errorf("Count = %+v", n)
	}
	if err := os.WriteFile(path, data[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	if resp, _, _ = do(t, c, "GET", o.ObjectURL("b", "dir/f"), nil); resp.StatusCode != 500 {
		t.Errorf("GET of a resized file: %s, want 500", resp.Status)
	}
}

func TestSwapKeepsOpenedGets(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	data := sample(8 << 20) // more than the socket buffers hold
	if err := o.Put("b", "k", data); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", o.ObjectURL("b", "k"), nil)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	o.Swap("b", "k")
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("a GET opened before the swap gave other bytes (%v)", err)
	}
	after, got, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "If-Match", resp.Header.Get("ETag"))
	if err != nil || after.StatusCode != 412 {
		t.Fatalf("pinned GET after the swap: %v %v %d", after.Status, err, len(got))
	}
	_, got, _ = do(t, c, "GET", o.ObjectURL("b", "k"), nil)
	if len(got) != len(data) || got[0] != data[0]^0xff || got[len(got)-1] != data[len(data)-1]^0xff {
		t.Error("the new version should differ in every byte")
	}
}
