package csi

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/tree"
)

// FS returns the bucket as a file system of the standard library. All its requests run under ctx. Its files are also
// io.ReaderAt and io.Seeker; reading a file that was replaced since it was opened fails with [ErrChanged].
func (b *Bucket) FS(ctx context.Context) iofs.FS { return &bucketFS{ctx: ctx, core: b.core} }

// bucketFS is a bucket for as long as a context lasts.
type bucketFS struct {
	ctx  context.Context //nolint:containedctx // io/fs has no place for a context
	core *fs.FS
}

var (
	_ iofs.StatFS    = (*bucketFS)(nil)
	_ iofs.ReadDirFS = (*bucketFS)(nil)
	_ io.ReaderAt    = (*file)(nil)
	_ io.Seeker      = (*file)(nil)
)

// pathError is err as io/fs wants it: with operation and path outside, so without the core's.
func pathError(op, name string, err error) error {
	var inner *fs.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return &iofs.PathError{Op: op, Path: name, Err: err}
}

// Open implements io/fs.FS.
func (f *bucketFS) Open(name string) (iofs.File, error) {
	if !iofs.ValidPath(name) {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: iofs.ErrInvalid}
	}
	h, a, err := f.core.OpenPath(f.ctx, name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	base := &handle{fs: f, name: name, h: h, info: info{path.Base(name), a}}
	if a.Kind == tree.Dir {
		return &dir{handle: base}, nil
	}
	return &file{handle: base}, nil
}

// Stat implements io/fs.StatFS.
func (f *bucketFS) Stat(name string) (iofs.FileInfo, error) {
	if !iofs.ValidPath(name) {
		return nil, &iofs.PathError{Op: "stat", Path: name, Err: iofs.ErrInvalid}
	}
	a, err := f.core.Stat(f.ctx, name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info{path.Base(name), a}, nil
}

// ReadDir implements io/fs.ReadDirFS.
func (f *bucketFS) ReadDir(name string) ([]iofs.DirEntry, error) {
	opened, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	d, ok := opened.(*dir)
	if !ok {
		return nil, &iofs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b iofs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// handle is what file and dir have in common.
type handle struct {
	fs   *bucketFS
	name string
	h    uint64
	info info

	mu     sync.Mutex // guards the position and closed
	off    int64
	closed bool
}

// Stat implements io/fs.File.
func (h *handle) Stat() (iofs.FileInfo, error) { return h.info, nil }

// end notes that the handle is closed, and fails the second time. The caller holds no lock.
func (h *handle) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return &iofs.PathError{Op: "close", Path: h.name, Err: iofs.ErrClosed}
	}
	h.closed = true
	return nil
}

// file is an open file.
type file struct{ *handle }

// Read implements io.Reader.
func (f *file) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.readAt(p, f.off, f.closed)
	f.off += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	n, err := f.readAt(p, off, closed)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *file) readAt(p []byte, off int64, closed bool) (int, error) {
	if closed {
		return 0, &iofs.PathError{Op: "read", Path: f.name, Err: iofs.ErrClosed}
	}
	n, err := f.fs.core.Read(f.fs.ctx, f.h, p, off)
	if err != nil {
		return n, pathError("read", f.name, err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Seek implements io.Seeker.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	base := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.off
	case io.SeekEnd:
		base = f.info.a.Size
	default:
		base = math.MinInt64
	}
	if base < 0 || offset > math.MaxInt64-base || base+offset < 0 {
		return 0, &iofs.PathError{Op: "seek", Path: f.name, Err: iofs.ErrInvalid}
	}
	f.off = base + offset
	return f.off, nil
}

// Close implements io/fs.File.
func (f *file) Close() error {
	if err := f.end(); err != nil {
		return err
	}
	f.fs.core.Release(f.h)
	return nil
}

// dir is an open directory.
type dir struct{ *handle }

// Read implements io/fs.File.
func (d *dir) Read([]byte) (int, error) {
	return 0, &iofs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// ReadDir implements io/fs.ReadDirFile. With n > 0 it streams: memory does not grow with the directory.
func (d *dir) ReadDir(n int) ([]iofs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &iofs.PathError{Op: "readdir", Path: d.name, Err: iofs.ErrClosed}
	}
	var list []iofs.DirEntry
	for n <= 0 || len(list) < n {
		before := d.off
		err := d.fs.core.ReadDir(d.fs.ctx, d.h, uint64(d.off), fs.Attrs, func(e *fs.DirEntry) bool { //nolint:gosec // never negative
			if n > 0 && len(list) == n {
				return false
			}
			d.off = int64(e.Off) //nolint:gosec // counts entries
			if e.Name != "." && e.Name != ".." {
				list = append(list, iofs.FileInfoToDirEntry(info{e.Name, e.Attr}))
			}
			return true
		})
		if err != nil {
			return list, pathError("readdir", d.name, err)
		}
		if d.off == before {
			break
		}
	}
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

// Close implements io/fs.File.
func (d *dir) Close() error {
	if err := d.end(); err != nil {
		return err
	}
	d.fs.core.ReleaseDir(d.h)
	return nil
}

// info is what stat shows.
type info struct {
	name string
	a    fs.Attr
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.a.Size }
func (i info) ModTime() time.Time { return i.a.ModTime }
func (i info) IsDir() bool        { return i.a.Kind == tree.Dir }
func (i info) Sys() any           { return nil }

// Mode implements io/fs.FileInfo.
func (i info) Mode() iofs.FileMode {
	m := iofs.FileMode(i.a.Mode) & iofs.ModePerm
	if i.IsDir() {
		m |= iofs.ModeDir
	}
	return m
}
