package fs

import (
	"context"
	"syscall"

	"github.com/penstock/penstock/csi/internal/tree"
)

// This file is the way in for callers that name files by path, without a kernel that walks name by name. A path is as
// in io/fs: relative, slash-separated, "." is the root. One question to the store answers for the whole path: a key
// below a directory proves that the directory exists.

// Stat returns the attributes that a path shows now, without an inode number. It counts no lookup.
func (f *FS) Stat(ctx context.Context, path string) (Attr, error) {
	kind, obj, err := f.resolvePath(ctx, path)
	if err != nil {
		return Attr{}, &Error{"stat", path, err}
	}
	return f.attrOf(kind, obj), nil
}

// OpenPath opens what a path shows now: a file handle for Read and Release, or for a directory one for ReadDir and
// ReleaseDir. The attributes tell which.
func (f *FS) OpenPath(ctx context.Context, path string) (uint64, Attr, error) {
	kind, obj, err := f.resolvePath(ctx, path)
	if err != nil {
		return 0, Attr{}, &Error{"open", path, err}
	}
	n := &node{kind: kind, obj: obj} // outside the table: nobody looks it up by number
	if kind == tree.Dir {
		h, err := f.openDirNode(n)
		return h, f.attrOf(kind, obj), err
	}
	h, err := f.openNode(ctx, n)
	return h, f.attrOf(kind, obj), err
}

func (f *FS) resolvePath(ctx context.Context, path string) (tree.Kind, Object, error) {
	if path == "." {
		return tree.Dir, Object{Key: f.opts.Prefix}, nil
	}
	return f.resolve(ctx, f.opts.Prefix, path)
}

// openDirNode makes a handle for a directory.
func (f *FS) openDirNode(n *node) (uint64, error) {
	if err := f.share.open(dirCost); err != nil {
		return 0, &Error{"opendir", n.obj.Key, err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		f.share.release(dirCost)
		return 0, &Error{"opendir", n.obj.Key, syscall.ENODEV}
	}
	id := f.nextH
	f.nextH++
	f.dirs[id] = &dirHandle{node: n}
	return id, nil
}
