package csi_test

import (
	"errors"
	iofs "io/fs"
	"testing"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestLeastRights pins which rights a mounted bucket needs: docs/s3-quirks.md has the table.
func TestLeastRights(t *testing.T) {
	const get, list = "s3:GetObject", "s3:ListBucket"
	for _, tc := range []struct {
		rights     []string
		open, read bool
	}{
		{[]string{get, list}, true, true},
		{[]string{list}, true, false},
		{[]string{get}, false, false},
	} {
		o := startOrigin(t)
		put(t, o, "m/one", []byte("bytes"))
		o.SetQuirks(testorigin.Quirks{Rights: tc.rights})
		b, err := csi.OpenBucket(t.Context(), csi.BucketOptions{Bucket: bucket, S3: s3At(o)})
		if (err == nil) != tc.open || err != nil && !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("open with %v: %v", tc.rights, err)
		}
		if err != nil {
			continue
		}
		if _, err := iofs.Stat(b.FS(t.Context()), "m"); err != nil {
			t.Errorf("stat with %v: %v", tc.rights, err)
		}
		got, err := iofs.ReadFile(b.FS(t.Context()), "m/one")
		if (err == nil) != tc.read || tc.read && string(got) != "bytes" || err != nil && !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("read with %v: %q, %v", tc.rights, got, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
