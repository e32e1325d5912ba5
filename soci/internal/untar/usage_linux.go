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

// subtract takes back what the name of a non-directory held that was removed. An
// inode that had another name in the layer stays. (Directories count last of all,
// when those that were replaced are gone.)
func (u *usage) subtract(st *unix.Stat_t) {
	if st.Nlink > 1 {
		return
	}
	u.blocks.Add(-st.Blocks)
	u.inodes.Add(-1)
}

// measure runs fn, which may make the existing file or directory at path larger,
// and accounts for the difference.
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

// removeOld removes a non-directory of the layer that was complete.
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
