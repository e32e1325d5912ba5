package fuse

import (
	"context"
	"log/slog"
	"math"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/tree"
)

// interruptGrace is how long a request goes on after a signal reached its program. Half a second: far beyond any
// healthy request, so a timer signal never turns a read into EINTR; short enough that kill -9 works as a person expects.
const interruptGrace = 500 * time.Millisecond

// attrTTL is how long the kernel may keep attributes: for good, as an inode is one version. A day stands for it.
const attrTTL = 24 * time.Hour

// bridge turns requests of go-fuse's raw interface into calls of the core. What it does not implement is ENOSYS, after
// which the kernel stops asking.
type bridge struct {
	gofuse.RawFileSystem
	core     *fs.FS
	log      *slog.Logger
	dir      string
	stopping chan struct{} // closed when the mount is about to go: no grace any more

	mu        sync.Mutex // guards what follows; a leaf lock
	reports   map[slog.Level]*reports
	reporting bool // a line is being written
}

// begin returns the context of one request. end must be called when the request is answered.
func (b *bridge) begin(cancel <-chan struct{}) (ctx context.Context, end context.CancelFunc) {
	ctx, end = context.WithCancel(context.Background())
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		grace := time.NewTimer(interruptGrace)
		defer grace.Stop()
		select {
		case <-ctx.Done():
			return
		case <-grace.C:
		case <-b.stopping:
		}
		end()
	}()
	return ctx, end
}

// status turns an error into what the kernel gets, which is a number and no more, so the log says why. The errors that
// programs cause all day (no such file, interrupted) are not logged, and of the others as many as [reports] allows.
func (b *bridge) status(err error) gofuse.Status {
	errno := fs.Errno(err)
	switch errno {
	case 0, syscall.ENOENT, syscall.EINTR, syscall.EROFS, syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG:
	case syscall.ESTALE:
		b.report(slog.LevelInfo, "file has changed", err, errno)
	default:
		b.report(slog.LevelWarn, "request failed", err, errno)
	}
	return gofuse.Status(errno)
}

// report logs a failure, if not too many were logged just before. Another goroutine writes it, one at a time: a log that
// nobody reads must not hold up a request.
func (b *bridge) report(level slog.Level, what string, err error, errno syscall.Errno) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reporting {
		b.reports[level].left++
		return
	}
	log, unlogged := b.reports[level].failure(time.Now())
	if !log {
		return
	}
	args := []any{"mount", b.dir, "err", err, "errno", errno.Error()}
	if unlogged > 0 {
		args = append(args, "unlogged", unlogged)
	}
	b.reporting = true
	go func() {
		b.log.Log(context.Background(), level, what, args...)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.reporting = false
	}()
}

func (b *bridge) String() string { return "penstock" }

// Init implements gofuse.RawFileSystem.
func (b *bridge) Init(*gofuse.Server) {}

// OnUnmount implements gofuse.RawFileSystem.
func (b *bridge) OnUnmount() {}

// Lookup implements gofuse.RawFileSystem.
func (b *bridge) Lookup(cancel <-chan struct{}, in *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	ctx, end := b.begin(cancel)
	defer end()
	a, err := b.core.Lookup(ctx, in.NodeId, name)
	if ttl := b.core.MetadataTTL(); fs.Errno(err) == syscall.ENOENT && ttl > 0 {
		// Node 0 is "not there", and unlike ENOENT the kernel remembers it. Programs look for the same missing file in
		// many places, many times.
		out.SetEntryTimeout(ttl)
		return gofuse.OK
	}
	if err != nil {
		return b.status(err)
	}
	b.entry(a, out)
	return gofuse.OK
}

// entry fills the answer about a name: attributes for good, the name itself for as long as the core trusts it.
func (b *bridge) entry(a fs.Attr, out *gofuse.EntryOut) {
	out.NodeId = a.Ino
	attr(a, &out.Attr)
	out.SetAttrTimeout(attrTTL)
	out.SetEntryTimeout(b.core.MetadataTTL())
}

func attr(a fs.Attr, out *gofuse.Attr) {
	sec := uint64(max(a.ModTime.Unix(), 0))
	*out = gofuse.Attr{
		Ino: a.Ino, Size: uint64(max(a.Size, 0)), Blocks: uint64(max(a.Size, 0)+511) / 512,
		Atime: sec, Mtime: sec, Ctime: sec,
		Mode: a.Mode, Nlink: 1, Owner: gofuse.Owner{Uid: a.UID, Gid: a.GID}, Blksize: maxRequest,
	}
}

// Forget implements gofuse.RawFileSystem.
func (b *bridge) Forget(ino, count uint64) { b.core.Forget(ino, count) }

