package untar

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenLayer returns the layer in a directory on which this or an earlier
// process has called [Layer.Overlay]. The layer can be a lower layer of
// [Layer.Overlay]: its whiteouts and opaque marks are read from the disk in the
// given form. It cannot be merged, because the directory does not tell which of
// its directories had no entry. OpenLayer leaves no descriptor open.
func OpenLayer(dir string, form Form) (*Layer, error) {
	t, err := openTree(dir, false)
	if err != nil {
		return nil, &Error{Err: err}
	}
	t.close()
	return &Layer{Dir: dir, form: form, opened: true}, nil
}

// stack presents layers as overlayfs does. A redirect or a metadata-only copy
// is an error. No archive can create one, so it must come from a mount, and
// ignoring it would show wrong content.
type stack struct {
	layers      []*Layer // nearest first
	trees       []*tree
	contentOnly int // number of nearest layers that hide nothing yet
	dirs        map[string][]int
}

// openStack opens the layers. The first contentOnly ones hide nothing.
func openStack(layers []*Layer, contentOnly int) (*stack, error) {
	s := &stack{layers: layers, contentOnly: contentOnly, dirs: make(map[string][]int)}
	for _, l := range layers {
		t, err := openTree(l.Dir, false)
		if err != nil {
			s.close()
			return nil, err
		}
		s.trees = append(s.trees, t)
	}
	s.reset()
	return s, nil
}

// reset empties the cache of directories. It must be called after a directory
// was created.
func (s *stack) reset() {
	clear(s.dirs)
	root := []int{}
	for i, l := range s.layers {
		root = append(root, i)
		if i >= s.contentOnly && l.isOpaque(".") {
			break
		}
	}
	s.dirs["."] = root
}

func (s *stack) close() {
	for _, t := range s.trees {
		t.close()
	}
}

// found is the file that a stack presents at a path.
type found struct {
	st    unix.Stat_t
	layer int // index of the nearest layer that has the file
}

func (f found) isDir() bool { return f.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// lookup returns the file at a physical path, or ENOENT.
func (s *stack) lookup(path string) (found, error) {
	if len(s.layers) == 0 {
		return found{}, unix.ENOENT
	}
	if path == "." {
		st, err := s.trees[0].lstat(".")
		return found{st: st}, err
	}
	dir, _ := split(path)
	if s.dirs[dir] == nil {
		parent, err := s.lookup(dir)
		if err != nil {
			return found{}, err
		}
		if !parent.isDir() {
			return found{}, unix.ENOENT
		}
	}
	var have found
	var in []int
	layers := s.dirs[dir]
	for n, i := range layers {
		st, err := s.trees[i].lstat(path)
		if err == unix.ENOENT {
			if i >= s.contentOnly && s.layers[i].hasWhiteout(path) {
				break
			}
			continue
		}
		if err != nil {
			return found{}, err
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !isDir {
			gone, err := s.isWhiteout(i, path, &st)
			if err != nil {
				return found{}, err
			}
			if !gone && in == nil {
				return found{st: st, layer: i}, nil
			}
			break
		}
		if in == nil {
			have = found{st: st, layer: i}
		}
		in = append(in, i)
		if n == len(layers)-1 {
			break // no lower directory is left to hide
		}
		opaque, err := s.isOpaque(i, path)
		if err != nil {
			return found{}, err
		}
		if opaque {
			break
		}
	}
	if in == nil {
		return found{}, unix.ENOENT
	}
	if len(s.dirs) >= maxStackDirs {
		s.reset()
	}
	s.dirs[path] = in
	return have, nil
}

// maxStackDirs bounds the number of cached directories.
const maxStackDirs = 1 << 12

// forEach calls fn with the names in the merged directory at a physical path,
// with some names more than once. lookup must have found the directory.
func (s *stack) forEach(ctx context.Context, path string, fn func(name string) error) error {
	for _, i := range s.dirs[path] {
		err := s.trees[i].forEach(ctx, path, func(name string) error {
			_, err := s.lookup(join(path, name))
			if err == unix.ENOENT {
				return nil
			}
			if err == nil {
				err = fn(name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lookFile resolves the parent of a logical path as a process in the container
// would, and returns the file at the path. It does not follow the last
// component.
func (s *stack) lookFile(logical string) (phys string, f found, err error) {
	dir, base := split(logical)
	parent, err := resolvePath(dir, func(phys string) (bool, string, error) {
		at, err := s.lookup(phys)
		switch {
		case err != nil:
			return false, "", err
		case at.isDir():
			return true, "", nil
		case at.st.Mode&unix.S_IFMT == unix.S_IFLNK:
			target, err := s.trees[at.layer].readlink(phys)
			return false, target, err
		}
		return false, "", unix.ENOENT
	})
	if err != nil {
		return "", found{}, err
	}
	phys = join(parent, base)
	f, err = s.lookup(phys)
	return phys, f, err
}

// isWhiteout reports whether a non-directory is a whiteout: a 0:0 character
// device or, since Linux 6.7, an empty file with an attribute.
func (s *stack) isWhiteout(i int, path string, st *unix.Stat_t) (bool, error) {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFCHR:
		return st.Rdev == 0, nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return false, nil
	}
	attr, err := s.overlayAttrs(i, path, unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	if _, ok := attr["metacopy"]; ok {
		return false, fmt.Errorf("%s in %s holds metadata only (overlayfs metacopy): its content is unknown", path, s.layers[i].Dir)
	}
	_, gone := attr["whiteout"]
	return gone && st.Size == 0, nil
}

// isOpaque reports whether a directory of a layer hides the directories of
// lower layers.
func (s *stack) isOpaque(i int, path string) (bool, error) {
	l := s.layers[i]
	if i < s.contentOnly {
		return false, nil
	}
	if l.isOpaque(path) || l.hasWhiteout(path) {
		return true, nil
	}
	attr, err := s.overlayAttrs(i, path, unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	if _, ok := attr["redirect"]; ok {
		return false, fmt.Errorf("%s in %s was renamed on a mount (overlayfs redirect): its content is unknown", path, l.Dir)
	}
	return attr["opaque"] == "y", nil
}

// overlayAttrs reads the attributes of overlayfs at path in layer i.
func (s *stack) overlayAttrs(i int, path string, flags int) (map[string]string, error) {
	fd, err := s.trees[i].open(path, unix.O_RDONLY|flags, 0)
	if err == unix.EACCES && flags&unix.O_DIRECTORY == 0 {
		return nil, nil // cannot be read, so copying it would fail anyway
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, err := listXattrs(fd)
	if err != nil {
		return nil, err
	}
	var attrs map[string]string
	prefix := s.layers[i].form.prefix()
	for _, name := range names {
		short, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		value, err := getXattr(fd, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if attrs == nil {
			attrs = make(map[string]string)
		}
		attrs[short] = value
	}
	return attrs, nil
}
