package untar

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// TestPrivFullDisk checks that an extraction that runs out of bytes or inodes
// names the entry and the free space, and returns no layer and all its blocks,
// while another extraction with the same writers succeeds.
func TestPrivFullDisk(t *testing.T) {
	needRoot(t, "mounts tmpfs")
	tests := []struct {
		name, options string
		in            []ent
		entry, says   string
	}{
		{"bytes, in a large file", "size=1m", []ent{file("d/first", "x"), file("d/large", bigContent(4<<20))}, "d/large", "0 of 1 MiB"},
		{"bytes, in many files", "size=1m", numberedEntries("d/f", 100, filesOf(40<<10)), "d/f", "0 of 1 MiB"},
		{"inodes, for files", "nr_inodes=50", numberedEntries("d/f", 100, filesOf(10)), "d/f", "0 of 50 inodes"},
		{"inodes, for directories", "nr_inodes=50", numberedEntries("d/e", 100, dir), "d/e", "0 of 50 inodes"},
		{"inodes, for links", "nr_inodes=50", numberedEntries("d/l", 100, func(at string) ent { return symlink(at, "x") }), "d/l", "0 of 50 inodes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newTB(t)
			data := archive(t, tt.in...)
			full := tmpfs(t, tt.options)
			// The other extraction starts before and ends after.
			gate := make(chan struct{})
			other := archive(t, numberedEntries("d/g", 300, filesOf(5000))...)
			var wg sync.WaitGroup
			var otherErr error
			wg.Go(func() {
				half := len(other) / tarfile.BlockSize / 2 * tarfile.BlockSize
				r := readerFunc(func(p []byte) (int, error) {
					if len(other) <= half {
						<-gate
					}
					n := copy(p[:min(len(p), tarfile.BlockSize)], other)
					other = other[n:]
					if n == 0 {
						return 0, errors.New("read beyond the end")
					}
					return n, nil
				})
				_, otherErr = Extract(t.Context(), r, x.root, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
			})
			blocks := &tartest.Blocks{Data: data, Size: 64 << 10}
			l, err := Extract(t.Context(), blocks, full, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
			close(gate)
			wg.Wait()
			if l != nil || !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("layer %v, error %v", l, err)
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.HasPrefix(e.Entry, tt.entry) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "make room") {
				t.Errorf("error %v", err)
			}
			if out := blocks.Held(); out != 0 {
				t.Errorf("%d blocks were not given back", out)
			}
			if otherErr != nil && !strings.Contains(otherErr.Error(), "beyond the end") {
				t.Errorf("the other extraction: %v", otherErr)
			}
			if got, err := os.ReadFile(filepath.Join(x.root, "d/g299")); err != nil || !bytes.Equal(got, []byte(bigContent(5000))) {
				t.Errorf("the other extraction: %d bytes, %v", len(got), err)
			}
			if err := RemoveAll(filepath.Join(full, "d")); err != nil {
				t.Error(err)
			}
		})
	}
}

// numberedEntries returns n entries with numbered names.
func numberedEntries(name string, n int, one func(at string) ent) []ent {
	var out []ent
	for i := range n {
		out = append(out, one(fmt.Sprint(name, i)))
	}
	return out
}

func filesOf(size int) func(string) ent {
	return func(at string) ent { return file(at, bigContent(size)) }
}