// GetAttr implements gofuse.RawFileSystem.
func (b *bridge) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	a, err := b.core.GetAttr(in.NodeId)
	if err != nil {
		return b.status(err)
	}
	attr(a, &out.Attr)
	out.SetTimeout(attrTTL)
	return gofuse.OK
}

// Open implements gofuse.RawFileSystem.
func (b *bridge) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	ctx, end := b.begin(cancel)
	defer end()
	flags := fs.OpenRead
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&(syscall.O_TRUNC|syscall.O_APPEND) != 0 {
		flags |= fs.OpenWrite
	}
	h, err := b.core.Open(ctx, in.NodeId, flags)
	if err != nil {
		return b.status(err)
	}
	out.Fh = h
	out.OpenFlags = gofuse.FOPEN_KEEP_CACHE | gofuse.FOPEN_NOFLUSH
	if in.Flags&syscall.O_DIRECT != 0 {
		out.OpenFlags = gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_NOFLUSH
	}
	return gofuse.OK
}

// Read implements gofuse.RawFileSystem. The reply is buf itself: no copy on this side of the kernel.
func (b *bridge) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	if in.Offset > math.MaxInt64 {
		return nil, gofuse.EINVAL
	}
	ctx, end := b.begin(cancel)
	defer end()
	// The buffer is there already. While the read waits for its place it gives the pages back that an earlier reply filled,
	// so that a thousand threads that wait cost addresses and no memory.
	if err := b.core.Reserve(ctx, len(buf), func() { dropPages(buf) }); err != nil {
		return nil, b.status(err)
	}
	defer b.core.Unreserve(len(buf))
	n, err := b.core.Read(ctx, in.Fh, buf, int64(in.Offset))
	if err != nil {
		return nil, b.status(err)
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

// dropPages gives the memory of the whole pages of p back to the system; they read as zeros. p is memory of this process
// without pointers, so neither the kernel nor the collector minds.
func dropPages(p []byte) {
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(p))) //nolint:gosec // for its distance to the next page alone
	from := (start + page - 1) / page * page
	to := (start + uintptr(len(p))) / page * page
	if from >= to {
		return
	}
	_ = unix.Madvise(p[from-start:to-start], unix.MADV_DONTNEED) // a hint: without it the memory stays
}

// Flush implements gofuse.RawFileSystem, for kernels that do not know FOPEN_NOFLUSH.
func (b *bridge) Flush(<-chan struct{}, *gofuse.FlushIn) gofuse.Status { return gofuse.OK }

// Release implements gofuse.RawFileSystem.
func (b *bridge) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) { b.core.Release(in.Fh) }

// OpenDir implements gofuse.RawFileSystem.
func (b *bridge) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	h, err := b.core.OpenDir(in.NodeId)
	if err != nil {
		return b.status(err)
	}
	out.Fh = h
	return gofuse.OK
}

// ReadDir implements gofuse.RawFileSystem.
func (b *bridge) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	ctx, end := b.begin(cancel)
	defer end()
	return b.status(b.core.ReadDir(ctx, in.Fh, in.Offset, fs.Names, func(e *fs.DirEntry) bool {
		return out.AddDirEntry(dirEntry(e))
	}))
}

// ReadDirPlus implements gofuse.RawFileSystem.
func (b *bridge) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	ctx, end := b.begin(cancel)
	defer end()
	return b.status(b.core.ReadDir(ctx, in.Fh, in.Offset, fs.Lookups, func(e *fs.DirEntry) bool {
		entry := out.AddDirLookupEntry(dirEntry(e))
		if entry != nil && e.Attr.Ino != 0 { // "." and ".." stay at node 0: the kernel does not want them
			b.entry(e.Attr, entry)
		}
		return entry != nil
	}))
}

func dirEntry(e *fs.DirEntry) gofuse.DirEntry {
	mode := uint32(syscall.S_IFREG)
	if e.Kind == tree.Dir {
		mode = syscall.S_IFDIR
	}
	return gofuse.DirEntry{Name: e.Name, Mode: mode, Ino: e.Attr.Ino, Off: e.Off}
}

// ReleaseDir implements gofuse.RawFileSystem.
func (b *bridge) ReleaseDir(in *gofuse.ReleaseIn) { b.core.ReleaseDir(in.Fh) }

// StatFs implements gofuse.RawFileSystem. A bucket has no size: the figures are one PiB in all, and all of it free, so that
// nobody is alarmed by a full disk and programs that divide by the size go on working.
func (b *bridge) StatFs(_ <-chan struct{}, _ *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	const block = 4096
	const blocks = (1 << 50) / block
	*out = gofuse.StatfsOut{
		Blocks: blocks, Bfree: blocks, Bavail: blocks, Bsize: block, Frsize: block,
		Files: 1 << 32, Ffree: 1 << 32, NameLen: tree.MaxName,
	}
	return gofuse.OK
}
