package s3stream_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// TestLeastRights pins which rights reading needs: docs/s3-quirks.md has the table.
func TestLeastRights(t *testing.T) {
	const get, list, version = "s3:GetObject", "s3:ListBucket", "s3:GetObjectVersion"
	data := goTree(t, 300<<10)
	for _, tc := range []struct {
		uri    string
		rights []string
		ok     bool
	}{
		{"s3://kept/m/one", []string{get}, true},
		{"s3://kept/m/one", []string{get, list}, true},
		{"s3://kept/m/one", []string{get, list, version}, true},
		{"s3://kept/m/one", []string{list, version}, false},
		{"s3://kept/m/", []string{get, list}, true},
		{"s3://kept/m/", []string{get}, false},
		{"s3://kept/m/", []string{list}, false},
	} {
		o, s3 := origin(t)
		if err := o.CreateBucket("kept", testorigin.BucketOptions{Versioning: true}); err != nil {
			t.Fatal(err)
		}
		if err := o.Put("kept", "m/one", data); err != nil {
			t.Fatal(err)
		}
		o.SetQuirks(testorigin.Quirks{Rights: tc.rights})
		dir := t.TempDir()
		_, err := s3stream.Get(t.Context(), s3stream.GetOptions{URIs: []string{tc.uri}, S3: s3, Output: s3stream.Output{Dir: dir}})
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, s3stream.ErrDenied) {
			t.Errorf("get %s with %v: %v", tc.uri, tc.rights, err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "one")); tc.ok && !slices.Equal(got, data) {
			t.Errorf("get %s with %v: %d bytes", tc.uri, tc.rights, len(got))
		}
		c := newCast(t, s3stream.LeaderOptions{URIs: []string{tc.uri}, S3: s3, Workers: 1})
		c.start(1)
		lead, worker := <-c.lead, c.worker(1)
		if (lead.err == nil) != tc.ok || (worker.err == nil) != tc.ok || lead.err != nil && !errors.Is(lead.err, s3stream.ErrDenied) {
			t.Errorf("broadcast %s with %v: %v, %v", tc.uri, tc.rights, lead.err, worker.err)
		}
		if tc.ok {
			c.wantFiles(1, map[string][]byte{"one": data})
		}
	}
}
