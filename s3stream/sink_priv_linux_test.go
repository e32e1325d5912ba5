package s3stream_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/s3stream"
)

// TestPrivDiskFull: one worker's disk is too small. It fails with one clear
// error and leaves nothing; the others finish.
func TestPrivDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs mount(2): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Errorf("the worker still holds its directory: %v", err)
		}
	})
	data := goTree(t, 8<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 3, Topology: "chain"})
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		if i == 1 {
			o.Output.Dir = small
		}
	}
	c.start(3)
	lead := <-c.lead
	if !errors.Is(lead.err, s3stream.ErrIncomplete) {
		t.Errorf("leader: %v", lead.err)
	}
	for i := 1; i <= 3; i++ {
		r := c.worker(i)
		if i == 2 {
			if !errors.Is(r.err, syscall.ENOSPC) {
				t.Errorf("the full worker: %v", r.err)
			}
			c.wantFiles(i, nil)
			continue
		}
		if r.err != nil {
			t.Errorf("worker %d: %v", i, r.err)
		}
		c.wantFiles(i, map[string][]byte{"model": data})
	}
}
