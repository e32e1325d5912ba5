package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirMode is the permission of a target directory that is made here: kubelet and root alone, as kubelet's own are.
const dirMode = 0o750

// ErrOutside is returned for a target that is not inside its base, or is reached through a symbolic link.
var ErrOutside = errors.New("not inside the allowed directory")

// Target is a directory inside a base, opened without following a symbolic link below the base. Close it when done.
type Target struct {
	path   string
	parent int // O_PATH descriptor of the directory that holds it
	dir    int // O_PATH descriptor of the directory itself
	made   bool
}

// relative returns target relative to base; both must be absolute and clean.
func relative(base, target string) (string, error) {
	if !filepath.IsAbs(target) || filepath.Clean(target) != target {
		return "", fmt.Errorf("target %q: not a clean absolute path, so %w %q", target, ErrOutside, base)
	}
	rel, err := filepath.Rel(base, target)
	if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("target %q: %w %q", target, ErrOutside, base)
	}
	return rel, nil
}

// openParent opens the directory that holds target. Everything between base and it must be a real directory: a
// symbolic link that a pod planted there must not lead the mount elsewhere.
func openParent(base, target string) (parent int, name string, err error) {
	rel, err := relative(base, target)
	if err != nil {
		return -1, "", err
	}
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", &os.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(root)
	parent, err = openBeneath(root, filepath.Dir(rel))
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return -1, "", fmt.Errorf("target %q: %w %q: a symbolic link is on the way", target, ErrOutside, base)
	}
	if err != nil {
		return -1, "", &os.PathError{Op: "open", Path: filepath.Dir(target), Err: err}
	}
	return parent, filepath.Base(rel), nil
}

// openBeneath opens a directory below dir with O_PATH; links and ".." out of dir fail with ELOOP or EXDEV.
func openBeneath(dir int, rel string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, rel, &how)
		if err != unix.EAGAIN && err != unix.EINTR { // a rename on the way; try again
			return fd, err
		}
	}
}

// OpenTarget opens target, making the last directory of its path if it is missing.
func OpenTarget(base, target string) (*Target, error) {
	parent, name, err := openParent(base, target)
	if err != nil {
		return nil, err
	}
	mkdir := unix.Mkdirat(parent, name, dirMode)
	if mkdir != nil && !errors.Is(mkdir, unix.EEXIST) {
		unix.Close(parent)
		return nil, &os.PathError{Op: "mkdir", Path: target, Err: mkdir}
	}
	dir, err := openBeneath(parent, name)
	if err != nil {
		unix.Close(parent)
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("target %q: %w %q: it is a symbolic link", target, ErrOutside, base)
		}
		return nil, &os.PathError{Op: "open", Path: target, Err: err}
	}
	return &Target{path: target, parent: parent, dir: dir, made: mkdir == nil}, nil
}

// Discard removes the directory again if OpenTarget made it. It is for a target on which nothing could be mounted.
func (t *Target) Discard() error {
	if !t.made {
		return nil
	}
	if err := unix.Unlinkat(t.parent, filepath.Base(t.path), unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: t.path, Err: err}
	}
	return nil
}

// Bind mounts the directory source on the target as well.
func (t *Target) Bind(source string) error {
	// Through the descriptor: the path may have changed since it was checked.
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", t.dir), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %q on %q: %w", source, t.path, err)
	}
	return nil
}

// Close closes the descriptors. What is mounted stays.
func (t *Target) Close() {
	unix.Close(t.dir)
	unix.Close(t.parent)
}

// Remove detaches the mounts on target, topmost first, and removes the directory, which must be empty then. detach is
// asked before each of them: with its error Remove ends, and leaves that mount, those below it and the directory. A target
// that does not exist is fine.
func Remove(base, target string, detach func(Mount) error) error {
	parent, name, err := openParent(base, target)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := DetachAll(target, detach); err != nil {
		return err
	}
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("target %q: files are in the directory itself, below no mount: look what they are and remove them", target)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("target %q: not a directory: look what it is and remove it", target)
	default:
		return &os.PathError{Op: "rmdir", Path: target, Err: err}
	}
}

// maxStacked bounds the mounts that are peeled off one point. Real stacks are one or two deep; a thousand means that
// somebody mounts as fast as we unmount.
const maxStacked = 1000

// DetachAll unmounts what is mounted on path, topmost first, dead servers included. Programs that hold files open keep
// them until they close them. detach is asked before each mount; its error ends the work.
func DetachAll(path string, detach func(Mount) error) error {
	for range maxStacked {
		table, err := Read()
		if err != nil {
			return err
		}
		top, mounted := table.At(path)
		if !mounted {
			return nil
		}
		if err := detach(top); err != nil {
			return err
		}
		// EINVAL: somebody else unmounted it since.
		err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %q: still mounted after %d times", path, maxStacked)
}
