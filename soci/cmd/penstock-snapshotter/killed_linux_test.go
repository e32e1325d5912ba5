package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/penstock/penstock/internal/testorigin"
)

// killRounds names the variable with the number of kills of TestPrivKilledRounds;
// the full run has 100.
const killRounds = "PENSTOCK_KILL_ROUNDS"

// sources returns a layer of folders of the Go source tree, preceded by entries
// that are not regular files.
func sources(t *testing.T, folders ...string) v1.Layer {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	w := tar.NewWriter(z)
	for _, f := range folders {
		if err := w.AddFS(&sub{os.DirFS(root), f}); err != nil {
			t.Skip("needs the Go source tree: ", err)
		}
	}
	name := strings.ReplaceAll(folders[0], "/", "-")
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeSymlink, Name: "links/" + name, Linkname: "../" + folders[0]},
		{Typeflag: tar.TypeReg, Name: "bin/" + name, Mode: 0o4755},
		{Typeflag: tar.TypeReg, Name: "gone/.wh." + name},
		{Typeflag: tar.TypeFifo, Name: "run/" + name, Mode: 0o600},
	} {
		h.ModTime = time.Unix(1_700_000_000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sub is a file system with one folder of another one, under the same name.
type sub struct {
	fs.FS
	folder string
}

func (s *sub) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(s.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		at := e.Name()
		if name != "." {
			at = name + "/" + at
		}
		return !strings.HasPrefix(s.folder+"/", at+"/") && !strings.HasPrefix(at, s.folder+"/")
	}), err
}

// layersOn returns the fingerprint of each fetched layer below a directory of the
// daemon's root, by chain ID, and the number of directories without a record,
// which are not layers.
func (d *daemon) layersOn(t *testing.T, dir string) (looks map[string]string, others int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.root, dir))
	if err != nil {
		t.Fatal(err)
	}
	looks = make(map[string]string)
	for _, e := range entries {
		at := filepath.Join(d.root, dir, e.Name())
		data, err := os.ReadFile(filepath.Join(at, "layer.json"))
		var r struct{ Chain string }
		if err != nil || json.Unmarshal(data, &r) != nil {
			others++
			continue
		}
		looks[r.Chain] = look(t, filepath.Join(at, "fs"))
	}
	return looks, others
}

