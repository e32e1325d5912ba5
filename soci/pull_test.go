package soci_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// login returns the origin's credentials.
func login(context.Context, string, string) (soci.Credential, error) {
	return soci.Credential{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}, nil
}

// partBytes is so small that test layers take several requests.
const partBytes = 256 << 10

// puller returns a Puller with small parts.
func puller(t testing.TB, edit func(*soci.Options)) *soci.Puller {
	t.Helper()
	opts := soci.Options{Credentials: login, HostsDir: "none", Memory: 32 << 20, PartBytes: partBytes}
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

// target returns the path of a directory to pull to, and a check that its
// parent holds no other files.
func target(t testing.TB) (dir string, clean func(want ...string)) {
	t.Helper()
	parent := t.TempDir()
	return filepath.Join(parent, "root"), func(want ...string) {
		t.Helper()
		names, err := os.ReadDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range names {
			got = append(got, n.Name())
		}
		if !slices.Equal(got, want) {
			t.Errorf("left next to the target: %q, want %q", got, want)
		}
	}
}

func mediumImage(t testing.TB) v1.Image {
	var layers []v1.Layer
	for _, l := range medium() {
		layers = append(layers, gzLayer(l))
	}
	return image(t, here, layers...)
}

func checkMedium(t *testing.T, dir string) {
	t.Helper()
	n := 0
	for _, folder := range []string{"net/http", "os/exec", "unicode", "strings", "encoding/json", "encoding/gob", "fmt"} {
		n += sameTree(t, folder, filepath.Join(dir, "go", folder))
	}
	if n < 150 {
		t.Errorf("only %d files compared", n)
	}
}

func TestPull(t *testing.T) {
	for _, opts := range []testorigin.RegistryOptions{
		{},
		{Auth: "basic"},
		{Auth: "token"},
		{Auth: "token", RedirectBlobs: true},
	} {
		o := origin(t, testorigin.Options{Registry: opts})
		ref := push(t, o, "go/tree:1", mediumImage(t))
		dir, clean := target(t)
		prog := &progress{}
		res, err := puller(t, func(o *soci.Options) { o.Progress = prog }).Pull(t.Context(), ref, dir)
		if err != nil {
			t.Fatalf("%+v: %v", opts, err)
		}
		checkMedium(t, dir)
		clean("root")
		if len(res.Layers) != 3 || res.Files < 150 || res.Reference != ref || res.Platform != here || len(res.Warnings) > 0 {
			t.Errorf("result %+v", res)
		}
		for i, l := range res.Layers {
			// The bytes of each blob left the registry exactly once. (On a slow
			// machine a hedge may request one part again.)
			got := o.Count("GetBlob", "go/tree@"+l.Digest).Bytes + o.Count("FetchBlob", "go/tree@"+l.Digest).Bytes
			if got < l.CompressedBytes || got > l.CompressedBytes+res.Network.Hedges*partBytes {
				t.Errorf("%+v: layer %d: %d bytes sent for a blob of %d", opts, i, got, l.CompressedBytes)
			}
			if l.Compression != "gzip" || l.TarBytes != int64(len(medium()[i])) {
				t.Errorf("layer %+v", l)
			}
		}
		if prog.compressed != res.CompressedBytes || prog.tar != res.TarBytes || prog.done != 3 || prog.total != res.CompressedBytes {
			t.Errorf("progress %+v", prog)
		}
	}
}

type progress struct {
	mu                     sync.Mutex
	total, compressed, tar int64
	done                   int
	onAdvance              func()
}

func (p *progress) Start(_ string, layers []int64) {
	for _, n := range layers {
		p.total += n
	}
}

func (p *progress) Advance(_ int, compressed, tar int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compressed += compressed
	p.tar += tar
	if p.onAdvance != nil {
		p.onAdvance()
	}
}

func (p *progress) Done(int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
}

func TestPullLayers(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	dir, clean := target(t)
	res, err := puller(t, nil).PullLayers(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	clean("root")
	sameTree(t, "net/http", filepath.Join(res.Layers[0].Dir, "go", "net", "http"))
	sameTree(t, "fmt", filepath.Join(res.Layers[2].Dir, "go", "fmt"))
	names, _ := os.ReadDir(dir)
	if len(names) != 3 || filepath.Join(dir, names[1].Name()) != res.Layers[1].Dir {
		t.Errorf("%v, %+v", names, res.Layers)
	}
}

// TestFormats checks that the compression is detected from the bytes.
func TestFormats(t *testing.T) {
	lower := tarOf(t, "etc/", "", "etc/a", "old", "etc/b", "gone")
	upper := tarOf(t, "etc/a", "new", "etc/.wh.b", "", "link", "->etc/a")
	members := append(gz(upper[:700]), gz(upper[700:])...)
	padded := append(append([]byte{}, upper...), make([]byte, 100<<10)...) // belongs to the DiffID
	o := origin(t, testorigin.Options{})
	tests := []struct {
		name string
		l    *layer
		want string
	}{
		{"gzip", gzLayer(upper), "gzip"},
		{"members", &layer{tar: upper, data: members}, "gzip"},
		{"zstd", &layer{tar: upper, data: zstdOf(upper), mediaType: types.OCILayerZStd}, "zstd"},
		{"none", &layer{tar: upper, data: upper, mediaType: types.OCIUncompressedLayer}, "none"},
		{"docker", &layer{tar: upper, data: gz(upper), mediaType: types.DockerLayer}, "gzip"},
		{"none said gzip", &layer{tar: upper, data: upper}, "none"},
		{"padded", gzLayer(padded), "gzip"},
		{"more behind the end", gzLayer(slices.Concat(upper, tarOf(t, "etc/a", "hidden"), []byte("and no tar"))), "gzip"},
	}
	// Empty layers: an archive without entries, and a blob without bytes.
	for name, l := range map[string]*layer{"empty archive": gzLayer(tarOf(t)), "no byte": gzLayer(nil), "no byte, not packed": {tar: []byte{}, data: []byte{}}} {
		ref := push(t, o, "formats/"+strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", ""), image(t, here, gzLayer(upper), l))
		dir, clean := target(t)
		res, err := puller(t, nil).Pull(t.Context(), ref, dir)
		if err != nil || res.Layers[1].Entries != 0 {
			t.Errorf("%s: %+v, %v", name, res, err)
			continue
		}
		clean("root")
	}
	for _, tt := range tests {
		ref := push(t, o, "formats/"+strings.ReplaceAll(tt.name, " ", "-"), image(t, here, gzLayer(lower), tt.l))
		dir, clean := target(t)
		res, err := puller(t, nil).Pull(t.Context(), ref, dir)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		a, _ := os.ReadFile(filepath.Join(dir, "link"))
		_, gone := os.Stat(filepath.Join(dir, "etc/b"))
		if string(a) != "new" || !errors.Is(gone, os.ErrNotExist) || res.Layers[1].Compression != tt.want {
			t.Errorf("%s: %q, %v, %+v", tt.name, a, gone, res.Layers[1])
		}
		clean("root")
	}
}

func TestTargets(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "small:1", image(t, here, gzLayer(tarOf(t, "f", "x"))))
	p := puller(t, nil)
	parent := t.TempDir()
	path := func(s string) string { return filepath.Join(parent, s) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(path("empty"), 0o700))
	must(os.MkdirAll(path("full/x"), 0o700))
	must(os.WriteFile(path("file"), nil, 0o600))
	must(os.Symlink("empty2", path("link")))
	must(os.Mkdir(path("empty2"), 0o700))
	for _, good := range []string{"new", "empty", "link"} {
		if _, err := p.Pull(t.Context(), ref, path(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		if b, err := os.ReadFile(path(good + "/f")); err != nil || string(b) != "x" {
			t.Errorf("%s: %q %v", good, b, err)
		}
	}
	for bad, want := range map[string]string{
		"full":     "is not empty",
		"file":     "is not a directory",
		"no/such":  "create it first",
		"file/sub": "not a directory",
	} {
		_, err := p.Pull(t.Context(), ref, path(bad))
		if !errors.Is(err, soci.ErrTarget) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := p.Pull(t.Context(), ref, ""); !errors.Is(err, soci.ErrTarget) {
		t.Error(err)
	}
	names, _ := os.ReadDir(parent)
	if len(names) != 6 {
		t.Errorf("left: %v", names)
	}
}

func TestImageWithoutLayers(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "nothing:1", image(t, here))
	dir, clean := target(t)
	if _, err := puller(t, nil).Pull(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	clean("root")
}
