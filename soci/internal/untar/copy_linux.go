package untar

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// copyUp copies a file from a lower layer, with its metadata. The file may have
// any type that can be hard-linked.
func (o *overlay) copyUp(ctx context.Context, src *tree, from, to string, at found) error {
	st := at.st
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return o.copyFile(ctx, src, from, to)
	case unix.S_IFDIR:
		return fmt.Errorf("%w: hard link to directory %q of a lower layer", ErrFormat, tarfile.Shorten(from))
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var err error
		if target, err = src.readlink(from); err != nil {
			return err
		}
	}
	return o.tree.at(to, func(dirfd int, base string) error {
		var err error
		if target != "" {
			err = unix.Symlinkat(target, dirfd, base)
		} else {
			err = unix.Mknodat(dirfd, base, st.Mode, int(st.Rdev)) //nolint:gosec // a dev_t fits: mknod(2) takes 32 bits
		}
		if err == nil {
			err = o.layer.lchown(dirfd, base, to, st)
		}
		if err == nil && target == "" {
			err = unix.Fchmodat(dirfd, base, st.Mode&0o7777, 0)
		}
		if err == nil {
			err = unix.UtimesNanoAt(dirfd, base, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err == nil {
			err = unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err == nil {
			o.layer.usage.add(&st)
		}
		return err
	})
}

// lchown sets the owner of a copied node, or adds a note if that is not
// permitted.
func (l *Layer) lchown(dirfd int, base, path string, st unix.Stat_t) error {
	err := unix.Fchownat(dirfd, base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.EPERM || err == unix.EINVAL {
		l.notes.add(noteOwner, path)
		return nil
	}
	return err
}

// copyFile copies a regular file of a lower layer and keeps its holes.
func (o *overlay) copyFile(ctx context.Context, src *tree, from, to string) error {
	in, err := src.open(from, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	out, err := o.tree.open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := unix.Ftruncate(out, st.Size); err != nil {
		return err
	}
	if err := copyData(ctx, in, out, st.Size); err != nil {
		return err
	}
	mode := st.Mode & 0o7777
	err = unix.Fchown(out, int(st.Uid), int(st.Gid))
	if err == unix.EPERM || err == unix.EINVAL {
		o.layer.notes.add(noteOwner, to)
		mode, err = mode&^(unix.S_ISUID|unix.S_ISGID), nil
	}
	if err == nil {
		err = unix.Fchmod(out, mode)
	}
	if err == nil {
		err = xattrsByFd(in, out)
	}
	if err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	err = futimes(out, times, func() error {
		return o.tree.at(to, func(dirfd int, base string) error {
			return unix.UtimesNanoAt(dirfd, base, times, unix.AT_SYMLINK_NOFOLLOW)
		})
	})
	if err == nil {
		err = unix.Fstat(out, &st)
	}
	if err == nil {
		o.layer.usage.add(&st)
	}
	return err
}

// copyData copies the data between the holes. If the file system can share
// blocks, copy_file_range shares them; otherwise the data is read and written.
func copyData(ctx context.Context, in, out int, size int64) error {
	for off := int64(0); off < size; {
		from, err := unix.Seek(in, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // a hole up to the end
		}
		to := size
		if err == nil {
			to, err = unix.Seek(in, from, unix.SEEK_HOLE)
		} else if err == unix.EINVAL { // the file system has no holes
			from, err = off, nil
		}
		if err == nil {
			err = copyExtent(ctx, in, out, from, min(to, size))
		}
		if err != nil {
			return err
		}
		off = to
	}
	return nil
}

func copyExtent(ctx context.Context, in, out int, off, end int64) error {
	const step = 64 << 20 // bytes between two checks of ctx
	share := true
	var buf []byte
	for off < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var n int
		var err error
		if share {
			rd, wr := off, off
			n, err = retry(func() (int, error) {
				return unix.CopyFileRange(in, &rd, out, &wr, int(min(end-off, step)), 0)
			})
			switch err {
			case unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
				share, buf = false, make([]byte, bufferBytes)
				continue
			}
		} else {
			n, err = copyBytes(in, out, buf[:min(end-off, bufferBytes)], off)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		off += int64(n)
	}
	return nil
}

func copyBytes(in, out int, buf []byte, off int64) (int, error) {
	n, err := retry(func() (int, error) { return unix.Pread(in, buf, off) })
	for done := 0; err == nil && done < n; {
		var w int
		w, err = retry(func() (int, error) { return unix.Pwrite(out, buf[done:n], off+int64(done)) })
		done += w
	}
	return n, err
}
