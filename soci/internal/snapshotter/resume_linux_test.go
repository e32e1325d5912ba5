package snapshotter_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// resumeFolder is large and has no large file, because checkpoints lie between
// files.
const resumeFolder = "net"

// stopped is a snapshotter that was stopped in the middle of an image's only
// layer.
type stopped struct {
	*testorigin.Origin
	m   image
	dir string
	p   *soci.Puller
}

// beginLayer pulls until there is a checkpoint and the registry falls silent,
// and stops.
func beginLayer(t *testing.T, l v1.Layer) *stopped {
	t.Helper()
	root(t)
	b := &stopped{dir: t.TempDir(), p: puller(t, func(o *soci.Options) { o.CheckpointBytes = 1 << 20 })}
	gate := make(chan struct{})
	var silent int64 // offset from which on the registry sends no bytes
	b.Origin = origin(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "GetBlob" && !e.Done && begins(e.Range) > silent {
			<-gate
		}
	}})
	defer close(gate)
	silent = 1 << 60 // bytes: while the image is pushed
	b.m = push(t, b.Origin, "app:1", l)
	silent = b.m.sizes[0] * 3 / 4
	s, err := snapshotter.New(snapshotter.Options{Root: b.dir, Puller: b.p})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error)
	go func() {
		_, err := b.m.prepare(t.Context(), s, 0)
		asked <- err
	}()
	until(t, "there is a checkpoint", func() bool { return checkpoint.Usable(b.part()) })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-asked; !errors.Is(err, snapshotter.ErrClosed) {
		t.Errorf("%v; want that it is being stopped", err)
	}
	// An earlier process with wrong bytes could have left this file.
	if err := os.WriteFile(filepath.Join(b.work(), "fs", resumeFolder, "evil"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// begins returns the first byte of a Range header.
func begins(header string) int64 {
	from, _, _ := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	n, _ := strconv.ParseInt(from, 10, 64)
	return n
}

func (b *stopped) work() string {
	return filepath.Join(b.dir, "work", strings.Replace(b.m.chains[0], ":", "-", 1))
}

func (b *stopped) part() string {
	return filepath.Join(b.dir, "parts", strings.Replace(b.m.chains[0], ":", "-", 1))
}

// point returns the byte of the blob at which decoding will start.
func (b *stopped) point(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile(b.part())
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(data), "\n") // behind its checksum
	var p struct{ Point struct{ Bits int64 } }
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	return p.Point.Bits / 8
}

// finish starts a new snapshotter, pulls and compares. It returns the bytes
// resumed and fetched.
func (b *stopped) finish(t *testing.T) (resumed, fetched int64) {
	t.Helper()
	b.Reset()
	reg := prometheus.NewRegistry()
	s := open(t, b.dir, func(o *snapshotter.Options) { o.Puller, o.Metrics = b.p, reg })
	exist(t, s, b.m, 0)
	view(t, s, b.m.chains[0], func(at string) { sameTree(t, resumeFolder, filepath.Join(at, resumeFolder)) })
	wantNames(t, b.dir, "work")
	wantNames(t, b.dir, "parts")
	return int64(value(t, reg, "bytes_total", "resumed")), b.TotalBytes("app@" + b.m.layers[0])
}

// sameTree checks that a directory holds exactly the files of a folder of the
// Go tree.
func sameTree(t *testing.T, folder, got string) {
	t.Helper()
	want := filepath.Join(goroot(t), "src", folder)
	files := func(dir string) map[string]string {
		out := make(map[string]string)
		err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			name, _ := filepath.Rel(dir, p)
			out[name] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a, b := files(want), files(got)
	if len(a) != len(b) || len(a) < 100 {
		t.Errorf("%d files, want %d", len(b), len(a))
	}
	for name, data := range a {
		if b[name] != data {
			t.Errorf("%s differs", name)
		}
	}
}

// TestPrivResumeLayer checks that the next run resumes inside a layer, in all
// storage forms.
func TestPrivResumeLayer(t *testing.T) {
	for name, layer := range map[string]v1.Layer{
		"gzip":         gzipped(t, goTree(t, resumeFolder)),
		"uncompressed": plain(t, goTree(t, resumeFolder)),
	} {
		b := beginLayer(t, layer)
		point := b.point(t)
		resumed, fetched := b.finish(t)
		t.Logf("%s: of %d bytes, %d were kept; resumed at byte %d, %d fetched", name, b.m.sizes[0], resumed, point, fetched)
		const hedges = 2 * partBytes
		if point == 0 || resumed < point || fetched > b.m.sizes[0]-point+hedges {
			t.Errorf("%s: the layer was not resumed", name)
		}
	}
}

// TestPrivResumeHostile checks that a damaged checkpoint, or one of another
// boot, is removed at the start together with its layer. A false one makes the
// layer restart.
func TestPrivResumeHostile(t *testing.T) {
	layer := gzipped(t, goTree(t, resumeFolder))
	b := beginLayer(t, layer)
	if err := os.WriteFile(b.part(), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, litter := range []string{b.part() + ".new", filepath.Join(b.dir, "parts", "other")} {
		if err := os.WriteFile(litter, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, b.dir, func(o *snapshotter.Options) { o.Puller = b.p })
	wantNames(t, b.dir, "work")
	wantNames(t, b.dir, "parts")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if resumed, fetched := b.finish(t); resumed != 0 || fetched != b.m.sizes[0] {
		t.Errorf("%d bytes were there, %d of %d fetched", resumed, fetched, b.m.sizes[0])
	}

	b = beginLayer(t, layer) // a file that the checkpoint calls complete is gone
	if err := os.Remove(filepath.Join(b.work(), "fs", resumeFolder, "addrselect.go")); err != nil {
		t.Fatal(err)
	}
	if _, fetched := b.finish(t); fetched < b.m.sizes[0] {
		t.Errorf("%d of %d fetched", fetched, b.m.sizes[0])
	}
}

// TestPrivUnfinishedExpires checks that an unfinished layer expires unless a
// pull resumes it.
func TestPrivUnfinishedExpires(t *testing.T) {
	b := beginLayer(t, gzipped(t, goTree(t, resumeFolder)))
	s := open(t, b.dir, func(o *snapshotter.Options) { o.Puller, o.Keep = b.p, time.Hour })
	s.Expire(time.Now().Add(30 * time.Minute))
	wantNames(t, b.dir, "work", b.m.chains[0])
	wantNames(t, b.dir, "parts", b.m.chains[0])
	s.Expire(time.Now().Add(2 * time.Hour))
	wantNames(t, b.dir, "work")
	wantNames(t, b.dir, "parts")
	exist(t, s, b.m, 0)
}

// TestPrivUnfinishedExpiresQueued checks that an unfinished layer whose image
// is given up while it waits for a slot expires as well.
func TestPrivUnfinishedExpiresQueued(t *testing.T) {
	b := beginLayer(t, gzipped(t, goTree(t, resumeFolder)))
	other := push(t, b.Origin, "other:1", noise(t, "other", 64<<10))
	b.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "other@" + other.layers[0], Every: 1, Action: testorigin.ActStall})
	reg := prometheus.NewRegistry()
	s := open(t, b.dir, func(o *snapshotter.Options) {
		o.Puller, o.Metrics, o.Layers, o.Keep, o.Linger = b.p, reg, 1, time.Hour, -1
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	var calls sync.WaitGroup
	wait := func(ctx context.Context, m image) {
		calls.Go(func() {
			if _, err := m.prepare(ctx, s, 0); !errors.Is(err, errEnough) {
				t.Errorf("a layer that never arrives: %v", err)
			}
		})
	}
	wait(ctx, other)
	until(t, "the slot is taken", func() bool { return len(b.FaultCounts()) > 0 && b.FaultCounts()[0].Fired > 0 })
	given, giveUp := context.WithCancelCause(ctx)
	wait(given, b.m)
	until(t, "the unfinished layer is queued", func() bool { return value(t, reg, "queued") == 1 })
	giveUp(errEnough)
	until(t, "it has left the line", func() bool { return value(t, reg, "queued") == 0 && value(t, reg, "layers") == 1 })
	s.Expire(time.Now().Add(2 * time.Hour))
	wantNames(t, b.dir, "work", other.chains[0])
	wantNames(t, b.dir, "parts")
	cancel(errEnough)
	calls.Wait()
}
