package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// taken returns the number of bytes in use on the file system of dir.
func taken(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, nil
}

// flush waits until the file system of dir has written everything, because a pull
// whose data is not on the disk is not finished.
func flush(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// mountMemory mounts a file system in memory.
func mountMemory(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size=75%"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", dir, err)
	}
	return nil
}

// unmount removes the mount at dir, if there is one.
func unmount(dir string) { _ = unix.Unmount(dir, unix.MNT_DETACH) }

func mkfifo(name string, mode uint32) error { return unix.Mkfifo(name, mode) }
