package soci_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestUnpackLayer extracts the layers of an image concurrently like a
// snapshotter, with the upper ones waiting for the lower ones.
func TestUnpackLayer(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "stack:1", image(t, here,
		gzLayer(tarOf(t, "etc/", "", "etc/a", "one", "etc/b", "one")),
		gzLayer(goTree(t, "strings", "fmt")),
		gzLayer(tarOf(t, "etc/.wh.b", "", "etc/c", "three"))))
	p := puller(t, nil)
	img, err := p.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if img.Reference != ref || img.Platform != here || len(img.Layers) != 3 || len(img.Config.RootFS.DiffIDs) != 3 || len(img.Manifest) != len("sha256:")+64 {
		t.Fatalf("%+v", img)
	}
	parent := t.TempDir()
	dirs := []string{filepath.Join(parent, "0"), filepath.Join(parent, "1"), filepath.Join(parent, "2")}
	ready := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
	results := make([]*soci.UnpackedLayer, 3)
	var wg sync.WaitGroup
	var compressed, tar atomic.Int64
	for i := range dirs {
		wg.Go(func() {
			lower := func(ctx context.Context) ([]string, error) {
				var below []string
				for k := i - 1; k >= 0; k-- {
					<-ready[k]
					below = append(below, dirs[k])
				}
				return below, nil
			}
			notify := func(c, n int64) { compressed.Add(c); tar.Add(n) }
			defer close(ready[i])
			res, err := p.UnpackLayer(t.Context(), img, i, dirs[i], soci.UnpackOptions{Lower: lower, Notify: notify})
			if err != nil {
				t.Error(err)
				return
			}
			results[i] = res
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var size, tarSize int64
	for i, r := range results {
		size, tarSize = size+r.CompressedBytes, tarSize+r.TarBytes
		if r.Digest != img.Layers[i].Digest || r.DiffID != img.Layers[i].DiffID || r.CompressedBytes != img.Layers[i].Size || r.Dir != dirs[i] {
			t.Errorf("layer %d: %+v of %+v", i, r, img.Layers[i])
		}
		bytes, inodes := used(t, dirs[i])
		if r.DiskBytes != bytes || r.Inodes != inodes {
			t.Errorf("layer %d: usage %d bytes, %d inodes; found %d and %d", i, r.DiskBytes, r.Inodes, bytes, inodes)
		}
	}
	if compressed.Load() != size || tar.Load() != tarSize {
		t.Errorf("%d and %d bytes were reported, want %d and %d", compressed.Load(), tar.Load(), size, tarSize)
	}
	sameTree(t, "strings", filepath.Join(dirs[1], "go", "strings"))
	if fi, err := os.Lstat(filepath.Join(dirs[2], "etc", "b")); os.Geteuid() == 0 && (err != nil || fi.Mode()&fs.ModeCharDevice == 0) {
		t.Errorf("whiteout: %v, %v", fi, err)
	}
}

// used counts blocks and inodes of a directory without hard links.
func used(t *testing.T, dir string) (bytes, inodes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			t.Skip("needs a system with struct stat")
		}
		bytes += st.Blocks * 512 // the unit of struct stat
		inodes++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes, inodes
}

func TestUnpackLayerFails(t *testing.T) {
	o := origin(t, testorigin.Options{})
	lying := gzLayer(tarOf(t, "a", "b"))
	lying.diffID.Algorithm, lying.diffID.Hex = "sha256", "0123456789012345678901234567890123456789012345678901234567890123"
	ref := push(t, o, "bad:1", image(t, here, gzLayer(tarOf(t, "x", "y")), lying))
	p := puller(t, nil)
	if _, err := p.Resolve(t.Context(), "Not a reference"); err == nil {
		t.Error("a malformed reference was accepted")
	}
	if _, err := p.Resolve(t.Context(), ref+"-missing"); !errors.Is(err, soci.ErrNotFound) {
		t.Error(err)
	}
	img, err := p.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	dir := filepath.Join(parent, "layer")
	none := func(want string) {
		t.Helper()
		if names, _ := os.ReadDir(parent); len(names) > 0 {
			t.Errorf("%s left %v", want, names)
		}
	}
	if _, err := p.UnpackLayer(t.Context(), img, 2, dir, soci.UnpackOptions{}); err == nil {
		t.Error("a layer that does not exist was accepted")
	}
	if _, err := p.UnpackLayer(t.Context(), img, 0, filepath.Join(dir, "deep"), soci.UnpackOptions{}); !errors.Is(err, soci.ErrTarget) {
		t.Error(err)
	}
	none("bad targets")
	if _, err := p.UnpackLayer(t.Context(), img, 1, dir, soci.UnpackOptions{}); !errors.Is(err, soci.ErrDigest) {
		t.Error(err)
	}
	none("a wrong DiffID")
	why := errors.New("the layer below failed")
	lower := func(context.Context) ([]string, error) { return nil, why }
	if _, err := p.UnpackLayer(t.Context(), img, 0, dir, soci.UnpackOptions{Lower: lower}); !errors.Is(err, why) {
		t.Error(err)
	}
	none("a failed lower layer")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := p.UnpackLayer(ctx, img, 0, dir, soci.UnpackOptions{}); !errors.Is(err, why) {
		t.Error(err)
	}
	none("a cancelled context")
	if _, err := p.UnpackLayer(t.Context(), img, 0, dir, soci.UnpackOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := p.UnpackLayer(t.Context(), img, 0, dir, soci.UnpackOptions{}); !errors.Is(err, soci.ErrTarget) {
		t.Errorf("an existing directory: %v", err)
	}
}
