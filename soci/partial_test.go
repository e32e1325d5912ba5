package soci_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	godigest "github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/indexdir"
)

// checkpointing sets a short distance between checkpoints, for test layers.
func checkpointing(o *soci.Options) { o.CheckpointBytes = cmp.Or(o.CheckpointBytes, 1<<20) }

// halfway puts the only checkpoint of resumeFolder just after its middle.
func halfway(o *soci.Options) { o.CheckpointBytes = 2 << 20 }

// brief reports whether short mode leaves a case out. It keeps the cases named in
// run. Tests with the race detector run in short mode, because all cases would
// take ten times as long there.
func brief(name string, run ...string) bool { return testing.Short() && !slices.Contains(run, name) }

// part is a checkpoint that tests read and forge.
type part map[string]any

func readPart(t *testing.T, path string) part {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := bytes.Cut(data, []byte{'\n'})
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // offsets are exact
	var p part
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	return p
}

// write writes a checkpoint with a valid checksum.
func (p part) write(t *testing.T, path string) {
	t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	if err := os.WriteFile(path, append([]byte(hex.EncodeToString(sum[:])+"\n"), body...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// cancelledPull is a pull that was cancelled in the middle of its only layer.
type cancelledPull struct {
	o         *testorigin.Origin
	ref, blob string
	size      int64
	dir, file string // the target, the checkpoint
	clean     func(...string)
	edit      func(*soci.Options)
}

// evil adds a file that an earlier process with wrong bytes could have left.
func (b *cancelledPull) evil(t *testing.T) {
	t.Helper()
	name := filepath.Join(filepath.Dir(filepath.Dir(b.file)), "layers", filepath.Base(b.file), "go", "evil")
	must(t, os.WriteFile(name, nil, 0o644))
}

// begin pulls until there is a checkpoint, and cancels the pull.
func begin(t *testing.T, l *layer, edit ...func(*soci.Options)) *cancelledPull {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: a layer cannot be unpacked elsewhere")
	}
	b := &cancelledPull{o: origin(t, testorigin.Options{}), edit: func(o *soci.Options) {
		for _, e := range append(edit, checkpointing) {
			e(o)
		}
	}}
	h, _ := l.Digest()
	b.blob, b.size = h.String(), int64(len(l.data))
	b.ref = push(t, b.o, "go/cancelled:1", image(t, here, l))
	b.dir, b.clean = target(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end := &endAt{t: t, tar: int64(len(l.tar)) * 2 / 3, parts: filepath.Join(filepath.Dir(b.dir), ".root.penstock", "parts"), cancel: cancel}
	p := puller(t, func(o *soci.Options) { b.edit(o); o.KeepFailed, o.Progress = true, end })
	if _, err := p.Pull(ctx, b.ref, b.dir); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	parts, _ := filepath.Glob(filepath.Join(end.parts, "*"))
	if len(parts) != 1 {
		t.Fatalf("%d checkpoints: %v", len(parts), parts)
	}
	b.file = parts[0]
	b.o.Reset()
	return b
}

// endAt cancels a pull when tar bytes are inflated and there is a recent
// checkpoint.
type endAt struct {
	t      *testing.T
	tar    int64
	parts  string // the folder of checkpoints
	cancel context.CancelFunc
	done   atomic.Int64
}

// behind waits for a checkpoint behind half of the inflated bytes. The
// extraction continues while inflate is held up here.
func (e *endAt) behind() {
	for deadline := time.Now().Add(20 * time.Second); ; {
		names, _ := filepath.Glob(filepath.Join(e.parts, "*"))
		for _, name := range names {
			if filepath.Ext(name) == ".new" {
				continue // being written
			}
			if at, err := readPart(e.t, name)["tar"].(json.Number).Int64(); err == nil && at >= e.tar/2 {
				return
			}
		}
		if time.Now().After(deadline) {
			e.t.Error("no checkpoint")
			return
		}
		runtime.Gosched()
	}
}

func (*endAt) Start(string, []int64) {}
func (*endAt) Done(int)              {}
func (e *endAt) Advance(_ int, _, tar int64) {
	if done := e.done.Add(tar); done >= e.tar && done-tar < e.tar {
		e.behind()
		e.cancel()
	}
}

// finish pulls again and compares the tree. It returns the bytes fetched of the
// layer.
func (b *cancelledPull) finish(t *testing.T, folder string) (soci.Layer, int64) {
	t.Helper()
	p := puller(t, b.edit)
	res, err := p.Pull(t.Context(), b.ref, b.dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := sameTree(t, folder, filepath.Join(b.dir, "go", folder)); n < 100 {
		t.Fatalf("only %d files", n)
	}
	b.clean("root")
	if res.Layers[0].CompressedBytes != b.size {
		t.Errorf("%d bytes of %d", res.Layers[0].CompressedBytes, b.size)
	}
	// On a slow machine a hedge may request some bytes again.
	return res.Layers[0], b.o.Coverage("go/cancelled@" + b.blob).Unique
}

// TestResumeInside checks that an unfinished layer resumes from its last
// checkpoint.
func TestResumeInside(t *testing.T) {
	const folder = "cmd/compile"
	data := goTree(t, folder)
	half := len(data) / 2 / 512 * 512
	for name, l := range map[string]*layer{
		"gzip":        gzLayer(data),
		"two members": {tar: data, data: append(gz(data[:half]), gz(data[half:])...)},
		"plain":       {tar: data, data: data},
		"zstd":        {tar: data, data: framesOf(data), mediaType: types.OCILayerZStd},
	} {
		if brief(name, "gzip", "zstd") {
			continue
		}
		b := begin(t, l)
		b.wantResumed(t, folder, name)
	}
}

// wantResumed checks that a layer resumes near the point of its cancellation.
func (b *cancelledPull) wantResumed(t *testing.T, folder, name string) {
	t.Helper()
	b.evil(t)
	got, sent := b.finish(t, folder)
	if _, err := os.Lstat(filepath.Join(b.dir, "go", "evil")); err == nil {
		t.Errorf("%s: files behind the checkpoint are still there", name)
	}
	t.Logf("%s: resumed at byte %d of %d, %d fetched", name, got.ResumedAt, b.size, sent)
	if got.ResumedAt < b.size/4 || sent > b.size-got.ResumedAt+4*partBytes {
		t.Errorf("%s: resumed at byte %d of %d, %d fetched", name, got.ResumedAt, b.size, sent)
	}
}

// framesOf returns data in zstd frames of 1 MiB.
func framesOf(data []byte) (blob []byte) {
	for part := range slices.Chunk(data, 1<<20) {
		blob = append(blob, zstdOf(part)...)
	}
	return blob
}

// TestResumeOneFrame checks that a zstd layer of one frame is fetched and
// decoded again, but that its written files are not written again.
func TestResumeOneFrame(t *testing.T) {
	const folder = "cmd/compile"
	data := goTree(t, folder)
	b := begin(t, &layer{tar: data, data: zstdOf(data), mediaType: types.OCILayerZStd})
	b.evil(t)
	name := filepath.Join(filepath.Dir(filepath.Dir(b.file)), "layers", filepath.Base(b.file), "go", folder, "doc.go")
	before, err := os.Lstat(name)
	must(t, err)
	if got, sent := b.finish(t, folder); got.ResumedAt != 0 || sent != b.size {
		t.Errorf("resumed at byte %d, %d of %d fetched", got.ResumedAt, sent, b.size)
	}
	after, err := os.Lstat(filepath.Join(b.dir, "go", folder, "doc.go"))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("a file was written again")
	}
	if _, err := os.Lstat(filepath.Join(b.dir, "go", "evil")); err == nil {
		t.Error("files behind the checkpoint are still there")
	}
}

// TestResumeManyCores checks that there are checkpoints when several cores
// decode a layer, with and without an index, and that the points of a resumed
// layer are not saved as its index.
func TestResumeManyCores(t *testing.T) {
	const folder = "cmd/compile"
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	data := goTree(t, folder)
	l := gzLayer(data)
	indexes := t.TempDir()
	many := func(o *soci.Options) { o.Memory = 256 << 20 } // room for workers
	indexed := func(o *soci.Options) { many(o); o.IndexDir = indexes }
	begin(t, l, many).wantResumed(t, folder, "guessing")
	learn := origin(t, testorigin.Options{})
	dir, _ := target(t)
	if _, err := puller(t, indexed).Pull(t.Context(), push(t, learn, "go/cancelled:1", image(t, here, l)), dir); err != nil {
		t.Fatal(err)
	}
	digest, _ := l.Digest()
	file := filepath.Join(indexes, indexdir.Name(godigest.Digest(digest.String())))
	before, err := os.ReadFile(file)
	must(t, err)
	begin(t, l, indexed).wantResumed(t, folder, "by an index")
	after, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Errorf("the index of %d bytes was replaced by one of %d", len(before), len(after))
	}
}

// TestCheckpointHostile checks that the tree is right with any content of a
// checkpoint.
func TestCheckpointHostile(t *testing.T) {
	const folder = resumeFolder
	l := gzLayer(goTree(t, folder))
	var other []byte // the state of another digest
	h := godigest.SHA256.Hash()
	h.Write([]byte("something else"))
	if s, ok := h.(interface{ AppendBinary([]byte) ([]byte, error) }); ok {
		other, _ = s.AppendBinary(nil)
	}
	edit := func(change func(part)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			p := readPart(t, path)
			change(p)
			p.write(t, path)
		}
	}
	for name, spoil := range map[string]func(*testing.T, string){
		"a bit flipped": func(t *testing.T, path string) {
			t.Helper()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"empty":         func(t *testing.T, path string) { t.Helper(); (part{}).write(t, path) },
		"other boot":    edit(func(p part) { p["boot"] = "other" }),
		"other version": edit(func(p part) { p["version"] = 99 }),
		"other layer":   edit(func(p part) { p["digest"] = godigest.FromString("x").String() }),
		"wrong digest":  edit(func(p part) { p["blob"] = other }),
		"wrong DiffID":  edit(func(p part) { p["diff"] = other }),
		"no digest":     edit(func(p part) { p["blob"] = []byte("none") }),
		"no DiffID":     edit(func(p part) { p["diff"] = []byte("none") }),
		"wrong history": edit(func(p part) { p["point"].(map[string]any)["past"] = bytes.Repeat([]byte("hostile "), 4096) }), //nolint:forcetypeassert // we wrote it
		"wrong place":   edit(func(p part) { p["point"].(map[string]any)["bits"] = 4_000_003 }),                              //nolint:forcetypeassert // see above
		"wrong state":   edit(func(p part) { p["state"] = map[string]any{"key": "AAAA"} }),
	} {
		if brief(name, "a bit flipped", "wrong digest", "wrong history", "wrong place") {
			continue
		}
		b := begin(t, l, halfway)
		spoil(t, b.file)
		if got, _ := b.finish(t, folder); got.ResumedAt != 0 {
			t.Errorf("%s: resumed at byte %d", name, got.ResumedAt)
		}
	}
}

// TestResumeStore checks that a layer with a copy in a store resumes if the
// copy holds the received bytes. It restarts if the copy is missing, too short
// or different, or if the store is not a BlobResumer.
func TestResumeStore(t *testing.T) {
	const folder = "cmd/compile"
	l := gzLayer(goTree(t, folder))
	for name, tt := range map[string]struct {
		spoil func([]byte) []byte
		wrap  func(*soci.Layout) soci.BlobStore
		goes  bool
	}{
		"there":     {func(b []byte) []byte { return append(b, "written and not counted"...) }, nil, true},
		"not there": {func([]byte) []byte { return nil }, nil, false},
		"short":     {func(b []byte) []byte { return b[:len(b)/10] }, nil, false},
		"wrong":     {func(b []byte) []byte { b[1000] ^= 1; return b }, nil, false},
		"of a store that can't": {func(b []byte) []byte { return b }, func(l *soci.Layout) soci.BlobStore {
			return struct{ soci.BlobStore }{l}
		}, false},
	} {
		if brief(name, "there", "wrong") {
			continue
		}
		where := t.TempDir()
		layout, err := soci.OpenLayout(where)
		must(t, err)
		b := begin(t, l, func(o *soci.Options) { o.Store = layout })
		blobs := filepath.Join(where, "blobs", "sha256")
		if left, _ := os.ReadDir(blobs); len(left) > 0 {
			t.Fatalf("a pull that has ended left %v", left)
		}
		// A killed pull leaves all received bytes.
		_, hex, _ := strings.Cut(b.blob, ":")
		if data := tt.spoil(bytes.Clone(l.data[:len(l.data)*9/10])); data != nil {
			must(t, os.WriteFile(filepath.Join(blobs, ".penstock-"+hex), data, 0o600))
		}
		if tt.wrap != nil {
			b.edit = func(o *soci.Options) { checkpointing(o); o.Store = tt.wrap(layout) }
		}
		got, sent := b.finish(t, folder)
		if goes := got.ResumedAt > 0 && sent < b.size; goes != tt.goes {
			t.Errorf("%s: resumed at byte %d, %d of %d fetched", name, got.ResumedAt, sent, b.size)
		}
		if data, err := os.ReadFile(filepath.Join(blobs, hex)); err != nil || !bytes.Equal(data, l.data) {
			t.Errorf("%s: %d bytes in the store, %v", name, len(data), err)
		}
		if left, _ := filepath.Glob(filepath.Join(blobs, ".penstock-*")); tt.wrap == nil && len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// TestSweepLayout checks that an unfinished blob is removed after a day.
func TestSweepLayout(t *testing.T) {
	where := t.TempDir()
	blobs := filepath.Join(where, "blobs", "sha256")
	must(t, os.MkdirAll(blobs, 0o755))
	old := time.Now().Add(-25 * time.Hour)
	for name, when := range map[string]time.Time{".penstock-old": old, ".penstock-young": time.Now(), "old": old} {
		must(t, errors.Join(os.WriteFile(filepath.Join(blobs, name), nil, 0o600), os.Chtimes(filepath.Join(blobs, name), when, when)))
	}
	_, err := soci.OpenLayout(where)
	must(t, err)
	if left, _ := filepath.Glob(filepath.Join(blobs, "*old")); len(left) != 1 || filepath.Base(left[0]) != "old" {
		t.Errorf("left %v", left)
	}
	if _, err := os.Lstat(filepath.Join(blobs, ".penstock-young")); err != nil {
		t.Error(err)
	}
}
