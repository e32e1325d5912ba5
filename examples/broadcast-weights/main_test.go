package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
)

func TestRun(t *testing.T) {
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	t.Setenv("AWS_ENDPOINT_URL", o.URL())
	t.Setenv("AWS_ACCESS_KEY_ID", testorigin.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testorigin.SecretKey)
	t.Setenv("AWS_REGION", testorigin.Region)
	data := bytes.Repeat([]byte("weights"), 500_000)
	if err := o.Put("models", "llama/model.bin", data); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := run(t.Context(), []string{"s3://models/llama/", dir, "3"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"worker-1", "worker-2", "worker-3"} {
		if got, err := os.ReadFile(filepath.Join(dir, w, "model.bin")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", w, err)
		}
	}
	if got := o.TotalBytes("models/"); got != int64(len(data)) {
		t.Errorf("the store sent %d bytes of %d", got, len(data))
	}
	for _, args := range [][]string{nil, {"s3://b/k", "d", "none"}, {"b/k", "d", "1"}} {
		if run(t.Context(), args) == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}
