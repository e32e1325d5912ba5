package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// MemoryFolder returns /dev/shm if it has room, so that a disk does not influence
// the figures.
func MemoryFolder(need int64) string {
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err == nil && st.Bavail*uint64(st.Bsize) > uint64(need+need/8) {
		return shm
	}
	fmt.Fprintf(os.Stderr, "%s has no room for %d MiB: the objects go to %s, and a disk may be measured too\n", shm, need/mib, os.TempDir())
	return os.TempDir()
}

// WriteObject makes a file of size bytes from this machine's Go sources, repeated.
// Each MiB is stamped with its offset, so that no two blocks are equal and a block
// in the wrong place is noticed. Another salt starts elsewhere in the text, so that
// every block differs from the block at the same offset of the other object.
func WriteObject(path string, size, salt int64) error {
	text, err := goText()
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, mib)
	block := make([]byte, mib)
	at := int(salt>>32) * 7919 % len(text)
	for off := int64(0); off < size; off += mib {
		for n := 0; n < mib; {
			c := copy(block[n:], text[at:])
			n += c
			at = (at + c) % len(text)
		}
		binary.BigEndian.PutUint64(block, uint64(off+salt))
		if _, err := w.Write(block[:min(mib, size-off)]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

// textBytes is the number of bytes of the Go tree in use: large enough for equal
// stretches to be far apart, and small enough to be read quickly.
const textBytes = 48 * mib

// goText returns the text, which is read once.
var goText = sync.OnceValues(readText)

func readText() ([]byte, error) {
	root := filepath.Join(runtime.GOROOT(), "src") //nolint:staticcheck // the tree of the toolchain that built this is the right one
	if _, err := os.Stat(root); err != nil {
		root = "." // built with -trimpath, so use the working tree
	}
	var paths []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(p) == ".go" {
			paths = append(paths, p)
		}
		return nil // unreadable files are skipped
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var buf []byte
	for _, p := range paths {
		if len(buf) >= textBytes {
			break
		}
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, textBytes))
		f.Close()
		if err != nil {
			return nil, err
		}
		buf = append(buf, b...)
	}
	if len(buf) < mib {
		return nil, fmt.Errorf("no Go sources under %s: set GOROOT", root)
	}
	return buf, nil
}
