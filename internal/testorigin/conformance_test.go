package testorigin_test

import (
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testorigin/s3conformance"
)

func origin(t *testing.T, opts testorigin.Options) *testorigin.Origin {
	t.Helper()
	o, err := testorigin.Start(opts)
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

func TestS3Conformance(t *testing.T) {
	o := origin(t, testorigin.Options{})
	s3conformance.Run(t, s3conformance.Config{
		Endpoint: o.URL(), AccessKey: testorigin.AccessKey, SecretKey: testorigin.SecretKey,
	})
}
