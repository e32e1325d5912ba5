package untar

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// Merge moves an extracted layer onto the flattened tree in dir, which must be
// on the same file system, and removes the files that the layer hides. Files
// are renamed, not copied, so the directory of the layer has no useful content
// afterwards.
func Merge(ctx context.Context, dir string, l *Layer) error {
	if l.opened {
		return &Error{Err: errOpened}
	}
	dst, err := openTree(dir, false)
	if err != nil {
		return &Error{Err: err}
	}
	defer dst.close()
	src, err := openTree(l.Dir, false)
	if err != nil {
		return &Error{Err: err}
	}
	defer src.close()
	m := &merge{src: src, dst: dst, layer: l}
	if err := m.adoptLinks(ctx); err != nil {
		return err
	}
	return m.dir(ctx, ".", ".")
}

// Settle completes the lowest layer of an image. It fails if the layer has a
// hard link whose target must be in a lower layer.
func (l *Layer) Settle() error {
	if len(l.lower) > 0 {
		ln := l.lower[0]
		return &Error{Entry: l.linkEntry(ln), Err: l.noTarget(ln)}
	}
	return nil
}

// errOpened is the error for a layer from OpenLayer, which knows only its
// directory.
var errOpened = errors.New("a layer from OpenLayer can only be a lower layer")

func (l *Layer) noTarget(ln link) error {
	return fmt.Errorf("%w: hard link to %q, which does not exist", ErrFormat, tarfile.Shorten(l.linkTarget(ln)))
}

type merge struct {
	src, dst *tree
	layer    *Layer
}

// adoptLinks creates the layer's hard links to lower files inside the directory
// of the layer. They are then moved like any file, and a whiteout of the target
// in the same layer cannot remove it first.
func (m *merge) adoptLinks(ctx context.Context) error {
	l := m.layer
	for _, ln := range l.lower {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		target := l.linkTarget(ln)
		tree := m.src
		from, found, err := m.src.lookupFile(target) // the target may be an earlier link of this list
		if err == nil && !found {
			tree = m.dst
			from, found, err = m.dst.lookupFile(target)
		}
		if err == nil && !found {
			err = l.noTarget(ln)
		}
		if err == nil {
			err = tree.link(from, m.src, l.linkPath(ln))
		}
		if err != nil {
			return &Error{Entry: l.linkEntry(ln), Err: err}
		}
	}
	return nil
}

// dir merges the directory at the physical path from in the layer into the
// directory at the physical path to in the tree. Both must exist.
func (m *merge) dir(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	srcStat, err := m.open(m.src, from)
	if err != nil {
		return &Error{Entry: from, Err: err}
	}
	dstStat, err := m.open(m.dst, to)
	if err != nil {
		return &Error{Entry: to, Err: err}
	}
	if err := m.hide(ctx, from, to); err != nil {
		return &Error{Entry: to, Err: err}
	}
	err = m.src.forEach(ctx, from, func(name string) error { return m.child(ctx, join(from, name), join(to, name)) })
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return wrap(from, err)
	}
	// The metadata is set last, because moving children changes the times and
	// may need more rights.
	if m.layer.isImplicit(from) {
		err = m.layer.setDir(m.dst, to, dstStat, nil)
	} else {
		err = m.layer.setDir(m.dst, to, srcStat, func(fd int) error { return copyXattrs(m.src, from, fd) })
	}
	if err != nil {
		return &Error{Entry: to, Err: err}
	}
	return nil
}

// open returns the status of a directory and gives its owner all rights in it.
func (m *merge) open(t *tree, path string) (unix.Stat_t, error) {
	st, err := t.lstat(path)
	if err == nil {
		err = t.unlock(path)
	}
	return st, err
}

// hide removes the names that the layer's whiteouts and opaque mark hide in one
// directory.
func (m *merge) hide(ctx context.Context, from, to string) error {
	remove := func(name string) error { return m.dst.removeAll(ctx, join(to, name), nil) }
	if m.layer.isOpaque(from) {
		return m.dst.forEach(ctx, to, remove)
	}
	dir, ok := m.layer.dirs.find(from)
	if !ok {
		return nil
	}
	for _, w := range m.layer.whiteoutsOf(dir) {
		if err := remove(string(m.layer.dirs.names.bytes(w.name))); err != nil {
			return err
		}
	}
	return nil
}

// child moves one entry of a directory.
func (m *merge) child(ctx context.Context, from, to string) error {
	st, err := m.src.lstat(from)
	if err != nil {
		return &Error{Entry: from, Err: err}
	}
	have, err := m.dst.lstat(to)
	exists := err == nil
	if err != nil && err != unix.ENOENT {
		return &Error{Entry: to, Err: err}
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && exists && have.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m.dir(ctx, from, to)
	}
	if isDir && exists && have.Mode&unix.S_IFMT == unix.S_IFLNK && m.layer.isImplicit(from) {
		// The link is not followed, because overlayfs, and so every container
		// of the image, shows the directory.
		m.layer.notes.add("a directory that no entry describes replaces a link of a lower layer, as in a container", to)
	}
	if exists && (isDir || have.Mode&unix.S_IFMT == unix.S_IFDIR) {
		err = m.dst.removeAll(ctx, to, nil)
	}
	if exists && err == nil && have.Ino == st.Ino && have.Dev == st.Dev {
		return nil // rename does nothing if both names are links of one file
	}
	if err == nil || err == unix.ENOENT {
		err = m.move(from, to, isDir, st)
	}
	if err != nil {
		return &Error{Entry: to, Err: err}
	}
	return nil
}

// move renames from to to. Moving a directory changes its "..", so the mode of
// the directory must allow its owner to write.
func (m *merge) move(from, to string, isDir bool, st unix.Stat_t) error {
	if isDir && st.Mode&0o700 != 0o700 {
		if err := m.src.unlock(from); err != nil {
			return err
		}
	}
	if err := m.src.rename(from, m.dst, to); err != nil {
		return err
	}
	if isDir && st.Mode&0o700 != 0o700 {
		return m.layer.setDir(m.dst, to, st, nil)
	}
	return nil
}

// RemoveAll removes dir and everything in it. Unlike os.RemoveAll, it also
// removes the content of directories whose mode locks out the owner.
func RemoveAll(dir string) error {
	parent, err := openTree(filepath.Dir(dir), false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &Error{Err: err}
	}
	defer parent.close()
	if err := parent.removeAll(context.Background(), filepath.Base(dir), nil); err != nil {
		return &Error{Entry: dir, Err: err}
	}
	return nil
}
