package snapshotter_test

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// three are layers that depend on each other: a whiteout, a hard link to a
// lower file, a directory with metadata in a lower layer.
func three(t testing.TB) []v1.Layer {
	t.Helper()
	return []v1.Layer{
		gzipped(t, archive(t,
			tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7}, "",
			tar.Header{Name: "etc/a"}, "one",
			tar.Header{Name: "etc/b"}, "gone")),
		gzipped(t, goTree(t, "strings", "fmt", "net/http")),
		gzipped(t, archive(t,
			tar.Header{Name: "etc/.wh.b"}, "",
			tar.Header{Name: "etc/link", Typeflag: tar.TypeLink, Linkname: "etc/a"}, "",
			tar.Header{Name: "etc/c", Mode: 0o4755}, "three")),
	}
}

// exist prepares all layers from the first on, and checks that containerd need
// not fill any.
func exist(t *testing.T, s snapshots.Snapshotter, m image, first int) {
	t.Helper()
	for i := first; i < len(m.chains); i++ {
		if mounts, err := m.prepare(t.Context(), s, i); !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v, %v; want already exists", i, mounts, err)
		}
		info, err := s.Stat(t.Context(), m.chains[i])
		if err != nil || info.Kind != snapshots.KindCommitted || info.Parent != m.parent(i) || info.Labels[snapshots.LabelSnapshotRef] != m.chains[i] {
			t.Fatalf("layer %d: %+v, %v", i, info, err)
		}
	}
}

// once checks that each blob of an image was fetched exactly once.
func once(t *testing.T, o *testorigin.Origin, repo string, m image) {
	t.Helper()
	for i, l := range m.layers {
		if n := o.Count("GetBlob", repo+"@"+l).Bytes; n != m.sizes[i] {
			t.Errorf("layer %d: %d bytes fetched of %d", i, n, m.sizes[i])
		}
	}
}

func TestPrivPull(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	layers := three(t)
	m := push(t, o, "app:1", layers...)
	dir := t.TempDir()
	local := open(t, dir, nil)
	s, stop := serve(t, local)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	exist(t, s, m, 0)
	once(t, o, "app", m)
	view(t, s, m.chains[2], func(at string) {
		for name, want := range map[string]string{"etc/a": "one", "etc/link": "one", "etc/c": "three"} {
			if got, err := os.ReadFile(filepath.Join(at, name)); string(got) != want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if _, err := os.Lstat(filepath.Join(at, "etc/b")); !os.IsNotExist(err) {
			t.Errorf("etc/b: %v", err)
		}
		if fi, err := os.Lstat(filepath.Join(at, "etc")); err != nil || fi.Mode().Perm() != 0o750 {
			t.Errorf("etc: %v, %v", fi, err)
		}
		want, _ := os.ReadFile(filepath.Join(goroot(t), "src", "net/http", "server.go"))
		if got, err := os.ReadFile(filepath.Join(at, "net/http", "server.go")); err != nil || string(got) != string(want) {
			t.Errorf("server.go: %d bytes, %v", len(got), err)
		}
	})
	for i, chain := range m.chains {
		u, err := s.Usage(t.Context(), chain)
		mounts, merr := s.View(t.Context(), "usage"+chain, chain)
		if err != nil || merr != nil {
			t.Fatal(err, merr)
		}
		fs := mounts[0].Source
		if i > 0 {
			fs = topLower(mounts[0].Options)
		}
		if want := used(t, fs); u != want {
			t.Errorf("layer %d: usage %+v, want %+v of %s", i, u, want, fs)
		}
		if err := s.Remove(t.Context(), "usage"+chain); err != nil {
			t.Error(err)
		}
	}

	// A second image shares two layers.
	next := gzipped(t, archive(t, tar.Header{Name: "etc/d"}, "four"))
	n := push(t, o, "app:2", layers[0], layers[1], next)
	exist(t, s, n, 2)
	if got := o.Count("GetBlob", "app@"+n.layers[0]).Bytes + o.Count("GetBlob", "app@"+n.layers[1]).Bytes; got != 0 {
		t.Errorf("%d bytes of shared layers were fetched again", got)
	}
	// Another namespace requests all layers.
	exist(t, s, n, 0)

	for _, chain := range []string{m.chains[2], n.chains[2], m.chains[1], m.chains[0]} {
		if err := s.Remove(t.Context(), chain); err != nil {
			t.Error(err)
		}
	}
	if err := s.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	for _, d := range []string{"snapshots", "ready", "work"} {
		if left := names(t, dir, d); len(left) > 0 {
			t.Errorf("%s: %v is left", d, left)
		}
	}
}

// topLower returns the uppermost lower directory of an overlay mount.
func topLower(options []string) string {
	for _, o := range options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			dir, _, _ := strings.Cut(dirs, ":")
			return dir
		}
	}
	return ""
}

