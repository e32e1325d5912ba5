package stage

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Free returns the number of bytes that are free on the file system of dir.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert,gosec // Bsize is 32 bits on some; the product fits, the kernel counts bytes in 64
}
