package soci_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestSHA512 pulls an image whose digests are sha512: manifest, config, layers,
// DiffIDs.
func TestSHA512(t *testing.T) {
	o := origin(t, testorigin.Options{})
	lower, upper := goTree(t, "net/http"), tarOf(t, "etc/", "", "etc/x", "one")
	manifest, err := o.PutImage("five/twelve", "1", godigest.SHA512, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, lower, upper)
	must(t, err)
	store := filepath.Join(t.TempDir(), "oci")
	layout, err := soci.OpenLayout(store)
	must(t, err)
	p := puller(t, func(o *soci.Options) { o.Store = layout })
	for _, name := range []string{":1", "@" + manifest.String()} {
		ref := o.Host() + "/five/twelve" + name
		dir, clean := target(t)
		res, err := p.Pull(t.Context(), ref, dir)
		if err != nil {
			t.Fatal(err)
		}
		clean("root")
		sameTree(t, "net/http", filepath.Join(dir, "go", "net", "http"))
		if data, err := os.ReadFile(filepath.Join(dir, "etc", "x")); err != nil || string(data) != "one" {
			t.Errorf("%q, %v", data, err)
		}
		if l := res.Layers[0]; res.Manifest != manifest.String() || l.Digest != godigest.SHA512.FromBytes(lower).String() || l.DiffID != l.Digest {
			t.Errorf("%+v", res)
		}
	}
	if blobs, err := os.ReadDir(filepath.Join(store, "blobs", "sha512")); err != nil || len(blobs) != 4 {
		t.Errorf("%v in the store, %v", blobs, err)
	}

	// A wrong byte is detected in the layer and in the manifest.
	p = puller(t, nil)
	for op, digest := range map[string]godigest.Digest{"GetBlob": godigest.SHA512.FromBytes(lower), "GetManifest": manifest} {
		o.SetFaults(testorigin.Fault{Op: op, Key: "*" + digest.String(), Every: 1, Action: testorigin.ActFlip, At: 20})
		dir, clean := target(t)
		_, err := p.Pull(t.Context(), o.Host()+"/five/twelve:1", dir)
		if !errors.Is(err, soci.ErrDigest) || !strings.Contains(err.Error(), "sha512:") {
			t.Errorf("%s: %v", op, err)
		}
		clean()
	}
}
