package untar

import "golang.org/x/sys/unix"

func (u *usage) add(st *unix.Stat_t) {
	u.blocks.Add(st.Blocks)
	u.inodes.Add(1)
}

func (u *usage) addFd(fd int) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		u.add(&st)
	}
	return err
}

// subtract removes the usage of a deleted non-directory, unless the file has
// another name. (It need not handle directories, because they are counted at
// the end, after all replaced directories were deleted.)
func (u *usage) subtract(st *unix.Stat_t) {
	if st.Nlink > 1 {
		return
	}
	u.blocks.Add(-st.Blocks)
	u.inodes.Add(-1)
}

// measure runs fn, which may change the size of the file or directory at path,
// and adds the change in blocks.
func (u *usage) measure(t *tree, path string, fn func() error) error {
	before, err := t.lstat(path)
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	after, err := t.lstat(path)
	u.blocks.Add(after.Blocks - before.Blocks)
	return err
}

// removeOld removes a non-directory that an earlier entry of the layer has
// created.
func (x *extraction) removeOld(dirfd int, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		x.invalidateCheckpoints()
		err = unix.Unlinkat(dirfd, base, 0)
	}
	if err == nil {
		x.layer.usage.subtract(&st)
	}
	return err
}
