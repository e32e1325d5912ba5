package untar

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Overlay writes the layer's whiteouts, opaque directories and links to lower
// files in the form of overlayfs: a 0:0 character device for each whiteout, an
// attribute on each opaque directory, and a copy of each lower file that a hard
// link refers to. lower holds the lower layers, nearest first. Each of them
// must come from [OpenLayer], or its Overlay must have been called.
func (l *Layer) Overlay(ctx context.Context, form Form, lower []*Layer) error {
	if l.opened {
		return &Error{Err: errOpened}
	}
	t, err := openTree(l.Dir, false)
	if err != nil {
		return &Error{Err: err}
	}
	defer t.close()
	below, err := openStack(lower, 0)
	if err != nil {
		return &Error{Err: err}
	}
	defer below.close()
	l.form = form
	o := &overlay{layer: l, tree: t, below: below}
	if err := o.links(ctx, lower); err != nil {
		return err
	}
	if err := o.inherit(ctx); err != nil {
		return err
	}
	return o.writeMarks(ctx)
}

// overlay is the state of one call of Overlay.
type overlay struct {
	layer *Layer
	tree  *tree
	below *stack
}

// links creates the hard links whose targets are in lower layers.
func (o *overlay) links(ctx context.Context, lower []*Layer) error {
	if len(o.layer.lower) == 0 {
		return nil
	}
	// In this view the layer hides no lower file yet, because it may link to
	// files that its own whiteouts remove.
	view, err := openStack(append([]*Layer{o.layer}, lower...), 1)
	if err != nil {
		return &Error{Err: err}
	}
	defer view.close()
	for _, ln := range o.layer.lower {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := o.link(ctx, view, ln); err != nil {
			return &Error{Entry: o.layer.linkEntry(ln), Err: err}
		}
	}
	return nil
}

// link creates a hard link to a lower file as overlayfs does. It copies the
// file up to the file's own path and links the copy. If the layer removes the
// file at that path, link copies the file straight to the path of the link.
func (o *overlay) link(ctx context.Context, view *stack, ln link) error {
	path := o.layer.linkPath(ln)
	phys, at, err := view.lookFile(o.layer.linkTarget(ln))
	switch {
	case errors.Is(err, unix.ENOENT):
		return o.layer.noTarget(ln)
	case err != nil:
		return err
	}
	if at.layer > 0 {
		from := view.trees[at.layer]
		if o.layer.hides(phys) {
			return o.keepDir(path, func() error { return o.copyUp(ctx, from, phys, path, at) })
		}
		if err := o.parents(view, phys); err != nil {
			return err
		}
		err := o.keepDir(phys, func() error { return o.copyUp(ctx, from, phys, phys, at) })
		if err != nil {
			return err
		}
	}
	return o.keepDir(path, func() error { return o.tree.link(phys, o.tree, path) })
}

// parents creates the directories above path that only lower layers have.
func (o *overlay) parents(view *stack, path string) error {
	dir, _ := split(path)
	if dir == "." {
		return nil
	}
	at, err := view.lookup(dir)
	if err != nil || at.layer == 0 {
		return err
	}
	if err := o.parents(view, dir); err != nil {
		return err
	}
	err = o.keepDir(dir, func() error {
		if err := o.tree.mkdir(dir, 0o700); err != nil {
			return err
		}
		st, err := o.tree.lstat(dir)
		if err == nil {
			o.layer.usage.add(&st)
		}
		return err
	})
	if err != nil {
		return err
	}
	view.reset()
	return o.adopt(view.trees[at.layer], dir, at.st)
}

