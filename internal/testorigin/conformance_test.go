package testorigin_test

import (
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testorigin/ociconformance"
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

func TestOCIConformance(t *testing.T) {
	creds := ociconformance.Config{User: testorigin.RegistryUser, Password: testorigin.RegistryPassword}
	for _, c := range []struct {
		name string
		opts testorigin.RegistryOptions
		cfg  ociconformance.Config
	}{
		{"open", testorigin.RegistryOptions{}, ociconformance.Config{}},
		{"basic", testorigin.RegistryOptions{Auth: "basic"}, creds},
		{"token", testorigin.RegistryOptions{Auth: "token"}, creds},
		{"redirect", testorigin.RegistryOptions{RedirectBlobs: true}, ociconformance.Config{}},
		{"token+redirect", testorigin.RegistryOptions{Auth: "token", RedirectBlobs: true, RedirectUses: 1}, creds},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := origin(t, testorigin.Options{Registry: c.opts})
			c.cfg.Host = o.Host()
			ociconformance.Run(t, c.cfg)
		})
	}
}

// TestOtherRegistryConformance runs the same suite against another
// implementation, to check that the suite does not test peculiarities of the
// origin.
func TestOtherRegistryConformance(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0))))
	t.Cleanup(srv.Close)
	ociconformance.Run(t, ociconformance.Config{Host: srv.Listener.Addr().String(), Skip: map[string]string{
		"ggcr/tags":            "pages of tags carry no Link to the next one",
		"ggcr/delete":          "a tag outlives its manifest",
		"containerd/seek":      "answers 416 to open-ended ranges",
		"containerd/referrers": "tells the media type of the config instead of the artifactType",
	}})
}