// TestPrivSingleFlight pulls images that share layers concurrently, each twice.
func TestPrivSingleFlight(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	layers := three(t)
	top := gzipped(t, archive(t, tar.Header{Name: "top"}, "x"))
	images := []image{push(t, o, "app:1", layers...), push(t, o, "app:2", layers[0], layers[1], top)}
	o.Reset()
	s := open(t, t.TempDir(), nil)
	var wg sync.WaitGroup
	for range 2 {
		for _, m := range images {
			wg.Go(func() {
				for i := range m.chains {
					if _, err := m.prepare(t.Context(), s, i); !errdefs.IsAlreadyExists(err) {
						t.Errorf("layer %d: %v", i, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, m := range images {
		once(t, o, "app", m)
	}
}

// TestPrivFallback lists the requests that are left to containerd.
func TestPrivFallback(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "token"}})
	m := push(t, o, "app:1", three(t)...)
	other := digestOf('7')
	wrongUser := puller(t, func(opts *soci.Options) {
		opts.Credentials = func(context.Context, string, string) (soci.Credential, error) {
			return soci.Credential{Username: "mallory", Password: "guess"}, nil
		}
	})
	s := open(t, t.TempDir(), nil)
	denied := open(t, t.TempDir(), func(o *snapshotter.Options) { o.Puller = wrongUser })
	tests := []struct {
		name string
		s    snapshots.Snapshotter
		edit func(labels map[string]string)
	}{
		{"no labels", s, func(l map[string]string) { clear(l) }},
		{"only the target", s, func(l map[string]string) { delete(l, "containerd.io/snapshot/cri.image-ref") }},
		{"no manifest", s, func(l map[string]string) { delete(l, "containerd.io/snapshot/cri.manifest-digest") }},
		{"not a digest", s, func(l map[string]string) { l["containerd.io/snapshot/cri.layer-digest"] = "layer" }},
		{"unknown manifest", s, func(l map[string]string) { l["containerd.io/snapshot/cri.manifest-digest"] = other }},
		{"another layer", s, func(l map[string]string) { l["containerd.io/snapshot/cri.layer-digest"] = other }},
		{"another chain", s, func(l map[string]string) { l["containerd.io/snapshot.ref"] = other }},
		{"not the lowest layer", s, func(l map[string]string) {
			l["containerd.io/snapshot.ref"], l["containerd.io/snapshot/cri.layer-digest"] = m.chains[1], m.layers[1]
		}},
		{"not a reference", s, func(l map[string]string) { l["containerd.io/snapshot/cri.image-ref"] = "Not a reference" }},
		{"a rate that is none", s, func(l map[string]string) { l[snapshotter.RateLabel] = "fast" }},
		{"mapped ids", s, func(l map[string]string) {
			l["containerd.io/snapshot/uidmapping"], l["containerd.io/snapshot/gidmapping"] = "0:100000:65536", "0:100000:65536"
		}},
		{"no access", denied, func(map[string]string) {}},
	}
	for _, tt := range tests {
		labels := m.labels(0)
		tt.edit(labels)
		key := "extract " + tt.name
		mounts, err := tt.s.Prepare(t.Context(), key, "", snapshots.WithLabels(labels))
		if err != nil || len(mounts) != 1 {
			t.Errorf("%s: %v, %v; want a mount to fill", tt.name, mounts, err)
			continue
		}
		if err := tt.s.Commit(t.Context(), tt.name, key); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if n := o.TotalBytes("app@" + m.layers[0]); n != 0 {
		t.Errorf("%d bytes of the layer were fetched", n)
	}
	// A fetched layer above a layer that containerd unpacked, but not above
	// another one.
	mounts, err := s.Prepare(t.Context(), "extract base", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(mounts[0].Source, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mounts[0].Source, "etc", "a"), []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "base", "extract base", snapshots.WithLabels(m.labels(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), "extract 1", "base", snapshots.WithLabels(m.labels(1))); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if mounts, err := s.Prepare(t.Context(), "extract 2", "no labels", snapshots.WithLabels(m.labels(1))); err != nil || len(mounts) != 1 {
		t.Errorf("%v, %v; want a mount to fill", mounts, err)
	}
}

func digestOf(c byte) string { return "sha256:" + strings.Repeat(string(c), 64) }

// TestPrivWrongBytes checks that wrong bytes are an error, that containerd does
// not retry, and that no files are left.
func TestPrivWrongBytes(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "app@" + m.layers[1], Every: 1, Action: testorigin.ActFlip, Bytes: 1})
	dir := t.TempDir()
	s := open(t, dir, func(o *snapshotter.Options) { o.Linger = -1 })
	if _, err := m.prepare(t.Context(), s, 0); !errors.Is(err, soci.ErrDigest) {
		t.Errorf("%v; want a digest mismatch", err)
	}
	if left := names(t, dir, "snapshots"); len(left) > 0 {
		t.Errorf("snapshots %v of an image that failed", left)
	}
	o.SetFaults()
	o.Reset()
	exist(t, s, m, 0)
	if n := o.TotalBytes("app@" + m.layers[0]); n != 0 {
		t.Errorf("%d bytes of a layer that was ready were fetched again", n)
	}
	if left := names(t, dir, "work"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestPrivForeign checks that exactly the layers that the registry lacks are
// left to containerd.
func TestPrivForeign(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "app@" + m.layers[2], Every: 1, Action: testorigin.ActStatus, Status: 404})
	s := open(t, t.TempDir(), nil)
	exist(t, s, image{m.ref, m.manifest, m.layers[:2], m.chains[:2], m.sizes[:2]}, 0)
	if mounts, err := m.prepare(t.Context(), s, 2); err != nil || len(mounts) != 1 {
		t.Errorf("%v, %v; want a mount to fill", mounts, err)
	}
	if n := o.TotalBytes("app@" + m.layers[1]); n != m.sizes[1] {
		t.Errorf("%d bytes of a layer were fetched, want %d", n, m.sizes[1])
	}
}

// TestPrivSHA512 pulls an image whose digests are sha512, from the manifest to
// the DiffIDs. Chain IDs are sha256, except for the lowest one, which is a
// DiffID.
func TestPrivSHA512(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	layers := [][]byte{goTree(t, "net/http"), archive(t, tar.Header{Name: "etc/a"}, "one")}
	manifest, err := o.PutImage("app", "512", digest.SHA512, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	m := image{ref: o.Host() + "/app:512", manifest: manifest.String()}
	var diffIDs []digest.Digest
	for _, l := range layers {
		d := digest.SHA512.FromBytes(l)
		diffIDs = append(diffIDs, d)
		m.layers, m.sizes = append(m.layers, d.String()), append(m.sizes, int64(len(l)))
	}
	for _, c := range identity.ChainIDs(diffIDs) {
		m.chains = append(m.chains, c.String())
	}
	dir := t.TempDir()
	first := open(t, dir, nil)
	exist(t, first, image{m.ref, m.manifest, m.layers[:1], m.chains[:1], m.sizes[:1]}, 0)
	until(t, "the upper layer is ready", func() bool { return len(names(t, dir, "ready")) == 1 })
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	s := open(t, dir, nil)
	exist(t, s, m, 0)
	once(t, o, "app", m)
	view(t, s, m.chains[1], func(at string) {
		if got, err := os.ReadFile(filepath.Join(at, "etc/a")); string(got) != "one" {
			t.Errorf("etc/a: %q, %v", got, err)
		}
		if _, err := os.Lstat(filepath.Join(at, "net/http", "server.go")); err != nil {
			t.Error(err)
		}
	})
}

// TestPrivAirGapped checks a node that cannot reach the registry and has local
// images. containerd gets a mount to unpack into after the Patience of the
// first pull, and later at once. A dial that times out returns "deadline
// exceeded" although no context has ended.
func TestPrivAirGapped(t *testing.T) {
	root(t)
	for name, dial := range map[string]func(ctx context.Context) error{
		"packets dropped": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"dial times out":  func(context.Context) error { return &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded} },
		"time-out of net": func(ctx context.Context) error {
			_, err := (&net.Dialer{Deadline: time.Unix(1, 0)}).DialContext(ctx, "tcp", "127.0.0.1:1")
			return err
		},
		"no route": func(context.Context) error { return os.NewSyscallError("connect", syscall.ENETUNREACH) },
		"no name":  func(context.Context) error { return &net.DNSError{Err: "no such host", IsNotFound: true} },
	} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int64
			p := puller(t, func(o *soci.Options) {
				o.Patience = 50 * time.Millisecond
				o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					dials.Add(1)
					return nil, dial(ctx)
				}
			})
			s := open(t, t.TempDir(), func(o *snapshotter.Options) { o.Puller = p })
			of := digestOf
			m := image{ref: "r.example/app:1", manifest: of('1'), layers: []string{of('2')}, chains: []string{of('3')}}
			if mounts, err := m.prepare(t.Context(), s, 0); err != nil || len(mounts) != 1 {
				t.Fatalf("%v, %v; want a mount to fill", mounts, err)
			}
			first := dials.Load()
			other := image{ref: "r.example/other:1", manifest: of('4'), layers: []string{of('5')}, chains: []string{of('6')}}
			if mounts, err := other.prepare(t.Context(), s, 0); err != nil || len(mounts) != 1 {
				t.Errorf("%v, %v; want a mount to fill", mounts, err)
			}
			if n := dials.Load(); first == 0 || n != first {
				t.Errorf("%d connections for the first image, %d for the second", first, n-first)
			}
		})
	}
}

