package soci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/penstock/penstock/soci/internal/untar"
)

// stage is the hidden directory in which a tree grows until it may be seen.
type stage struct {
	target string // absolute, symbolic links resolved
	work   string
	// inside: work lies in the target, because the target is a mount point or its
	// parent may not be written to. The tree is then moved entry by entry.
	inside bool
}

// newStage checks the target and makes the hidden directory beside it, on the
// same file system.
func newStage(target string) (*stage, error) {
	if target == "" {
		return nil, errors.New("no target directory is named")
	}
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	parent := filepath.Dir(target)
	exists, err := emptyDir(&target)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s does not exist: create it first", parent)
	} else if err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", parent)
	}
	s := &stage{target: target}
	if exists {
		parent = filepath.Dir(target) // a link to the target may have been given
		s.inside = isMount(target, parent)
	}
	if !s.inside {
		s.work, err = os.MkdirTemp(parent, "."+filepath.Base(target)+".penstock-")
		if exists && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
			s.inside = true
		}
	}
	if s.inside {
		s.work, err = os.MkdirTemp(target, ".penstock-")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// emptyDir reports whether target exists, as a directory with nothing in it, and
// replaces it by the directory that it may link to.
func emptyDir(target *string) (bool, error) {
	if _, err := os.Lstat(*target); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	real, err := filepath.EvalSymlinks(*target)
	if err != nil {
		return false, err
	}
	names, err := os.ReadDir(real)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return false, fmt.Errorf("%s exists and is not a directory", *target)
	case err != nil:
		return false, err
	case len(names) > 0:
		return false, fmt.Errorf("%s is not empty: name a new directory, or empty this one", *target)
	}
	*target = real
	return true, nil
}

func isMount(dir, parent string) bool {
	a, err1 := os.Lstat(dir)
	b, err2 := os.Lstat(parent)
	if err1 != nil || err2 != nil {
		return false
	}
	sa, ok1 := a.Sys().(*syscall.Stat_t)
	sb, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && (sa.Dev != sb.Dev || sa.Ino == sb.Ino)
}

// dir makes a directory of the stage.
func (s *stage) dir(name string) (string, error) {
	d := filepath.Join(s.work, name)
	return d, os.Mkdir(d, 0o700)
}

// commit makes the tree visible as the target.
func (s *stage) commit(tree string) error {
	if !s.inside {
		// Not os.Rename: it refuses what rename(2) does, to replace an empty directory.
		if err := syscall.Rename(tree, s.target); err != nil {
			return &os.LinkError{Op: "rename", Old: tree, New: s.target, Err: err}
		}
		return nil
	}
	names, err := os.ReadDir(tree)
	if err != nil {
		return err
	}
	for i, n := range names {
		if err := os.Rename(filepath.Join(tree, n.Name()), filepath.Join(s.target, n.Name())); err != nil {
			for _, moved := range names[:i] { // all or nothing
				err = errors.Join(err, untar.RemoveAll(filepath.Join(s.target, moved.Name())))
			}
			return err
		}
	}
	return nil
}

// remove takes the hidden directory away.
func (s *stage) remove() error { return untar.RemoveAll(s.work) }
