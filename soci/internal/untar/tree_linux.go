package untar

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a directory that operations cannot leave. Its methods take physical
// paths, which cross no symbolic link and have no "..". Any other path fails
// with ELOOP, EXDEV or ENOTDIR, and never has an effect outside of the
// directory.
type tree struct {
	fd   int
	walk bool // open each component, because openat2 is missing (a Linux before 5.6, or a seccomp filter)
}

// openTree opens a directory. walk forces the behavior without openat2.
func openTree(dir string, walk bool) (*tree, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	t := &tree{fd: fd}
	probe, err := t.open(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil || walk { // any error will do, because the walk needs only openat
		t.walk = true
	}
	if err == nil {
		_ = unix.Close(probe)
	}
	return t, nil
}

func (t *tree) close() { _ = unix.Close(t.fd) }

// retry repeats a call for as long as a signal (EINTR) or a concurrent rename
// (EAGAIN) interrupts it.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR && err != unix.EAGAIN {
			return v, err
		}
	}
}

// open opens a physical path. It does not follow the last component.
func (t *tree) open(path string, flags int, mode uint32) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if t.walk {
		return t.openWalk(path, flags, mode)
	}
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	return retry(func() (int, error) { return unix.Openat2(t.fd, path, &how) })
}

// openWalk is open without openat2. It opens each component with O_NOFOLLOW.
func (t *tree) openWalk(path string, flags int, mode uint32) (int, error) {
	at, owned := t.fd, false
	for {
		head, rest, more := strings.Cut(path, "/")
		if head == ".." || head == "" {
			if owned {
				_ = unix.Close(at)
			}
			return -1, unix.EXDEV
		}
		f, m := flags, mode
		if more {
			f, m = unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0
		}
		fd, err := retry(func() (int, error) { return unix.Openat(at, head, f, m) })
		if owned {
			_ = unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, owned, path = fd, true, rest
	}
}

// at calls fn with a descriptor of the parent directory of path and the last
// component of path.
func (t *tree) at(path string, fn func(dirfd int, base string) error) error {
	dir, base := split(path)
	if dir == "." {
		return retryErr(func() error { return fn(t.fd, base) })
	}
	fd, err := t.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return retryErr(func() error { return fn(fd, base) })
}

func retryErr(call func() error) error {
	_, err := retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (t *tree) lstat(path string) (st unix.Stat_t, err error) {
	err = t.at(path, func(dirfd int, base string) error {
		return unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

func (t *tree) readlink(path string) (target string, err error) {
	err = t.at(path, func(dirfd int, base string) error {
		target, err = readlinkat(dirfd, base)
		return err
	})
	return target, err
}

func readlinkat(dirfd int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(dirfd, base, buf) })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (t *tree) mkdir(path string, mode uint32) error {
	return t.at(path, func(dirfd int, base string) error { return unix.Mkdirat(dirfd, base, mode) })
}

func (t *tree) unlink(path string) error {
	return t.at(path, func(dirfd int, base string) error { return unix.Unlinkat(dirfd, base, 0) })
}

// link makes to (in dst) a hard link to from (in t). It does not follow
// symbolic links.
func (t *tree) link(from string, dst *tree, to string) error {
	return t.at(from, func(fromFd int, fromBase string) error {
		return dst.at(to, func(toFd int, toBase string) error {
			return unix.Linkat(fromFd, fromBase, toFd, toBase, 0)
		})
	})
}

// rename moves from (in t) to to (in dst), replacing a non-directory there.
func (t *tree) rename(from string, dst *tree, to string) error {
	return t.at(from, func(fromFd int, fromBase string) error {
		return dst.at(to, func(toFd int, toBase string) error {
			return unix.Renameat(fromFd, fromBase, toFd, toBase)
		})
	})
}

// forEach calls fn with every name in a directory. It reads a limited number of
// names at a time, so its memory does not depend on the size of the directory.
// fn may remove names.
func (t *tree) forEach(ctx context.Context, path string, fn func(name string) error) error {
	fd, err := t.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}()
	buf := make([]byte, 32<<10) // bytes, as in readdir of the C library: about 1,000 names a call
	read := func() (int, error) { return retry(func() (int, error) { return unix.ReadDirent(fd, buf) }) }
	var names []string
	n, err := read()
	for {
		if err != nil || n <= 0 {
			return err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		if n < len(buf)/2 { // usually the end: try to close the descriptor before the calls of fn
			if n, err = read(); err == nil && n <= 0 {
				_ = unix.Close(fd)
				fd = -1
			} else if err == nil {
				_, _, names = unix.ParseDirent(buf[:n], -1, names)
			}
		}
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := fn(name); err != nil {
				return err
			}
		}
		if fd < 0 {
			return nil
		}
		n, err = read()
	}
}

// removeAll removes path and everything below it, also in directories whose
// mode locks out the owner. gone, unless nil, is called for each removed
// non-directory.
func (t *tree) removeAll(ctx context.Context, path string, gone func(*unix.Stat_t)) error {
	st, err := t.lstat(path)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err = t.unlink(path); err == nil && gone != nil {
			gone(&st)
		}
		return err
	}
	if err := t.unlock(path); err != nil {
		return err
	}
	for again := 0; ; again++ {
		err := t.forEach(ctx, path, func(name string) error { return t.removeAll(ctx, join(path, name), gone) })
		if err != nil {
			return err
		}
		err = t.at(path, func(dirfd int, base string) error {
			return unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR)
		})
		// Some file systems skip names in a listing while other names are
		// removed.
		if err != unix.ENOTEMPTY && err != unix.EEXIST || again == 10 {
			return err
		}
	}
}

// unlock gives the owner of a directory all rights in it.
func (t *tree) unlock(path string) error {
	st, err := t.lstat(path)
	if err != nil || st.Mode&0o700 == 0o700 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return t.at(path, func(dirfd int, base string) error {
		// The last component was a directory a moment ago. To replace it by a
		// link, another process would have to write to this tree.
		return unix.Fchmodat(dirfd, base, st.Mode&0o7777|0o700, 0)
	})
}

// errTooManyLinks is the error of a path that crosses more than maxLinks
// symbolic links.
var errTooManyLinks = fmt.Errorf("%w: too many symbolic links on the way", ErrFormat)

// resolvePath resolves a logical path, including its last component, to a
// physical path inside the tree, as chroot would. It calls step with each
// physical path on the way. step returns true for a directory, or the target of
// a symbolic link. An error of step ends the walk.
func resolvePath(logical string, step func(phys string) (dir bool, target string, err error)) (string, error) {
	cur, rest, links := ".", logical, 0
	for rest != "" && rest != "." {
		head, tail, _ := strings.Cut(rest, "/")
		rest = tail
		switch head {
		case "", ".":
			continue
		case "..":
			cur, _ = split(cur) // the parent of the root is the root
			continue
		}
		next := join(cur, head)
		dir, target, err := step(next)
		switch {
		case err != nil:
			return "", err
		case dir:
			cur = next
		default:
			if links++; links > maxLinks {
				return "", errTooManyLinks
			}
			if strings.HasPrefix(target, "/") {
				cur = "."
			}
			rest = target + "/" + rest
		}
	}
	return cur, nil
}

// lookup returns the physical path of an existing directory, given its logical
// path.
func (t *tree) lookup(logical string) (string, error) {
	return resolvePath(logical, func(phys string) (bool, string, error) {
		st, err := t.lstat(phys)
		if err != nil {
			return false, "", err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			return true, "", nil
		case unix.S_IFLNK:
			target, err := t.readlink(phys)
			return false, target, err
		}
		return false, "", unix.ENOTDIR
	})
}

// lookupFile resolves the parent of a logical path and reports whether a file
// exists at the path. It does not follow the last component.
func (t *tree) lookupFile(logical string) (phys string, found bool, err error) {
	dir, base := split(logical)
	parent, err := t.lookup(dir)
	if err == nil {
		phys = join(parent, base)
		_, err = t.lstat(phys)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", false, nil
	}
	return phys, err == nil, err
}