// look returns a fingerprint of a tree: its names, modes, owners, times, links and
// contents.
func look(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(h, "%s %v %d %d %d ", strings.TrimPrefix(p, dir), info.Mode(), st.Uid, st.Gid, st.Rdev)
		switch {
		case info.Mode().IsRegular():
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			n, err := io.Copy(h, f)
			fmt.Fprintln(h, n, info.ModTime().UnixNano())
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			fmt.Fprintln(h, to)
			return err
		}
		fmt.Fprintln(h)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// killing is a containerd whose snapshotter is killed repeatedly.
type killing struct {
	*node
	o      *testorigin.Origin
	d      *daemon
	ref    string
	layers []v1.Layer
	want   map[string]string // fingerprints of the layers, by chain ID
	took   time.Duration     // duration of an undisturbed pull

	killed, kept    int   // pulls that failed; layers that existed after the kill
	finished, again int64 // bytes of these layers; bytes of them that were fetched again
	begun           int   // layers that were resumed
	sent, saved     int64 // bytes sent of resumed layers before the kill; bytes of them that were not sent again
}

// part is a checkpoint of an unfinished layer.
type part struct {
	Finished *struct{} // it waited for the layers below
	Point    struct{ Bits int64 }
}

// parts returns the layers that can be resumed, by chain ID.
func (d *daemon) parts(t *testing.T) map[string]part {
	t.Helper()
	out := make(map[string]part)
	entries, err := os.ReadDir(filepath.Join(d.root, "parts"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(d.root, "parts", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := bytes.Cut(data, []byte("\n")) // after its checksum
		var p part
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		out[strings.Replace(e.Name(), "-", ":", 1)] = p
	}
	return out
}

// TestPrivKilledRounds kills the daemon at moments drawn from a seed while
// containerd pulls through it, restarts it and pulls again. No incomplete layer is
// ever visible, finished layers are not fetched again, unfinished ones resume at
// their last checkpoint, and no file is left behind.
func TestPrivKilledRounds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd")
	}
	rounds := 3
	if s := os.Getenv(killRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	// Slow connections make a pull long enough for a kill to hit it.
	o, err := testorigin.Start(testorigin.Options{ConnRate: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	dir := shortDir(t)
	k := &killing{node: containerd(t, dir, ""), o: o, d: start(t, dir, often...)}
	for _, f := range []string{"net/http", "go", "unicode", "os", "encoding", "crypto", "text", "cmd/compile"} {
		k.layers = append(k.layers, sources(t, f))
	}
	k.ref = push(t, o, "app:killed", k.layers...)
	begin := time.Now()
	k.do("images", "pull", "--snapshotter", "penstock", "--plain-http", k.ref)
	k.took = time.Since(begin)
	if k.want, _ = k.d.layersOn(t, "snapshots"); len(k.want) != len(k.layers) {
		t.Fatalf("%d snapshots of %d layers", len(k.want), len(k.layers))
	}
	k.empty()
	for seed := range rounds {
		k.round(uint64(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		if n := seed + 1; n == rounds || n%20 == 0 {
			t.Logf("%d rounds: %d pulls killed (one takes %v undisturbed), %d layers finished before; of their %d bytes %d fetched again",
				n, k.killed, k.took.Round(time.Millisecond), k.kept, k.finished, k.again)
			t.Logf("%d layers gone on with: of %d bytes that had been sent, decoded and read ahead, %d not fetched again (%.0f %%)",
				k.begun, k.sent, k.saved, 100*float64(k.saved)/float64(max(k.sent, 1)))
		}
	}
	if k.killed == 0 {
		t.Error("no pull was killed in time")
	}
	if k.again*20 > k.finished {
		t.Error("more than 5 % of finished bytes were fetched again")
	}
}

// often makes the daemon write checkpoints even for the small layers of the test.
var often = []string{"--checkpoint", "1MiB"}

// round kills once and pulls again.
func (k *killing) round(seed uint64) {
	t := k.t
	t.Helper()
	moment := time.Duration(rand.New(rand.NewPCG(seed, 7)).Float64() * 1.1 * float64(k.took))
	pulled := make(chan error, 1)
	go func() {
		_, err := k.try("images", "pull", "--snapshotter", "penstock", "--plain-http", k.ref)
		pulled <- err
	}()
	<-time.After(moment)
	k.d.end(syscall.SIGKILL)
	if err := <-pulled; err != nil {
		k.killed++
	}
	sent := make(map[string]int64)
	for _, l := range k.layers {
		id, _ := l.DiffID()
		sent[id.String()] = fetched(k.o, l)
	}
	k.o.Reset()
	k.d = start(t, k.dir, often...)
	ready, strange := k.d.layersOn(t, "ready")
	done, half := k.d.layersOn(t, "snapshots")
	parts := k.d.parts(t)
	if n := k.d.entries("work"); n != len(parts) || strange+half > 0 {
		t.Errorf("%d directories are in work for %d checkpoints; %d left in ready, %d in snapshots", n, len(parts), strange, half)
	}
	maps.Copy(done, ready)
	for chain, l := range done {
		if l != k.want[chain] {
			t.Errorf("layer %s was taken over and is not what it should be", chain)
		}
	}
	k.pullAgain()
	if got, _ := k.d.layersOn(t, "snapshots"); !maps.Equal(got, k.want) {
		t.Errorf("after the second pull %d snapshots are not what %d should be", len(got), len(k.want))
	}
	k.count(done, parts, sent)
	k.empty()
}

// pullAgain pulls as soon as containerd has reconnected. containerd backs off for
// about a second, and until then every pull fails at once.
func (k *killing) pullAgain() {
	k.t.Helper()
	const most = 50 // some ten seconds
	for tries, tick := 0, time.Tick(200*time.Millisecond); ; tries, _ = tries+1, <-tick {
		_, err := k.try("images", "pull", "--snapshotter", "penstock", "--plain-http", k.ref)
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "connection refused") || tries == most {
			k.t.Fatal(err)
		}
	}
}

// count adds to the sums the finished and the resumed layers, and the bytes that
// were fetched again of these layers.
func (k *killing) count(done map[string]string, parts map[string]part, sent map[string]int64) {
	chain, log := "", k.d.said(k.t)
	for _, l := range k.layers {
		id, _ := l.DiffID()
		if chain == "" {
			chain = id.String()
		} else {
			chain = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(chain+" "+id.String())))
		}
		_, ok := done[chain]
		p, begun := parts[chain]
		if begun && p.Finished == nil {
			k.begun++
			k.sent += sent[id.String()]
			k.saved += p.Point.Bits / 8
			d, _ := l.Digest()
			if at := fmt.Sprintf("layer=%s bytes=%d resumed_at=%d ", d, size(l), p.Point.Bits/8); !strings.Contains(log, at) {
				k.t.Errorf("a layer was not gone on with: the log does not say %q", at)
			}
		} else if ok || begun {
			k.kept++
			k.finished += size(l)
			k.again += fetched(k.o, l)
		}
	}
}

// empty removes the image and checks that all of its files are gone.
func (k *killing) empty() {
	k.t.Helper()
	k.do("images", "rm", "--sync", k.ref)
	if left := k.d.entries("snapshots") + k.d.entries("ready") + k.d.entries("work") + k.d.entries("parts"); left != 0 {
		k.t.Errorf("%d directories are left when the image is removed", left)
	}
}
