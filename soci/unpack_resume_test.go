package soci_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/checkpoint"
)

// resumeFolder is the content of the layers of these tests. It is just large
// enough for a few checkpoints, because many cases unpack it.
const resumeFolder = "net"

// unpacking is a layer that was cancelled in the middle.
type unpacking struct {
	o         *testorigin.Origin
	p         *soci.Puller
	img       *soci.Image
	dir, file string // the layer's directory and its checkpoint
	flights   int64  // layers being fetched when finish resumed
}

// unpackCancelled unpacks until there is a checkpoint, and cancels. With lower
// it cancels when the layer has been extracted.
func unpackCancelled(t *testing.T, l *layer, lower error) *unpacking {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: a layer cannot be unpacked elsewhere")
	}
	u := &unpacking{o: origin(t, testorigin.Options{})}
	ref := push(t, u.o, "go/cancelled:1", image(t, here, l))
	parts := t.TempDir()
	u.dir, u.file = filepath.Join(t.TempDir(), "layer"), filepath.Join(parts, "part")
	u.p = puller(t, halfway)
	var err error
	if u.img, err = u.p.Resolve(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	want := context.Canceled
	opts := soci.UnpackOptions{Checkpoint: u.file}
	if lower != nil {
		want, opts.Lower = lower, func(context.Context) ([]string, error) { return nil, lower }
	} else {
		end := &endAt{t: t, tar: int64(len(l.tar)) * 2 / 3, parts: parts, cancel: cancel}
		opts.Notify = func(compressed, tar int64) { end.Advance(0, compressed, tar) }
	}
	if _, err := u.p.UnpackLayer(ctx, u.img, 0, u.dir, opts); !errors.Is(err, want) {
		t.Fatal(err)
	}
	if !checkpoint.Usable(u.file) {
		t.Fatal("there is no checkpoint to resume from")
	}
	u.o.Reset()
	return u
}

// finish resumes and compares the tree. It returns the compressed bytes that
// were reported as resumed.
func (u *unpacking) finish(t *testing.T) (got *soci.UnpackedLayer, resumed int64) {
	t.Helper()
	got, err := u.p.UnpackLayer(t.Context(), u.img, 0, u.dir, soci.UnpackOptions{
		Checkpoint: u.file,
		Resumed: func(compressed, _ int64) {
			resumed += compressed
			u.flights = u.p.Stats().Flights
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := sameTree(t, resumeFolder, filepath.Join(u.dir, "go", resumeFolder)); n < 100 {
		t.Fatalf("only %d files", n)
	}
	if _, err := os.Lstat(filepath.Join(u.dir, "go", "evil")); err == nil {
		t.Error("a file that the checkpoint does not list is still there")
	}
	if left, _ := os.ReadDir(filepath.Dir(u.file)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	return got, resumed
}

func (u *unpacking) sent() int64 { return u.o.TotalBytes("go/cancelled@" + u.img.Layers[0].Digest) }

// evil adds a file that an earlier process with wrong bytes could have left.
func (u *unpacking) evil(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, "go", "evil"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestUnpackResume checks that a layer resumes from its checkpoint, and that a
// finished layer is not fetched again.
func TestUnpackResume(t *testing.T) {
	l := gzLayer(goTree(t, resumeFolder))
	size := int64(len(l.data))
	u := unpackCancelled(t, l, nil)
	u.evil(t)
	got, resumed := u.finish(t)
	if got.ResumedAt < size/4 || resumed < got.ResumedAt || u.sent() > size-got.ResumedAt+4*partBytes {
		t.Errorf("resumed at byte %d of %d, %d reported as resumed, %d fetched", got.ResumedAt, size, resumed, u.sent())
	}
	again, err := u.p.UnpackLayer(t.Context(), u.img, 0, u.dir, soci.UnpackOptions{Checkpoint: u.file})
	if !errors.Is(err, soci.ErrTarget) {
		t.Errorf("a directory without a checkpoint was taken: %v, %v", again, err)
	}

	below := errors.New("the layer below is gone")
	u = unpackCancelled(t, l, below)
	whole, resumed := u.finish(t)
	if !whole.Resumed || resumed != size || u.sent() > 0 {
		t.Errorf("a finished layer: %+v, %d reported as resumed, %d fetched", whole, resumed, u.sent())
	}
	if whole.Files != got.Files || whole.TarBytes != got.TarBytes || whole.Inodes != got.Inodes {
		t.Errorf("%+v, want %+v", whole, got)
	}
}

// TestUnpackCheckpointHostile checks that the layer is right with any content
// of the checkpoint.
func TestUnpackCheckpointHostile(t *testing.T) {
	l := gzLayer(goTree(t, resumeFolder))
	set := func(key string, value any) func(*testing.T, *unpacking) {
		return func(t *testing.T, u *unpacking) {
			t.Helper()
			p := readPart(t, u.file)
			p[key] = value
			p.write(t, u.file)
			u.evil(t)
		}
	}
	below := errors.New("the layer below is gone")
	for name, tt := range map[string]struct {
		lower error
		spoil func(*testing.T, *unpacking)
	}{
		"other boot, finished":  {below, set("boot", "other")},
		"other layer, finished": {below, set("digest", digest.FromString("x").String())},
		"no state, finished":    {below, set("state", json.RawMessage("7"))},
		"torn":                  {nil, func(t *testing.T, u *unpacking) { t.Helper(); must(t, os.Truncate(u.file, 1000)); u.evil(t) }},
		"the directory is gone": {nil, func(t *testing.T, u *unpacking) { t.Helper(); must(t, os.RemoveAll(u.dir)) }},
		"a file is gone": {nil, func(t *testing.T, u *unpacking) {
			t.Helper()
			must(t, os.RemoveAll(filepath.Join(u.dir, "go", resumeFolder, "addrselect.go")))
		}},
		"the directory is a link": {nil, func(t *testing.T, u *unpacking) {
			t.Helper()
			must(t, errors.Join(os.RemoveAll(u.dir), os.Symlink(t.TempDir(), u.dir)))
		}},
	} {
		if brief(name, "no state, finished", "torn", "a file is gone") {
			continue
		}
		u := unpackCancelled(t, l, tt.lower)
		tt.spoil(t, u)
		if got, _ := u.finish(t); got.ResumedAt != 0 || got.Resumed {
			t.Errorf("%s: resumed at byte %d", name, got.ResumedAt)
		}
		if got := u.sent(); got < int64(len(l.data)) {
			t.Errorf("%s: only %d bytes fetched", name, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestResumeIsNotShared checks that a resumed layer does not share the transfer
// of the same layer, and that the statistics count both.
func TestResumeIsNotShared(t *testing.T) {
	l := gzLayer(goTree(t, resumeFolder))
	u := unpackCancelled(t, l, nil)
	u.evil(t)
	other := filepath.Join(t.TempDir(), "layer")
	var hold, wg sync.WaitGroup
	hold.Add(1)
	started := make(chan struct{})
	var once sync.Once
	wg.Go(func() {
		_, err := u.p.UnpackLayer(t.Context(), u.img, 0, other, soci.UnpackOptions{Notify: func(int64, int64) {
			once.Do(func() { close(started) })
			hold.Wait() // before its first block, so that other requests may join
		}})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	got, _ := u.finish(t)
	hold.Done()
	wg.Wait()
	if got.ResumedAt == 0 {
		t.Error("the layer was not resumed")
	}
	if u.flights != 2 {
		t.Errorf("%d transfers in progress, want 2", u.flights)
	}
	sameTree(t, resumeFolder, filepath.Join(other, "go", resumeFolder))
}
