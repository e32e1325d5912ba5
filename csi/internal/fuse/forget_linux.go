package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/penstock/penstock/csi/internal/fs"
)

// forgetBatch is how many inodes are named to the kernel at once.
const forgetBatch = 256

// kernel is what the forgetter needs of a server.
type kernel interface {
	PruneNotify(nodes []uint64) gofuse.Status
	EntryNotify(parent uint64, name string) gofuse.Status
}

// forgetter has the kernel forget inodes when there are more than the limits of the core allow. The kernel keeps what was
// once looked up until it needs memory itself, which may be never; each inode costs us as well.
//
// It asks in two ways. Linux 6.18 and later drops what nobody uses (FUSE_NOTIFY_PRUNE). Earlier ones drop a name
// whatever uses it (FUSE_NOTIFY_INVAL_ENTRY), and with it what is mounted on the name. So directories, on which a
// container may have mounted another volume, are not asked for there: their number stays unbounded.
type forgetter struct {
	core    *fs.FS
	kernel  kernel
	byEntry bool // the kernel does not know the first way
}

// run works until done is closed. A request of the kernel never waits for it, so it may wait for them.
func (f *forgetter) run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-f.core.Crowded():
			f.forget(f.core.Surplus())
		}
	}
}

// forget names n inodes to the kernel. Those that are in use stay; the next inode that comes asks again.
func (f *forgetter) forget(n int) {
	for n > 0 {
		names := f.core.Oldest(min(n, forgetBatch))
		if len(names) == 0 || f.name(names) == gofuse.ENODEV {
			return
		}
		n -= len(names)
	}
}

func (f *forgetter) name(names []fs.Name) gofuse.Status {
	if !f.byEntry {
		nodes := make([]uint64, len(names))
		for i, n := range names {
			nodes[i] = n.Ino
		}
		status := f.kernel.PruneNotify(nodes)
		if status != gofuse.ENOSYS && status != gofuse.EINVAL {
			return status
		}
		f.byEntry = true
	}
	for _, n := range names {
		if n.Dir {
			continue
		}
		if status := f.kernel.EntryNotify(n.Parent, n.Name); status == gofuse.ENODEV {
			return status
		}
	}
	return gofuse.OK
}
