package dnsplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// openSafely are flags to open a file without following a link and without
// waiting for the other end of a FIFO.
const openSafely = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// lockFile takes the lock at path, which is a file. It fails with errLocked
// while another process holds it. unlock removes the file.
func lockFile(path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openSafely, warmFileMode)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%s is %s: remove it", path, kindOf(st.Mode()))
		}
		if err == nil {
			err = flock(f)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// The previous holder may have removed the file after we opened it.
		now, err := os.Lstat(path)
		if err == nil && os.SameFile(st, now) {
			return func() {
				_ = os.Remove(path)
				_ = f.Close()
			}, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return os.NewSyscallError("flock", err)
		}
	}
}

// ownedByTrusted returns an error if another user than ours and root may have
// written the file.
func ownedByTrusted(st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: its owner is unknown", errWarm)
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	return trust(st.Mode().Perm(), int(sys.Uid), int(sys.Gid), os.Geteuid(), append(groups, os.Getegid()))
}

// trust judges the mode and owner of a file for a process of user euid in groups.
func trust(mode fs.FileMode, uid, gid, euid int, groups []int) error {
	switch {
	case uid != euid && uid != 0:
		return fmt.Errorf("%w: it belongs to user %d, and this process to user %d: only files of its own user and of root are read", errWarm, uid, euid)
	case mode&0o002 != 0:
		return fmt.Errorf("%w: all users may write to it (mode %04o): remove that permission (chmod o-w)", errWarm, mode)
	case mode&0o020 != 0 && !slices.Contains(groups, gid):
		return fmt.Errorf("%w: group %d may write to it (mode %04o), and this process is not in that group: remove that permission (chmod g-w)", errWarm, gid, mode)
	}
	return nil
}
