package untar

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// Overlay writes what the layer says about lower ones in the form of overlayfs:
// a 0:0 character device for each whiteout, an attribute on each opaque
// directory, and copies for hard links to files of the layers in lower (nearest
// first).
func (l *Layer) Overlay(ctx context.Context, form Form, lower []*Layer) error {
	t, err := openTree(l.Dir, false)
	if err != nil {
		return &Error{Err: err}
	}
	defer t.close()
	for _, ln := range l.lower {
		if err := l.copyUp(ctx, t, ln, lower); err != nil {
			return &Error{Entry: ln.entry, Err: err}
		}
	}
	if err := l.inheritDirs(t, lower); err != nil {
		return err
	}
	opaque := maps.Clone(l.opaque)
	whiteouts := maps.Clone(l.whiteouts)
	if opaque["."] {
		// Overlayfs always merges the roots of its layers: hide name by name.
		delete(opaque, ".")
		for _, below := range lower {
			names, err := topNames(below)
			if err != nil {
				return &Error{Err: err}
			}
			whiteouts["."] = append(slices.Clip(whiteouts["."]), names...)
		}
	}
	for dir, names := range whiteouts {
		for _, name := range names {
			if err := l.overlayWhiteout(t, join(dir, name), opaque); err != nil {
				return &Error{Entry: join(dir, name), Err: err}
			}
		}
	}
	for dir := range opaque {
		if err := l.markOpaque(t, dir, form); err != nil {
			return &Error{Entry: dir, Err: err}
		}
	}
	return nil
}

// inheritDirs gives directories that no entry describes the metadata that they
// have in the layers below: overlayfs shows the uppermost directory's.
func (l *Layer) inheritDirs(t *tree, lower []*Layer) error {
	for dir := range l.implicit {
		for _, below := range lower {
			stop, err := inheritDir(t, dir, below)
			if err != nil {
				return &Error{Entry: dir, Err: err}
			}
			if stop || below.hides(dir) {
				break
			}
		}
	}
	return nil
}

// inheritDir reports whether below has something at dir; a directory's metadata
// is copied.
func inheritDir(t *tree, dir string, below *Layer) (bool, error) {
	from, err := openTree(below.Dir, false)
	if err != nil {
		return false, err
	}
	defer from.close()
	st, err := from.lstat(dir)
	switch {
	case err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP:
		return false, nil
	case err != nil:
		return false, err
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return true, nil
	}
	return true, setDir(t, dir, st, func(fd int) error { return copyXattrs(from, dir, fd) })
}

// hides reports whether the layer removes path of the layers below it.
func (l *Layer) hides(path string) bool {
	for path != "." {
		dir, base := split(path)
		if l.opaque[dir] || slices.Contains(l.whiteouts[dir], base) {
			return true
		}
		path = dir
	}
	return false
}

func topNames(l *Layer) ([]string, error) {
	t, err := openTree(l.Dir, false)
	if err != nil {
		return nil, err
	}
	defer t.close()
	return t.names(".")
}

// overlayWhiteout hides path unless the layer itself has something there: a
// file hides by itself, a directory must become opaque to do so.
func (l *Layer) overlayWhiteout(t *tree, path string, opaque map[string]bool) error {
	st, err := t.lstat(path)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		opaque[path] = true
		return nil
	case err != unix.ENOENT:
		return err
	}
	return l.keepTimes(t, path, func() error {
		err := t.at(path, func(dirfd int, base string) error {
			return unix.Mknodat(dirfd, base, unix.S_IFCHR, 0)
		})
		if err == unix.EPERM {
			l.notes.add("whiteout left out (not permitted here)", path)
			err = nil
		}
		return err
	})
}

func (l *Layer) markOpaque(t *tree, dir string, form Form) error {
	name := "trusted.overlay.opaque"
	if form == UserXattr {
		name = "user.overlay.opaque"
	}
	fd, err := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Fsetxattr(fd, name, []byte("y"), 0)
	if err == unix.ENOTSUP || err == unix.EPERM {
		l.notes.add("attribute "+name+" not set ("+err.Error()+")", dir)
		err = nil
	}
	return err
}

// keepTimes runs fn, which adds a name to the parent of path, and puts the
// parent's times and mode back.
func (l *Layer) keepTimes(t *tree, path string, fn func() error) error {
	dir, _ := split(path)
	st, err := t.lstat(dir)
	if err == nil {
		err = t.unlock(dir)
	}
	if err == nil {
		err = fn()
	}
	if err == nil {
		err = setDir(t, dir, st, nil)
	}
	return err
}

// copyUp does what overlayfs does before it links a lower file: the file is
// copied into this layer, here under the name of the link alone.
func (l *Layer) copyUp(ctx context.Context, t *tree, ln link, lower []*Layer) error {
	if phys, found, err := t.lookupFile(ln.target); err != nil || found {
		if err == nil {
			err = l.keepTimes(t, ln.path, func() error { return t.link(phys, t, ln.path) })
		}
		return err
	}
	for _, below := range lower {
		from, err := openTree(below.Dir, false)
		if err != nil {
			return err
		}
		phys, found, err := from.lookupFile(ln.target)
		if err == nil && found {
			err = l.keepTimes(t, ln.path, func() error { return copyFile(ctx, from, phys, t, ln.path) })
		}
		from.close()
		if err != nil || found {
			return err
		}
	}
	return noTarget(ln)
}

// copyFile copies a regular file with its metadata.
func copyFile(ctx context.Context, src *tree, from string, dst *tree, to string) error {
	in, err := src.open(from, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: hard link to a lower file that is not regular", ErrFormat)
	}
	out, err := dst.open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	for left := st.Size; left > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := retry(func() (int, error) { return unix.CopyFileRange(in, nil, out, nil, int(min(left, 1<<30)), 0) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		left -= int64(n)
	}
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&0o7777); err != nil {
		return err
	}
	if err := xattrsByFd(in, out); err != nil {
		return err
	}
	return dst.at(to, func(dirfd int, base string) error {
		return unix.UtimesNanoAt(dirfd, base, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	})
}