// inherit copies the metadata of lower directories to the layer's directories
// that no entry describes, because overlayfs shows the metadata of the
// uppermost directory.
func (o *overlay) inherit(ctx context.Context) error {
	t := o.layer.dirs
	for i := range t.nodes {
		if t.nodes[i].flags&(dirExplicit|dirNamed|dirDead) != 0 {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		dir := t.path(dirID(i)) //nolint:gosec // see dirTable.add
		if o.layer.hides(dir) {
			continue
		}
		at, err := o.below.lookup(dir)
		if err == nil && at.isDir() {
			err = o.adopt(o.below.trees[at.layer], dir, at.st)
		}
		if err != nil && err != unix.ENOENT {
			return &Error{Entry: dir, Err: err}
		}
	}
	return nil
}

// adopt copies the metadata of a lower directory, of which st is the status, to
// the directory at the same path in the layer.
func (o *overlay) adopt(from *tree, dir string, st unix.Stat_t) error {
	return o.layer.usage.measure(o.tree, dir, func() error {
		return o.layer.setDir(o.tree, dir, st, func(fd int) error {
			err := copyXattrs(from, dir, fd)
			if err == unix.EACCES { // we own it, but its mode locks us out
				o.layer.notes.add("attributes of a lower directory not copied ("+err.Error()+")", dir)
				err = nil
			}
			return err
		})
	})
}

// hides reports whether the layer removes path of the layers below it.
func (l *Layer) hides(path string) bool {
	for path != "." {
		dir, _ := split(path)
		if l.isOpaque(dir) || l.hasWhiteout(path) {
			return true
		}
		path = dir
	}
	return false
}

// writeMarks writes the whiteouts and opaque marks.
func (o *overlay) writeMarks(ctx context.Context) error {
	l, t := o.layer, o.layer.dirs
	if l.isOpaque(".") {
		// Overlayfs always merges the roots of its layers, so each name is
		// hidden.
		err := o.keepDir("x", func() error {
			return o.below.forEach(ctx, ".", func(name string) error { return wrapIfErr(name, o.addWhiteout(name)) })
		})
		if err != nil {
			return wrap(".", err)
		}
	}
	for left := l.whiteouts; len(left) > 0; {
		id := left[0].dir
		in := l.whiteoutsOf(id)
		left = left[len(in):]
		dir := t.path(id)
		if merges, err := o.merges(dir); err != nil {
			return &Error{Entry: dir, Err: err}
		} else if !merges {
			continue
		}
		err := o.keepDir(join(dir, "x"), func() error {
			for _, w := range in {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				path := join(dir, string(t.names.bytes(w.name)))
				if err := o.addWhiteout(path); err != nil {
					return &Error{Entry: path, Err: err}
				}
			}
			return nil
		})
		if err != nil {
			return wrap(dir, err)
		}
	}
	for i := range t.nodes {
		if i == int(rootDir) || t.nodes[i].flags&(dirOpaque|dirDead) != dirOpaque {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		dir := t.path(dirID(i)) //nolint:gosec // see dirTable.add
		if err := l.usage.measure(o.tree, dir, func() error { return o.markOpaque(dir) }); err != nil {
			return &Error{Entry: dir, Err: err}
		}
	}
	return nil
}

// wrapIfErr is wrap for an error that may be nil.
func wrapIfErr(entry string, err error) error {
	if err == nil {
		return nil
	}
	return wrap(entry, err)
}

// wrap adds the entry to an error, unless the error has one.
func wrap(entry string, err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Entry: entry, Err: err}
}

// merges reports whether overlayfs merges a directory of the layer with a lower
// directory. Any other directory needs no whiteouts, and overlayfs would show
// them as devices.
func (o *overlay) merges(dir string) (bool, error) {
	if dir == "." {
		return true, nil
	}
	if o.layer.hides(dir) || o.layer.isOpaque(dir) {
		return false, nil
	}
	at, err := o.below.lookup(dir)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil && at.isDir(), err
}

// addWhiteout hides path in lower layers. A file of the layer at path hides it
// already; a directory at path is flagged as opaque.
func (o *overlay) addWhiteout(path string) error {
	st, err := o.tree.lstat(path)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		id, err := o.layer.dirs.ensure(path)
		if err == nil {
			o.layer.dirs.nodes[id].flags |= dirOpaque
		}
		return err
	case err != unix.ENOENT:
		return err
	}
	err = o.tree.at(path, func(dirfd int, base string) error {
		return unix.Mknodat(dirfd, base, unix.S_IFCHR, 0)
	})
	switch err {
	case nil:
		o.layer.usage.inodes.Add(1)
	case unix.EPERM: // a Linux before 5.8, or a seccomp filter
		o.layer.notes.add("whiteout left out (not permitted here)", path)
		err = nil
	}
	return err
}

