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

// MemoryFolder returns /dev/shm when it has room, so that no disk is measured.
func MemoryFolder(need int64) string {
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err == nil && st.Bavail*uint64(st.Bsize) > uint64(need+need/8) {
		return shm
	}
	fmt.Fprintf(os.Stderr, "%s has no room for %d MiB: the objects go to %s, and a disk may be measured too\n", shm, need/mib, os.TempDir())
	return os.TempDir()
}

// WriteObject makes a file of size bytes: this machine's Go sources, over and
// over, each MiB stamped with its place, so that no two blocks are equal and a
// block in the wrong place is seen. Another salt is another place in the same text:
// every block then differs from its namesake.
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

// textBytes is how much of the Go tree is used: enough that equal stretches
// are far apart, little enough to be read in a moment.
const textBytes = 48 * mib

// goText returns the text, which is read once.
var goText = sync.OnceValues(readText)

func readText() ([]byte, error) {
	root := filepath.Join(runtime.GOROOT(), "src") //nolint:staticcheck // the tree of the toolchain that built this, which is what we want
	if _, err := os.Stat(root); err != nil {
		root = "." // built with -trimpath: the working tree is real text too
	}
	var paths []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(p) == ".go" {
			paths = append(paths, p)
		}
		return nil // what can't be read is left out
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
