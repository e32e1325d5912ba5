package soci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/stage"
)

// BlobStore receives the blobs of an image while they are pulled: a containerd
// content store, or a [Layout]. Its methods are called concurrently.
type BlobStore interface {
	// Has reports whether the store has a blob.
	Has(ctx context.Context, d ocispec.Descriptor) (bool, error)
	// Create starts a blob. It returns nil if the store has the blob.
	Create(ctx context.Context, d ocispec.Descriptor) (BlobWriter, error)
	// Image is called when all blobs of an image are stored. reference is the
	// name that the image was pulled by.
	Image(ctx context.Context, reference string, manifest ocispec.Descriptor) error
}

// BlobWriter receives one blob, in order. Commit is called once digest and size
// are verified. Close is always called last, and discards an uncommitted blob.
type BlobWriter interface {
	io.WriteCloser
	Commit() error
}

// A BlobResumer is a [BlobStore] that may hold the first bytes of a blob whose
// writer was killed. With it, a pull resumes inside a layer; with any other
// store unfinished layers restart.
type BlobResumer interface {
	// Resume continues a blob behind its first n bytes, after writing them to
	// check. It fails if the store has fewer bytes, and returns nil if it has
	// the whole blob.
	Resume(ctx context.Context, d ocispec.Descriptor, n int64, check io.Writer) (BlobWriter, error)
}

// blobs adapts a BlobStore to [flow.Blobs].
type blobs struct{ store BlobStore }

// Create implements [flow.Blobs].
func (b blobs) Create(ctx context.Context, d ocispec.Descriptor) (flow.BlobWriter, error) {
	return b.store.Create(ctx, d)
}

// Resume implements [flow.Blobs].
func (b blobs) Resume(ctx context.Context, d ocispec.Descriptor, n int64, check io.Writer) (flow.BlobWriter, error) {
	store, ok := b.store.(BlobResumer)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return store.Resume(ctx, d, n, check)
}

// Layout is a [BlobStore] and [BlobResumer] in a directory: an OCI image layout
// (image-layout.md of the image spec), which skopeo, crane, ctr and others
// read.
type Layout struct {
	dir string
	mu  sync.Mutex // guards index.json
}

// OpenLayout opens or creates a layout in dir, whose parent must exist.
func OpenLayout(dir string) (*Layout, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o755); err != nil {
		return nil, fmt.Errorf("image layout: %w", err)
	}
	l := &Layout{dir: dir}
	l.sweep()
	marker := filepath.Join(dir, ocispec.ImageLayoutFile)
	if _, err := os.Lstat(marker); err == nil {
		return l, nil
	}
	data, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err == nil {
		err = replaceFile(marker, data)
	}
	if err != nil {
		return nil, fmt.Errorf("image layout: %w", err)
	}
	return l, nil
}

// sweep removes the unfinished blobs of killed processes that are older than
// stage.KeepDead.
func (l *Layout) sweep() {
	names, err := filepath.Glob(filepath.Join(stage.EscapeGlob(l.dir), "blobs", "*", tempBlob+"*"))
	if err != nil {
		return
	}
	for _, name := range names {
		if fi, err := os.Lstat(name); err != nil || time.Since(fi.ModTime()) < stage.KeepDead {
			continue
		}
		if f, err := stage.Lock(name); err == nil && f != nil {
			_ = errors.Join(os.Remove(name), f.Close()) // best effort: the layout does not depend on it
		}
	}
}

func (l *Layout) path(d ocispec.Descriptor) string {
	return filepath.Join(l.dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

// Has implements [BlobStore].
func (l *Layout) Has(_ context.Context, d ocispec.Descriptor) (bool, error) {
	if err := d.Digest.Validate(); err != nil {
		return false, err
	}
	fi, err := os.Lstat(l.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size, err
}

// Create implements [BlobStore].
func (l *Layout) Create(ctx context.Context, d ocispec.Descriptor) (BlobWriter, error) {
	if has, err := l.Has(ctx, d); has || err != nil {
		return nil, err
	}
	to := l.path(d)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return nil, err
	}
	f, err := stage.Lock(partialBlob(to))
	if err == nil && f == nil || errors.Is(err, fs.ErrNotExist) { // another writer holds the partial file, or has just removed it
		f, err = os.CreateTemp(filepath.Dir(to), tempBlob)
	}
	if err != nil {
		return nil, err
	}
	w := &layoutWriter{File: f, to: to}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// tempBlob starts the names of unfinished blobs.
const tempBlob = ".penstock-"

// partialBlob returns the name of the unfinished file of a blob. Its writer
// holds a lock on the file.
func partialBlob(to string) string {
	return filepath.Join(filepath.Dir(to), tempBlob+filepath.Base(to))
}

// Resume implements [BlobResumer].
func (l *Layout) Resume(ctx context.Context, d ocispec.Descriptor, n int64, check io.Writer) (_ BlobWriter, err error) {
	if has, err := l.Has(ctx, d); has || err != nil {
		return nil, err
	}
	to := l.path(d)
	if _, err := os.Lstat(partialBlob(to)); err != nil {
		return nil, err
	}
	f, err := stage.Lock(partialBlob(to))
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("another process writes %s", d.Digest)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close()) // the file stays for Create
		}
	}()
	if _, err := io.CopyN(check, f, n); err != nil {
		return nil, err
	}
	if err := f.Truncate(n); err != nil {
		return nil, err
	}
	return &layoutWriter{File: f, to: to}, nil
}

// layoutWriter is a blob under a temporary name.
type layoutWriter struct {
	*os.File
	to        string
	committed bool
}

// Commit implements [BlobWriter].
func (w *layoutWriter) Commit() error {
	if err := w.Chmod(0o644); err != nil {
		return err
	}
	if err := os.Rename(w.Name(), w.to); err != nil {
		return err
	}
	w.committed = true
	return nil
}

// Close implements [BlobWriter].
func (w *layoutWriter) Close() error {
	var err error
	if !w.committed { // while the lock is held, because afterwards another process may own the file
		err = os.Remove(w.Name())
	}
	return errors.Join(err, w.File.Close())
}

// Image implements [BlobStore]. It adds the manifest to index.json, with the
// reference as its ref.name.
func (l *Layout) Image(_ context.Context, reference string, manifest ocispec.Descriptor) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := filepath.Join(l.dir, ocispec.ImageIndexFile)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &index)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == reference
	})
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: reference}
	index.Manifests = append(index.Manifests, manifest)
	if data, err = json.Marshal(index); err != nil {
		return err
	}
	return replaceFile(name, data)
}

// replaceFile writes a file so that readers see it whole or not at all.
func replaceFile(name string, data []byte) error {
	return disk.Replace(name, disk.Options{
		Mode:  0o644,
		Temp:  tempBlob + "*",
		Check: func() error { return checkReplaceable(name) },
	}, disk.Bytes(data))
}

// checkReplaceable fails if the file at name is not a regular file. A link or a
// device was put there on purpose and must not be replaced.
func checkReplaceable(name string) error {
	st, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file (%v) and is not replaced: remove it, or give another place", name, st.Mode().Type())
	}
	return nil
}

// putBlob stores a small blob.
func putBlob(ctx context.Context, s BlobStore, d ocispec.Descriptor, data []byte) (err error) {
	w, err := s.Create(ctx, d)
	if err != nil || w == nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err = w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}