func (o *overlay) markOpaque(dir string) error {
	name := o.layer.form.prefix() + "opaque"
	return o.keepMode(dir, func() error {
		fd, err := o.tree.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = unix.Fsetxattr(fd, name, []byte("y"), 0)
		if err == unix.ENOTSUP || err == unix.EPERM {
			o.layer.notes.add("attribute "+name+" not set ("+err.Error()+")", dir)
			err = nil
		}
		return err
	})
}

// keepDir runs fn, which adds names to the parent of path, restores the times
// and mode of the parent, and adds its growth to the usage of the layer.
func (o *overlay) keepDir(path string, fn func() error) error {
	dir, _ := split(path)
	return o.layer.usage.measure(o.tree, dir, func() error { return o.keepMode(dir, fn) })
}

// keepMode gives the owner of dir all rights, runs fn, and restores the
// metadata of dir.
func (o *overlay) keepMode(dir string, fn func() error) error {
	st, err := o.tree.lstat(dir)
	if err == nil {
		err = o.tree.unlock(dir)
	}
	if err == nil {
		err = fn()
	}
	if err == nil {
		err = o.layer.setDir(o.tree, dir, st, nil)
	}
	return err
}

// setDir sets owner, mode and times of a directory. In between it calls more,
// unless that is nil, with the descriptor of the directory.
func (l *Layer) setDir(t *tree, path string, st unix.Stat_t, more func(fd int) error) error {
	// Without privileges the mode of a directory may lock out even its owner.
	if err := t.unlock(path); err != nil {
		return err
	}
	fd, err := t.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Uid != st.Uid || now.Gid != st.Gid {
		err := unix.Fchown(fd, int(st.Uid), int(st.Gid))
		if err == unix.EPERM || err == unix.EINVAL {
			l.notes.add(noteOwner, path)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if more != nil {
		if err := more(fd); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return err
	}
	return futimes(fd, []unix.Timespec{st.Atim, st.Mtim}, func() error {
		return t.at(path, func(dirfd int, base string) error {
			return unix.UtimesNanoAt(dirfd, base, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		})
	})
}

// copyXattrs copies the extended attributes of a directory.
func copyXattrs(src *tree, path string, fd int) error {
	from, err := src.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return xattrsByFd(from, fd)
}

// xattrsByFd copies extended attributes, except the attributes of overlayfs and
// those that the process may not set.
func xattrsByFd(from, to int) error {
	names, err := listXattrs(from)
	for _, name := range names {
		if steersOverlay(name) {
			continue // describes the source layer, not the directory
		}
		value, err := getXattr(from, name)
		if err == nil {
			err = unix.Fsetxattr(to, name, []byte(value), 0)
		}
		if err != nil && err != unix.EPERM && err != unix.ENOTSUP && err != unix.ENODATA {
			return err
		}
	}
	return err
}

func getXattr(fd int, name string) (string, error) {
	buf := make([]byte, 256) // bytes; enough for most attributes
	n, err := unix.Fgetxattr(fd, name, buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10) // bytes: XATTR_SIZE_MAX
		n, err = unix.Fgetxattr(fd, name, buf)
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func listXattrs(fd int) ([]string, error) {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		if err == unix.ENOTSUP {
			err = nil
		}
		return nil, err
	}
	buf := make([]byte, n)
	if n, err = unix.Flistxattr(fd, buf); err != nil {
		return nil, err
	}
	var names []string
	for rest := buf[:n]; len(rest) > 0; {
		end := slices.Index(rest, 0)
		if end < 0 {
			break
		}
		names = append(names, string(rest[:end]))
		rest = rest[end+1:]
	}
	return names, nil
}
