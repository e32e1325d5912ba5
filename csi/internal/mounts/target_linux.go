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
	if err := unix.Mkdirat(parent, name, dirMode); err != nil && !errors.Is(err, unix.EEXIST) {
		unix.Close(parent)
		return nil, &os.PathError{Op: "mkdir", Path: target, Err: err}
	}
	dir, err := openBeneath(parent, name)
	if err != nil {
		unix.Close(parent)
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("target %q: %w %q: it is a symbolic link", target, ErrOutside, base)
		}
		return nil, &os.PathError{Op: "open", Path: target, Err: err}
	}
	return &Target{path: target, parent: parent, dir: dir}, nil
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

// Remove detaches every mount on target and removes the directory. A target that does not exist is fine.
func Remove(base, target string) error {
	parent, name, err := openParent(base, target)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := DetachAll(target); err != nil {
		return err
	}
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: target, Err: err}
	}
	return nil
}

// maxStacked bounds the mounts that are peeled off one point. Real stacks are one or two deep; a thousand means that
// somebody mounts as fast as we unmount.
const maxStacked = 1000

// DetachAll unmounts everything on path, dead servers included, at once or when the last open file is closed.
func DetachAll(path string) error {
	for range maxStacked {
		table, err := Read()
		if err != nil {
			return err
		}
		if _, mounted := table.At(path); !mounted {
			return nil
		}
		// EINVAL: somebody else unmounted it since.
		err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %q: still mounted after %d times", path, maxStacked)
}
