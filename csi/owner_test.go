package csi

import (
	"testing"

	"github.com/penstock/penstock/csi/internal/mounts"
)

func TestOwnerOfMounts(t *testing.T) {
	me := owner{"s3.csi.penstock.dev", "RUN2"}
	for source, want := range map[string]claim{
		me.source("bucket/a:b/c"):                          ours,
		"penstock-csi/s3.csi.penstock.dev/RUN1:bucket":     elsewhere,
		"penstock-csi/other.csi.example/RUN2:bucket":       foreign,
		"penstock-csi:bucket":                              unnamed,
		"penstock-csi:arn:aws:s3:us-west-2:1:accesspoint/": unnamed,
		"penstock-csi/s3.csi.penstock.dev:bucket":          unnamed,
		"penstock-csi/s3.csi.penstock.dev/:bucket":         unnamed,
		"penstock-csi/s3.csi.penstock.dev/a/b:bucket":      unnamed,
		"penstock-csi/s3.csi.penstock.dev/RUN2":            unnamed,
		"memory":                                           unnamed,
	} {
		if got := me.claim(mounts.Mount{FSType: "fuse.x", Source: source}, "fuse.x"); got != want {
			t.Errorf("%q: got %d, want %d", source, got, want)
		}
	}
	if got := me.claim(mounts.Mount{FSType: "tmpfs", Source: me.source("bucket")}, "fuse.x"); got != foreign {
		t.Errorf("a tmpfs that takes our name: got %d", got)
	}
}

// TestMayDetach is the whole table of who takes away whose mount.
func TestMayDetach(t *testing.T) {
	type row struct{ start, publish, unpublish bool }
	for _, c := range []struct {
		whose claim
		dead  bool
		want  row
	}{
		{foreign, false, row{false, false, false}},
		{foreign, true, row{false, false, false}},
		{unnamed, false, row{false, false, false}},
		{unnamed, true, row{true, true, true}},
		{elsewhere, false, row{false, false, true}},
		{elsewhere, true, row{true, true, true}},
		{ours, false, row{true, true, true}},
		{ours, true, row{true, true, true}},
	} {
		got := row{mayDetach(atStart, c.whose, c.dead), mayDetach(atPublish, c.whose, c.dead), mayDetach(atUnpublish, c.whose, c.dead)}
		if got != c.want {
			t.Errorf("claim %d, dead %v: got %+v, want %+v", c.whose, c.dead, got, c.want)
		}
	}
}
