package csi_test

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/csi/internal/mounts"
)

// mountBucket mounts the bucket until the test ends, and checks that nothing is left.
func mountBucket(t *testing.T, opts csi.BucketOptions) string {
	t.Helper()
	needsMount(t)
	dir := t.TempDir()
	opts.Bucket = bucket
	m, err := csi.Mount(t.Context(), csi.MountOptions{BucketOptions: opts, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background()); err != nil {
			t.Error(err)
		}
		table, err := mounts.Read()
		if err != nil {
			t.Fatal(err)
		}
		if left := table.Below(dir, fsType); len(left) != 0 {
			t.Errorf("left mounted: %+v", left)
		}
	})
	return dir
}

// TestPrivMountGoTree: every file of a real tree reads the same through the mount, by many readers at once, and costs its
// size once.
func TestPrivMountGoTree(t *testing.T) {
	o := startOrigin(t)
	files := goTree(t, o, "go/")
	dir := mountBucket(t, csi.BucketOptions{Prefix: "go/", S3: s3At(o), Memory: 64 << 20})
	found := 0
	err := filepath.WalkDir(dir, func(_ string, d iofs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found++
		}
		return err
	})
	if err != nil || found != len(files) {
		t.Errorf("%d files of %d, %v", found, len(files), err)
	}
	work := make(chan string, len(files))
	for name := range files {
		work <- name
	}
	close(work)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name := range work {
				want, err := os.ReadFile(files[name])
				if err != nil {
					t.Error(err)
					continue
				}
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
				}
			}
		})
	}
	wg.Wait()
	var sizes int64
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes += info.Size()
	}
	var sent int64
	for _, c := range o.Counters() {
		if c.Op == "GetObject" {
			sent += c.Bytes
		}
	}
	if sent > sizes*105/100 {
		t.Errorf("S3 sent %d bytes for %d", sent, sizes)
	}
	out, err := exec.Command("ls", "-l", filepath.Join(dir, "json")).Output()
	if err != nil || !strings.Contains(string(out), "decode.go") {
		t.Errorf("ls -l: %s, %v", out, err)
	}
}

// TestPrivObjectReplaced: an open file whose object was replaced is ESTALE, and opening it again shows the new version.
func TestPrivObjectReplaced(t *testing.T) {
	o := startOrigin(t)
	put(t, o, "file", bytes.Repeat([]byte("a"), 8<<20))
	dir := mountBucket(t, csi.BucketOptions{S3: s3At(o), MetadataTTL: -1})
	f, err := os.Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 4096)
	if _, err := f.ReadAt(p, 0); err != nil || p[0] != 'a' {
		t.Fatalf("%q, %v", p[:1], err)
	}
	put(t, o, "file", bytes.Repeat([]byte("b"), 8<<20))
	if _, err := f.ReadAt(p, 7<<20); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("got %v, want ESTALE", err)
	}
	if b, err := os.ReadFile(dir + "/file"); err != nil || bytes.Count(b, []byte("b")) != 8<<20 {
		t.Errorf("the new version: %d bytes, %v", len(b), err)
	}
}

func TestMountFailures(t *testing.T) {
	o := startOrigin(t)
	for want, opts := range map[string]csi.MountOptions{
		"no mount point":            {BucketOptions: csi.BucketOptions{Bucket: bucket, S3: s3At(o)}},
		"no such bucket":            {BucketOptions: csi.BucketOptions{Bucket: "missing", S3: s3At(o)}, Dir: t.TempDir()},
		"no such file or directory": {BucketOptions: csi.BucketOptions{Bucket: bucket, S3: s3At(o)}, Dir: "/does/not/exist"},
		"already a mount point":     {BucketOptions: csi.BucketOptions{Bucket: bucket, S3: s3At(o)}, Dir: "/proc"},
	} {
		m, err := csi.Mount(t.Context(), opts)
		if err == nil {
			_ = m.Unmount(context.Background())
			t.Errorf("%s: mounted", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
