package soci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// layer is a layer made by the test, whose descriptor may be wrong.
type layer struct {
	data      []byte // as stored
	tar       []byte
	mediaType types.MediaType
	size      int64   // 0 means the true size
	diffID    v1.Hash // zero means the true DiffID
}

func (l *layer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.data))
	return h, err
}

func (l *layer) DiffID() (v1.Hash, error) {
	if l.diffID.Hex != "" {
		return l.diffID, nil
	}
	h, _, err := v1.SHA256(bytes.NewReader(l.tar))
	return h, err
}

func (l *layer) Size() (int64, error) {
	if l.size != 0 {
		return l.size, nil
	}
	return int64(len(l.data)), nil
}

func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.data)), nil
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.tar)), nil
}

func (l *layer) MediaType() (types.MediaType, error) {
	if l.mediaType == "" {
		return types.OCILayer, nil
	}
	return l.mediaType, nil
}

func gz(data []byte) []byte {
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	w.Write(data)
	w.Close()
	return buf.Bytes()
}

func zstdOf(data []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// gzLayer returns a gzip layer with a correct descriptor.
func gzLayer(t []byte) *layer { return &layer{tar: t, data: gz(t)} }

// tarOf packs small files. A name that ends in "/" makes a directory, a body
// that starts with "->" a symbolic link.
func tarOf(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{
			Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), ModTime: time.Unix(1_700_000_000, 0),
			Uid: os.Geteuid(), Gid: os.Getegid(),
		}
		body := pairs[i+1]
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		} else if target, ok := strings.CutPrefix(body, "->"); ok {
			h.Typeflag, h.Linkname, h.Size, body = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
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
			h.Name = "go/" + h.Name
			h.Format = tar.FormatPAX                  // keeps nanoseconds
			h.Uid, h.Gid = os.Geteuid(), os.Getegid() // an ordinary user can unpack it without a warning
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

// sameTree compares a directory of the Go tree with its unpacked copy.
func sameTree(t *testing.T, folder, got string) (files int) {
	t.Helper()
	want := filepath.Join(goroot(t), "src", folder)
	err := filepath.WalkDir(want, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(want, p)
		q := filepath.Join(got, rel)
		a, err := os.Lstat(p)
		if err != nil {
			return err
		}
		b, err := os.Lstat(q)
		if err != nil {
			return err
		}
		if a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s: %v %v, want %v %v", q, b.Mode(), b.ModTime(), a.Mode(), a.ModTime())
		}
		if !a.Mode().IsRegular() {
			return nil
		}
		files++
		x, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		y, err := os.ReadFile(q)
		if err != nil {
			return err
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs", q)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return files
}

// medium is an image of several layers of real files, about 6 MB of tar, made
// once. It uses folders with large files, because many small files would only
// cost time.
var medium = sync.OnceValue(func() [][]byte {
	t := &testing.B{}
	return [][]byte{
		goTree(t, "net/http", "os/exec"),
		goTree(t, "unicode", "strings"),
		goTree(t, "encoding/json", "encoding/gob", "fmt"),
	}
})

// image builds an image for platform, by default linux/amd64.
func image(t testing.TB, platform string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		mt, _ := l.MediaType()
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mt}); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// here is the platform of the machine.
const here = "linux/" + runtime.GOARCH

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

func remoteOptions(t testing.TB) []remote.Option {
	return []remote.Option{
		remote.WithContext(t.Context()),
		remote.WithAuth(&authn.Basic{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}),
	}
}

// push stores an image under ref, which it returns in full.
func push(t testing.TB, o *testorigin.Origin, ref string, img v1.Image) string {
	t.Helper()
	r, err := name.ParseReference(o.Host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img, remoteOptions(t)...); err != nil {
		t.Fatal(err)
	}
	o.Reset() // the counters then cover only the pull
	return r.Name()
}

// rawManifest is a manifest with bytes chosen by the test.
type rawManifest struct {
	data      []byte
	mediaType types.MediaType
}

func (r rawManifest) RawManifest() ([]byte, error)        { return r.data, nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return r.mediaType, nil }

// pushRaw stores a manifest unchanged.
func pushRaw(t testing.TB, o *testorigin.Origin, ref string, mediaType types.MediaType, doc any) string {
	t.Helper()
	data, ok := doc.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
	}
	r, err := name.ParseReference(o.Host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(r, rawManifest{data, mediaType}, remoteOptions(t)...); err != nil {
		t.Fatal(err)
	}
	o.Reset()
	return r.Name()
}

// hardLink returns an archive with a hard link whose target does not exist.
func hardLink(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "nowhere"}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return buf.Bytes()
}

// exampleTar returns an archive of one file.
func exampleTar(name, body string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Uid: os.Geteuid(), Gid: os.Getegid()})
	io.WriteString(w, body)
	w.Close()
	return buf.Bytes()
}

// goroot asks the go command for the path of its tree.
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
