package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root skips a test that mounts or makes devices.
func root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs, whiteouts, owners")
	}
}

// login returns the origin's credentials.
func login(context.Context, string, string) (soci.Credential, error) {
	return soci.Credential{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}, nil
}

// partBytes is so small that test layers take several requests.
const partBytes = 256 << 10

// puller returns a Puller with small parts.
func puller(t testing.TB, edit func(*soci.Options)) *soci.Puller {
	t.Helper()
	opts := soci.Options{Memory: 32 << 20, PartBytes: partBytes, HostsDir: "none", Credentials: login}
	if edit != nil {
		edit(&opts)
	}
	p, err := soci.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// open opens a snapshotter in dir, which is closed at the end of the test.
func open(t testing.TB, dir string, edit func(*snapshotter.Options)) *snapshotter.Snapshotter {
	t.Helper()
	opts := snapshotter.Options{Root: dir}
	if edit != nil {
		edit(&opts)
	}
	if opts.Puller == nil {
		opts.Puller = puller(t, nil)
	}
	s, err := snapshotter.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// origin starts a registry.
func origin(t testing.TB, opts testorigin.Options) *testorigin.Origin {
	t.Helper()
	o, err := testorigin.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// archive packs headers and bodies in turns.
func archive(t testing.TB, entries ...any) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(entries); i += 2 {
		h, body := entries[i].(tar.Header), entries[i+1].(string)
		h.Size, h.ModTime = int64(len(body)), time.Unix(1_700_000_000, 0)
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// goTree packs folders of the Go source tree, which hold real files of all
// sizes.
func goTree(t testing.TB, folders ...string) []byte {
	t.Helper()
	root := filepath.Join(goroot(t), "src")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			h, err := tar.FileInfoHeader(fi, "")
			if err != nil {
				return err
			}
			h.Name, _ = filepath.Rel(root, p)
			if err := w.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
				return err
			}
			data, err := os.ReadFile(p)
			if err == nil {
				_, err = w.Write(data)
			}
			return err
		})
		if err != nil {
			t.Skip("needs the Go source tree: ", err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func goroot(t testing.TB) string {
	t.Helper()
	dir, err := gorootOnce()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	return dir
}

var gorootOnce = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(out)), err
})

// gzipped returns the gzip layer of an archive.
func gzipped(t testing.TB, archive []byte) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	w.Write(archive)
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// plain returns the uncompressed layer of an archive.
func plain(t testing.TB, archive []byte) v1.Layer {
	t.Helper()
	return static.NewLayer(archive, types.OCIUncompressedLayer)
}

// image holds the data of an image that containerd has after reading the
// manifest.
type image struct {
	ref      string
	manifest string
	layers   []string // digests of blobs
	chains   []string
	sizes    []int64
}

// push stores an image of layers under ref.
func push(t testing.TB, o *testorigin.Origin, ref string, layers ...v1.Layer) image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var diffIDs []digest.Digest
	out := image{}
	for _, l := range layers {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mediaType(l)}); err != nil {
			t.Fatal(err)
		}
		d, _ := l.Digest()
		id, _ := l.DiffID()
		size, _ := l.Size()
		out.layers, out.sizes = append(out.layers, d.String()), append(out.sizes, size)
		diffIDs = append(diffIDs, digest.Digest(id.String()))
	}
	for _, c := range identity.ChainIDs(diffIDs) {
		out.chains = append(out.chains, c.String())
	}
	r, err := name.ParseReference(o.Host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	auth := &authn.Basic{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}
	if err := remote.Write(r, img, remote.WithContext(t.Context()), remote.WithAuth(auth)); err != nil {
		t.Fatal(err)
	}
	m, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	out.ref, out.manifest = r.Name(), m.String()
	o.Reset() // the counters then cover only the pull
	return out
}

// mediaType returns the media type of a layer.
func mediaType(l v1.Layer) types.MediaType {
	if mt, err := l.MediaType(); err == nil && mt == types.OCIUncompressedLayer {
		return mt
	}
	return types.OCILayer
}

// labels returns the labels of containerd's Prepare for layer i.
func (m image) labels(i int) map[string]string {
	return map[string]string{
		snapshots.LabelSnapshotRef:             m.chains[i],
		snapshotters.TargetRefLabel:            m.ref,
		snapshotters.TargetManifestDigestLabel: m.manifest,
		snapshotters.TargetLayerDigestLabel:    m.layers[i],
		snapshotters.TargetImageLayersLabel:    strings.Join(m.layers[i:], ","),
	}
}

func (m image) parent(i int) string {
	if i == 0 {
		return ""
	}
	return m.chains[i-1]
}

// prepare requests layer i like containerd.
func (m image) prepare(ctx context.Context, s snapshots.Snapshotter, i int) ([]mount.Mount, error) {
	key := "extract-" + strconv.FormatInt(serial.next(), 10) + " " + m.chains[i]
	return s.Prepare(ctx, key, m.parent(i), snapshots.WithLabels(m.labels(i)))
}

var serial counter

// counter makes keys unique.
type counter struct {
	mu sync.Mutex
	n  int64
}

func (c *counter) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

// view mounts a snapshot read-only and calls fn with the mount point.
func view(t *testing.T, s snapshots.Snapshotter, chain string, fn func(dir string)) {
	t.Helper()
	key := "view " + chain + strconv.FormatInt(serial.next(), 10)
	mounts, err := s.View(t.Context(), key, chain)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
		if err := s.Remove(context.WithoutCancel(t.Context()), key); err != nil {
			t.Error(err)
		}
	}()
	fn(dir)
}

// used returns the disk usage of a directory, counted like containerd does.
func used(t *testing.T, dir string) snapshots.Usage {
	t.Helper()
	var u snapshots.Usage
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if !seen[st.Ino] {
			seen[st.Ino] = true
			u.Add(snapshots.Usage{Size: st.Blocks * 512, Inodes: 1}) // the unit of struct stat
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// names lists a directory of the root.
func names(t *testing.T, dir ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir...))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
