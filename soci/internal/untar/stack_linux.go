package untar

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenLayer describes a directory that holds a layer in overlay form already,
// extracted by this process or an earlier one. It serves as a lower layer of
// [Layer.Overlay]: whiteouts and opaque marks are read from the disk, in the form
// given. No descriptor stays open. Such a layer can not be merged: which of its
// directories no entry described is not known any more.
func OpenLayer(dir string, form Form) (*Layer, error) {
	t, err := openTree(dir, false)
	if err != nil {
		return nil, &Error{Err: err}
	}
	t.close()
	return &Layer{Dir: dir, form: form, opened: true}, nil
}

// stack shows layers as overlayfs does. It knows no redirects and no metadata-only
// copies: no archive can ask for them, and a directory or file that has them was
// made by a mount; to guess would show wrong content, so it is an error.
type stack struct {
	layers      []*Layer // nearest first
	trees       []*tree
	contentOnly int // so many of the nearest layers do not hide anything yet
	dirs        map[string][]int
}

// openStack opens the layers; those before blind show their content only.
func openStack(layers []*Layer, blind int) (*stack, error) {
	s := &stack{layers: layers, contentOnly: blind, dirs: make(map[string][]int)}
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

// reset drops what is known of directories, after one was made.
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

// found is what a stack shows at a path.
type found struct {
	st    unix.Stat_t
	layer int // the nearest layer that has it
}

func (f found) isDir() bool { return f.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// lookup returns what lies at a physical path: ENOENT when nothing does.
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
			break // nothing is left to hide
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

// maxStackDirs is how many directories a stack remembers.
const maxStackDirs = 1 << 12

// forEach calls fn with the names that the merged directory at a physical path shows, some
// more than once. look has found the directory.
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

// lookFile resolves the parent of a logical path as a process inside would, and
// returns what lies at it; the last component is not followed.
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

// isWhiteout reports whether a non-directory stands for "removed": a 0:0 character
// device or (since Linux 6.7) an empty file with an attribute.
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
		return false, fmt.Errorf("%s in %s holds metadata only (overlayfs metacopy): its content can not be told", path, s.layers[i].Dir)
	}
	_, gone := attr["whiteout"]
	return gone && st.Size == 0, nil
}

// isOpaque reports whether a directory of a layer hides those of lower layers.
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
		return false, fmt.Errorf("%s in %s was renamed on a mount (overlayfs redirect): its content can not be told", path, l.Dir)
	}
	return attr["opaque"] == "y", nil
}

// overlayAttrs reads the attributes of overlayfs at path in layer i.
func (s *stack) overlayAttrs(i int, path string, flags int) (map[string]string, error) {
	fd, err := s.trees[i].open(path, unix.O_RDONLY|flags, 0)
	if err == unix.EACCES && flags&unix.O_DIRECTORY == 0 {
		return nil, nil // a file that we may not read, nor copy: then that fails
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
