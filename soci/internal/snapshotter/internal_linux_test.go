package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// TestSyncer checks that callers during a flush share the next one.
func TestSyncer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		s := syncer{flush: func() error {
			runs.Add(1)
			time.Sleep(time.Second)
			return nil
		}}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond) // the first one's flush ends at 1 s
				begin := runs.Load()
				if err := s.sync(); err != nil {
					t.Error(err)
				}
				if runs.Load() <= begin {
					t.Errorf("caller %d: no flush began after the call", i)
				}
			})
		}
		wg.Wait()
		if n := runs.Load(); n != 2 {
			t.Errorf("%d flushes, want 2", n)
		}
		s.flush = func() error { return errors.New("broken disk") }
		if s.sync() == nil {
			t.Error("a failed flush passed")
		}
	})
}

// TestPace checks that a rate holds until it is lifted.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const second = 1 << 20 // bytes
		j := &job{pace: rate.NewLimiter(limitOf(second), paceBurst)}
		start := time.Now()
		j.throttle(t.Context(), 4*second+paceBurst)
		if d := time.Since(start); d < 4*time.Second-time.Millisecond || d > 5*time.Second {
			t.Errorf("4 s of bytes took %v", d)
		}
		j.pace.SetLimit(rate.Inf)
		start = time.Now()
		j.throttle(t.Context(), 1000*second)
		if d := time.Since(start); d > 0 {
			t.Errorf("without a bound it took %v", d)
		}
	})
}

func TestParseLabels(t *testing.T) {
	of := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	good := map[string]string{
		snapshots.LabelSnapshotRef:             of("a"),
		snapshotters.TargetRefLabel:            "docker.io/library/x:1",
		snapshotters.TargetManifestDigestLabel: of("b"),
		snapshotters.TargetLayerDigestLabel:    of("c"),
		RateLabel:                              "1000",
	}
	r, err := parseLabels(good)
	if err != nil || r.target.String() != of("a") || r.manifest.String() != of("b") || r.layer.String() != of("c") || r.rate != 1000 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := parseLabels(nil); !errors.Is(err, errOrdinary) {
		t.Error(err)
	}
}

func FuzzParseLabels(f *testing.F) {
	f.Add("sha256:"+strings.Repeat("a", 64), "x:1", "sha256:"+strings.Repeat("b", 64), "sha512:"+strings.Repeat("c", 128), "7")
	f.Add("", "x", "y", "z", "-1")
	f.Fuzz(func(t *testing.T, target, image, manifest, layer, pace string) {
		r, err := parseLabels(map[string]string{
			snapshots.LabelSnapshotRef:             target,
			snapshotters.TargetRefLabel:            image,
			snapshotters.TargetManifestDigestLabel: manifest,
			snapshotters.TargetLayerDigestLabel:    layer,
			RateLabel:                              pace,
		})
		if err != nil {
			return
		}
		if r.target.Validate() != nil || r.manifest.Validate() != nil || r.layer.Validate() != nil || r.image == "" || r.rate < 0 {
			t.Errorf("%+v", r)
		}
		if strings.ContainsAny(fileName(r.target), "/.") || digestOf(fileName(r.target)) != r.target {
			t.Errorf("%q is the name of a directory", fileName(r.target))
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"chain":"sha256:` + strings.Repeat("a", 64) + `","digest":"sha256:` + strings.Repeat("b", 64) + `","bytes":4096,"inodes":1}`))
	f.Add([]byte(`{"version":1,"chain":"../../etc","digest":"","bytes":-1,"inodes":0}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Error(err)
			}
			return
		}
		if r.Chain.Validate() != nil || r.Digest.Validate() != nil || r.Bytes < 0 || r.Inodes < 1 || strings.ContainsAny(fileName(r.Chain), "/.") {
			t.Errorf("%+v", r)
		}
	})
}

// TestKilledWhileFlushing checks that a whole but unflushed layer is taken
// over, and then flushed, unless the system has rebooted.
func TestKilledWhileFlushing(t *testing.T) {
	dir := t.TempDir()
	var flushed int
	reopen := func() *store {
		s, err := openStore(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.lock.Close() })
		s.sync.flush = func() error { flushed++; return nil }
		return s
	}
	s := reopen()
	s.sync.flush = func() error { return errors.New("killed here") }
	var chains []digest.Digest
	for _, name := range []string{"a", "b"} {
		r := record{Chain: digest.FromString(name), Digest: digest.FromString("blob"), Inodes: 1}
		work, err := s.begin(r.Chain)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(work, layerDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := s.finish(work, r); err == nil {
			t.Fatal("it was flushed")
		}
		chains = append(chains, r.Chain)
	}
	record := filepath.Join(s.work(chains[1]), recordName)
	data, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(data), s.boot, "another", 1)
	if err := os.WriteFile(record, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	s.lock.Close()
	for range 2 { // the second run does not flush again
		s = reopen()
		unfinished, err := s.recover(nil, false)
		found, serr := s.scan(false)
		if err != nil || serr != nil || len(unfinished) > 0 || len(found) != 1 || found[0].Chain != chains[0] {
			t.Errorf("unfinished %v, %v; ready %v, %v; want the layer of this boot", unfinished, err, found, serr)
		}
		if r, err := s.read(s.ready(chains[0]), false); err != nil || r.Boot != "" || flushed != 1 {
			t.Errorf("%+v, %v, flushed %d times", r, err, flushed)
		}
		if left, _ := os.ReadDir(s.workDir()); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		s.lock.Close()
	}
}

// TestOtherBoot checks that unflushed layers are dropped after a reboot.
func TestOtherBoot(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.lock.Close()
	r := record{Chain: digest.FromString("a"), Digest: digest.FromString("b"), Inodes: 1}
	work, err := s.begin(r.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(work, layerDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.finish(work, r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.read(s.ready(r.Chain), true); !errors.Is(err, errRecord) {
		t.Errorf("other marks: %v", err)
	}
	if found, err := s.scan(false); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
	s.boot = "another"
	if found, err := s.scan(false); err != nil || len(found) != 0 {
		t.Errorf("after a boot: %v, %v", found, err)
	}
	if left, _ := os.ReadDir(s.readyDir()); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
