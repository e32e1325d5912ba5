package csi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/csi/internal/mounts"
	"github.com/penstock/penstock/internal/testorigin"
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

// compareAll compares the files under a mount with their sources, by many readers at once.
func compareAll(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	work := make(chan string, len(files))
	for name := range files {
		work <- name
	}
	close(work)
	var wg sync.WaitGroup
	for range 16 {
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
	compareAll(t, dir, files)
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

// TestPrivFaultyStore: over a store that fails, stalls and cuts bodies, every file still reads right, through the kernel.
func TestPrivFaultyStore(t *testing.T) {
	o := startOrigin(t)
	files := goTree(t, o, "go/")
	dir := mountBucket(t, csi.BucketOptions{Prefix: "go/", S3: s3At(o), MetadataTTL: -1})
	o.SetFaults(
		testorigin.Fault{Op: "GetObject", Probability: 0.1, Action: testorigin.ActStatus},
		testorigin.Fault{Op: "GetObject", Probability: 0.1, Action: testorigin.ActTruncate, At: testorigin.AtRandom},
		testorigin.Fault{Op: "GetObject", Probability: 0.05, Action: testorigin.ActReset, At: testorigin.AtRandom},
		testorigin.Fault{Op: "GetObject", Probability: 0.05, Action: testorigin.ActWrongRange},
		testorigin.Fault{Op: "HeadObject", Probability: 0.05, Action: testorigin.ActStatus},
		testorigin.Fault{Op: "ListObjectsV2", Probability: 0.05, Action: testorigin.ActStatus},
	)
	compareAll(t, dir, files)
	fired := int64(0)
	for _, c := range o.FaultCounts() {
		fired += c.Fired
	}
	if fired == 0 {
		t.Error("no fault fired: the test tests nothing")
	}
}

// TestSmallMemory: many readers of big files share the smallest budget there is. None starves, every byte is right.
func TestSmallMemory(t *testing.T) {
	o := startOrigin(t)
	const size = 12 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i ^ i>>8 ^ i>>16)
	}
	for i := range 3 {
		put(t, o, fmt.Sprint("f", i), data)
	}
	b := open(t, csi.BucketOptions{S3: s3At(o), Memory: 32 << 20})
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			got, err := iofs.ReadFile(b.FS(t.Context()), fmt.Sprint("f", i%3))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
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

// TestPrivETagSpellings: stores that spell an ETag in several ways, or send none, show a file right after it was listed, and
// never bytes of two versions to one reader.
func TestPrivETagSpellings(t *testing.T) {
	for name, q := range map[string]testorigin.Quirks{
		"bare in listings":            {ListETag: testorigin.ETagBare},
		"bare, If-Match must be so":   {ListETag: testorigin.ETagBare, HeadETag: testorigin.ETagBare, GetETag: testorigin.ETagBare, IfMatch: "bare"},
		"bare, If-Match must be long": {ListETag: testorigin.ETagBare, IfMatch: "quoted"},
		"none in listings":            {ListETag: testorigin.ETagNone},
		"none at all":                 {ListETag: testorigin.ETagNone, HeadETag: testorigin.ETagNone, GetETag: testorigin.ETagNone},
		"weak":                        {HeadETag: testorigin.ETagWeak, GetETag: testorigin.ETagWeak},
		"another one in listings":     {ListETag: testorigin.ETagOther},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64 // of the origin's clock, in nanoseconds: Last-Modified has whole seconds
			o, err := testorigin.Start(testorigin.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			o.SetQuirks(q)
			old, fresh := bytes.Repeat([]byte("A"), 24<<20), bytes.Repeat([]byte("B"), 24<<20)
			put(t, o, "file", old)
			dir := mountBucket(t, csi.BucketOptions{S3: s3At(o)})
			if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
				t.Fatalf("%v, %v", list, err)
			}
			f, err := os.Open(dir + "/file")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p := make([]byte, 1000)
			_, err = f.ReadAt(p, 0)
			if q.ListETag == testorigin.ETagOther && errors.Is(err, syscall.ESTALE) {
				// Nothing tells that store from one whose object was just replaced; whoever opens the file now may read it.
				if b, again := os.ReadFile(dir + "/file"); again == nil && bytes.Equal(b, old) {
					return
				}
			}
			if err != nil || p[0] != 'A' {
				t.Errorf("right after the listing: %q, %v", p[:1], err)
			}
			ahead.Store(int64(2 * time.Second))
			put(t, o, "file", fresh)
			if n, err := f.ReadAt(p, 20<<20); err == nil && p[0] != 'A' {
				t.Errorf("one open file shows both versions: %q", p[:n])
			} else if err != nil && !errors.Is(err, syscall.ESTALE) {
				t.Errorf("after it was replaced: %v, want ESTALE", err)
			}
			if b, err := os.ReadFile(dir + "/file"); err != nil || !bytes.Equal(b, fresh) {
				t.Errorf("opened anew: %d bytes, %v", len(b), err)
			}
		})
	}
}
