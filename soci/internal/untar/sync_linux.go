package untar

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SyncFS flushes the file system of dir, with one call instead of one for each
// file.
func SyncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}
