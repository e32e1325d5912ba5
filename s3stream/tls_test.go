package s3stream_test

import (
	"encoding/pem"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// A store whose certificate is from an authority of its own.
func TestCABundle(t *testing.T) {
	o, s3 := origin(t)
	if err := o.CreateBucket("b", testorigin.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := o.Put("b", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(o.URL())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // which is signed
	}})
	defer srv.Close()
	s3.Endpoint, s3.Outage = srv.URL, -1
	get := func() error {
		_, err := s3stream.Get(t.Context(), s3stream.GetOptions{URIs: []string{"s3://b/k"}, S3: s3, Output: s3stream.Output{Dir: t.TempDir()}})
		return err
	}
	if err := get(); err == nil || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("without the authority: %v", err)
	}
	s3.CABundle = filepath.Join(t.TempDir(), "ca.pem")
	if err := get(); err == nil || !strings.Contains(err.Error(), "CA bundle") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(s3.CABundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("with the authority: %v", err)
	}
}