// TestPrivOddHTTP checks that a registry that answers ranges in an unsupported
// form is left to containerd, and that one that ignores ranges is not.
func TestPrivOddHTTP(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", gzipped(t, goTree(t, "strings")))
	reg := prometheus.NewRegistry()
	s := open(t, t.TempDir(), func(opts *snapshotter.Options) { opts.Metrics = reg })
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "app@" + m.layers[0], Every: 1, Action: testorigin.ActMultipart})
	if mounts, err := m.prepare(t.Context(), s, 0); err != nil || len(mounts) != 1 {
		t.Errorf("%v, %v; want a mount to fill", mounts, err)
	}
	if n := sample(t, reg, "penstock_snapshotter_fallbacks_total", "reason", "fetch"); n != 1 {
		t.Errorf("%v fall-backs because of missing bytes", n)
	}
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "app@" + m.layers[0], Every: 1, Action: testorigin.ActIgnoreRange})
	exist(t, s, m, 0)
}

// sample returns the value of a counter with a label.
func sample(t *testing.T, g prometheus.Gatherer, name, label, value string) float64 {
	t.Helper()
	all, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				if f.GetName() == name && l.GetName() == label && l.GetValue() == value {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// TestPrivTreesAgree pulls an image whose upper layers have names below links
// of lower ones, into a tree, into layers and into the snapshotter, and checks
// that a container sees the same files with all three.
func TestPrivTreesAgree(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1",
		gzipped(t, archive(t,
			tar.Header{Name: "real/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 5}, "",
			tar.Header{Name: "real/a"}, "one",
			tar.Header{Name: "implied", Typeflag: tar.TypeSymlink, Linkname: "real"}, "",
			tar.Header{Name: "opaque", Typeflag: tar.TypeSymlink, Linkname: "real"}, "",
			tar.Header{Name: "whiteout", Typeflag: tar.TypeSymlink, Linkname: "real"}, "",
			tar.Header{Name: "described", Typeflag: tar.TypeSymlink, Linkname: "real"}, "")),
		gzipped(t, archive(t,
			tar.Header{Name: "implied/child"}, "two",
			tar.Header{Name: "opaque/.wh..wh..opq"}, "",
			tar.Header{Name: "opaque/child"}, "two",
			tar.Header{Name: "whiteout/.wh.a"}, "",
			tar.Header{Name: "described/", Typeflag: tar.TypeDir, Mode: 0o700}, "",
			tar.Header{Name: "new/.wh.a"}, "")))
	want := []string{
		"described drwx------", "implied drwxr-xr-x", "implied/child -rw-r--r--", "new drwxr-xr-x", "opaque drwxr-xr-x", "opaque/child -rw-r--r--",
		"real drwxr-x---", "real/a -rw-r--r--", "whiteout drwxr-xr-x",
	}
	same := func(what, dir string) {
		t.Helper()
		var got []string
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == dir {
				return err
			}
			fi, err := d.Info()
			rel, _ := filepath.Rel(dir, p)
			got = append(got, rel+" "+fi.Mode().String())
			return err
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	p := puller(t, nil)
	dir := t.TempDir()
	res, err := p.Pull(t.Context(), m.ref, filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	same("tree", filepath.Join(dir, "root"))
	if said := strings.Join(res.Warnings, "; "); !strings.Contains(said, "replaces a link of a lower layer") {
		t.Errorf("warnings %q", said)
	}
	if res, err = p.PullLayers(t.Context(), m.ref, filepath.Join(dir, "layers")); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	layers := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + res.Layers[1].Dir + ":" + res.Layers[0].Dir}}
	if err := layers.Mount(mnt); err != nil {
		t.Fatal(err)
	}
	same("layers", mnt)
	if err := mount.UnmountAll(mnt, 0); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), func(opts *snapshotter.Options) { opts.Puller = p })
	exist(t, s, m, 0)
	view(t, s, m.chains[1], func(at string) { same("snapshot", at) })
}
