package soci_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// killedPull makes the re-executed test binary pull until it is killed.
const killedPull = "PENSTOCK_TEST_KILLED_PULL"

// killRounds is the number of rounds of TestKilled; the full run has 100.
const killRounds = "PENSTOCK_KILL_ROUNDS"

// TestKilledHelper is the process that TestKilled kills.
func TestKilledHelper(t *testing.T) {
	spec := os.Getenv(killedPull)
	if spec == "" {
		t.Skip("needs to be started by TestKilled")
	}
	ref, dir, _ := strings.Cut(spec, " ")
	p := puller(t, checkpointing)
	if _, err := p.Pull(t.Context(), ref, dir); err != nil {
		fmt.Println("pull:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

// manyLayers returns an image with layers of different sizes.
func manyLayers(t testing.TB) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for _, folder := range []string{"cmd/compile/internal/ssa", "net/http", "os", "unicode", "strings", "encoding/json", "go/types", "archive", "image", "text", "math"} {
		layers = append(layers, gzLayer(goTree(t, folder)))
	}
	return image(t, here, layers...)
}

// finishedLayers reads the digests of the finished layers in a dead pull's
// journal.
func finishedLayers(t *testing.T, dir string) map[string]bool {
	t.Helper()
	f, err := os.Open(filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".penstock", "journal"))
	if err != nil {
		return nil // killed before the journal existed, or after the end
	}
	defer f.Close()
	done := make(map[string]bool)
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return done
		}
		var e struct {
			Layer   *soci.Layer `json:"layer"`
			Merging bool        `json:"merging"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if e.Layer != nil {
			done[e.Layer.Digest] = true
		}
	}
}

// TestKilled kills a pulling process at random moments and pulls again.
// Unverified files are never visible, finished layers are not fetched again,
// and no files are left.
func TestKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: a layer cannot be unpacked elsewhere")
	}
	rounds := 10
	if s := os.Getenv(killRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	img := manyLayers(t)
	var finished, redone int64
	var sent, kept int64 // of resumed layers
	killed, resumed := 0, 0
	for seed := range rounds {
		k := kill(t, img, uint64(seed))
		finished, redone = finished+k.finished, redone+k.redone
		if k.killed {
			killed++
		}
		resumed += k.resumed
		sent, kept = sent+k.sent, kept+k.kept
	}
	t.Logf("inside of layers: of %d bytes that had been sent, decoded and read ahead, %d were not fetched again (%.1f %%)",
		sent, kept, 100*float64(kept)/float64(max(sent, 1)))
	t.Logf("%d rounds: %d killed in the pull, %d layers resumed; of %d bytes of finished layers %d fetched again (%.2f %%)",
		rounds, killed, resumed, finished, redone, 100*float64(redone)/float64(max(finished, 1)))
	if redone*20 > finished {
		t.Errorf("%d of %d finished bytes were fetched again: more than 5 %%", redone, finished)
	}
	if killed < rounds/2 || resumed == 0 {
		t.Errorf("only %d of %d were killed in time, %d layers resumed", killed, rounds, resumed)
	}
}

type killing struct {
	killed           bool
	resumed          int
	finished, redone int64
	sent, kept       int64
}

// kill runs one round. It kills the process a few microseconds after a random
// number of requests has reached the registry.
func kill(t *testing.T, img v1.Image, seed uint64) (k killing) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	moment := make(chan struct{})
	left := 3 + rnd.IntN(24)
	gate := make(chan struct{}, 1)
	gate <- struct{}{}
	o := origin(t, testorigin.Options{Seed: seed, Tap: func(e testorigin.Event) {
		if !e.Done || e.Op != "GetBlob" {
			return
		}
		<-gate
		if left--; left == 0 {
			close(moment)
		}
		gate <- struct{}{}
	}})
	ref := push(t, o, "kill:1", img)
	dir, clean := target(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilledHelper$")
	cmd.Env = append(os.Environ(), killedPull+"="+ref+" "+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	var err error
	select {
	case <-moment:
		for range rnd.IntN(2_000_000) { // some work, so that the kill does not coincide with a request
			_ = rnd.Uint64()
		}
		_ = cmd.Process.Kill()
		err = <-over
	case err = <-over:
	}
	if k.killed = err != nil; !k.killed {
		checkWhole(t, dir)
		clean("root")
		return k
	}
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Exited() {
		t.Fatalf("seed %d: %v", seed, err)
	}
	done := finishedLayers(t, dir)
	if _, err := os.Lstat(dir); err == nil {
		checkWhole(t, dir) // killed between rename and the end
		_, err := puller(t, nil).Pull(t.Context(), ref, dir)
		if !errors.Is(err, soci.ErrTarget) {
			t.Errorf("seed %d: %v", seed, err)
		}
		clean("root")
		return k
	}
	before := o.Counters()
	o.Reset()
	res, err := puller(t, nil).Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for _, l := range res.Layers {
		for _, c := range before {
			if l.ResumedAt > 0 && c.Op == "GetBlob" && strings.HasSuffix(c.Key, l.Digest) {
				k.sent, k.kept = k.sent+c.Bytes, k.kept+l.ResumedAt
			}
		}
	}
	checkWhole(t, dir)
	clean("root")
	for _, l := range res.Layers {
		if l.Resumed {
			k.resumed++
		}
		if done[l.Digest] {
			k.finished += l.CompressedBytes
			k.redone += o.Count("GetBlob", "kill@"+l.Digest).Bytes
		}
	}
	return k
}

// checkWhole compares the tree of manyLayers with its source.
func checkWhole(t *testing.T, dir string) {
	t.Helper()
	n := 0
	for _, folder := range []string{"cmd/compile/internal/ssa", "net/http", "os", "unicode", "go/types", "math"} {
		n += sameTree(t, folder, filepath.Join(dir, "go", folder))
	}
	if n < 200 {
		t.Errorf("only %d files compared", n)
	}
}

// TestKeepFailed checks that the next pull reuses the finished layers of a
// failed one.
func TestKeepFailed(t *testing.T) {
	img := mediumImage(t)
	layers, _ := img.Layers()
	last, _ := layers[1].Digest() // the smallest one, which is fetched last
	// The answer that fails the pull waits until a layer is finished, because
	// on a busy machine unpacking is far behind the network.
	finished := make(chan struct{})
	o := origin(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "GetBlob" && strings.HasSuffix(e.Key, last.String()) && !e.Done {
			<-finished
		}
	}})
	ref := push(t, o, "go/tree:1", img)
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + last.String(), Every: 1, Action: testorigin.ActStatus, Status: 404})
	keep := func(o *soci.Options) { o.KeepFailed, o.Parallelism = true, 1 }
	dir, clean := target(t)
	watch := func(o *soci.Options) { keep(o); o.Progress = &firstDone{done: finished} }
	if _, err := puller(t, watch).Pull(t.Context(), ref, dir); !errors.Is(err, soci.ErrNotFound) {
		t.Fatal(err)
	}
	clean(".root.penstock")

	// The directory belongs to one pull at a time.
	o.Reset()
	o.SetFaults(testorigin.Fault{Op: "GetManifest", Every: 1, Action: testorigin.ActStall})
	ctx, cancel := context.WithCancel(t.Context())
	stuck := make(chan error, 1)
	go func() {
		_, err := puller(t, keep).Pull(ctx, ref, dir)
		stuck <- err
	}()
	for o.Count("GetManifest", "go/tree:1").Requests == 0 {
		runtime.Gosched()
	}
	if _, err := puller(t, keep).Pull(t.Context(), ref, dir); !errors.Is(err, soci.ErrTarget) || !strings.Contains(err.Error(), "another pull is filling") {
		t.Error(err)
	}
	cancel()
	if err := <-stuck; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	o.SetFaults()
	o.Reset()
	res, err := puller(t, keep).Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	clean("root")
	n := 0
	for _, l := range res.Layers {
		if l.Resumed {
			n++
			if sent := o.Count("GetBlob", "go/tree@"+l.Digest).Bytes; sent > 0 {
				t.Errorf("%d bytes of a resumed layer", sent)
			}
		}
	}
	if n == 0 {
		t.Errorf("nothing was resumed: %+v", res.Layers)
	}
}

// firstDone closes done when a layer is finished.
type firstDone struct {
	once sync.Once
	done chan struct{}
}

func (*firstDone) Start(string, []int64)     {}
func (*firstDone) Advance(int, int64, int64) {}
func (f *firstDone) Done(int)                { f.once.Do(func() { close(f.done) }) }

// TestSweep checks that the next pull in the same parent removes the stage of a
// dead pull, once the target exists or the stage is a day old.
func TestSweep(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "small:1", image(t, here, gzLayer(tarOf(t, "f", "x"))))
	parent := t.TempDir()
	old := time.Now().Add(-25 * time.Hour)
	for name, mtime := range map[string]time.Time{".young.penstock": time.Now(), ".old.penstock": old, ".done.penstock": time.Now()} {
		d := filepath.Join(parent, name)
		if err := errors.Join(os.Mkdir(d, 0o700), os.Chtimes(d, mtime, mtime)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(parent, "done", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := puller(t, nil).Pull(t.Context(), ref, filepath.Join(parent, "root")); err != nil {
		t.Fatal(err)
	}
	var got []string
	names, _ := os.ReadDir(parent)
	for _, n := range names {
		got = append(got, n.Name())
	}
	if want := "[.young.penstock done root]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	// A file of that name belongs to another program.
	if err := os.WriteFile(filepath.Join(parent, ".mine.penstock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := puller(t, nil).Pull(t.Context(), ref, filepath.Join(parent, "mine")); !errors.Is(err, soci.ErrTarget) {
		t.Error(err)
	}
}
