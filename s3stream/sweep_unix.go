//go:build unix

package s3stream

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockTemp marks a temporary file as one that a living process writes; the mark ends with the file's descriptor. It
// reports false if another process swept the file before it was marked.
func lockTemp(root *os.Root, name string, f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK): // the sweeper looks at it
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := root.Lstat(name)
	return err == nil && os.SameFile(ours, there), nil
}

// abandoned reports whether no living process writes the temporary file.
func abandoned(f *os.File) bool {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
