package untar

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// meta is the metadata of an entry in the form of the kernel.
type meta struct {
	mode   uint32 // permission bits with setuid, setgid, sticky; for special files the type too
	uid    int
	gid    int
	times  [2]unix.Timespec // access, modification
	xattrs map[string]string
}

// defaultDirMeta is for directories that no entry describes.
var defaultDirMeta = meta{mode: 0o755}

// meta reads the metadata of a header.
func (x *extraction) meta(hdr *tar.Header) (meta, error) {
	const maxID = 1<<32 - 2 // the kernel reads -1 as "leave it"
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) > maxID || int64(hdr.Gid) > maxID {
		return meta{}, fmt.Errorf("%w: owner %d:%d out of range", ErrFormat, hdr.Uid, hdr.Gid)
	}
	attrs, refused := xattrs(hdr)
	if refused != "" {
		x.layer.notes.add("attribute "+refused+" refused (it steers overlayfs)", hdr.Name)
	}
	atime := hdr.AccessTime
	if atime.IsZero() {
		atime = hdr.ModTime
	}
	return meta{
		mode:   uint32(hdr.Mode & 0o7777),
		uid:    hdr.Uid,
		gid:    hdr.Gid,
		times:  [2]unix.Timespec{timespec(atime), timespec(hdr.ModTime)},
		xattrs: attrs,
	}, nil
}

// timespec converts a time; one that the system can not hold (32-bit ones, after
// 2038) becomes the epoch.
func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}

func nanos(n *atomic.Int64) time.Duration { return time.Duration(n.Load()) }

// outFile is a regular file that is being written.
type outFile struct {
	x      *extraction
	path   string
	meta   meta
	size   int64
	sparse bool
	fd     int // -1 until created
	// pending counts pieces not written, plus one for the parser while it still
	// adds pieces. Whoever brings it to zero finishes the file.
	pending atomic.Int32
	err     atomic.Pointer[error]
}

// file hands the content of a regular file to the writers. A file of one piece
// is created by the writer too; a larger one by the parser, which must know at
// once when that fails, not after it has read gigabytes.
func (x *extraction) file(ctx context.Context, path string, hdr *tar.Header, m meta, tr *tar.Reader) error {
	x.layer.Files++
	x.layer.Bytes += hdr.Size
	if err := x.begin(path); err != nil {
		return err
	}
	f := &outFile{x: x, path: path, meta: m, size: hdr.Size, sparse: isSparse(hdr), fd: -1}
	f.pending.Store(1)
	err := f.feed(ctx, tr)
	if err != nil {
		f.fail(err)
	}
	if err != nil || hdr.Size > chunk {
		f.release()
	}
	return err
}

// feed cuts the content into pieces.
func (f *outFile) feed(ctx context.Context, tr *tar.Reader) error {
	x := f.x
	if f.size <= chunk {
		var buf []byte
		var cost int64
		if f.size > 0 {
			var err error
			if buf, cost, err = x.pool.get(ctx, int(f.size)); err != nil {
				return err
			}
			if _, err := io.ReadFull(tr, buf); err != nil {
				x.pool.put(buf, cost)
				return archiveErr(err)
			}
		}
		x.pool.send(job{f: f, buf: buf, cost: cost}) // takes over the parser's pending
		return nil
	}
	if err := f.create(); err != nil {
		return err
	}
	for off := int64(0); off < f.size; {
		if failed := f.err.Load(); failed != nil {
			return *failed
		}
		n := int(min(chunk, f.size-off))
		buf, cost, err := x.pool.get(ctx, n)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(tr, buf); err != nil {
			x.pool.put(buf, cost)
			return archiveErr(err)
		}
		f.pending.Add(1)
		x.pool.send(job{f: f, buf: buf, cost: cost, off: off})
		off += int64(n)
	}
	return nil
}

// create makes the file, replacing an earlier non-directory of the same name.
func (f *outFile) create() error {
	open := func() (int, error) {
		return f.x.tree.open(f.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	}
	fd, err := open()
	if err == unix.EEXIST {
		if err = f.x.unlink(f.path); err == nil {
			fd, err = open()
		}
	}
	if err == nil {
		f.fd = fd
	}
	return err
}

// run writes one piece on a writer goroutine.
func (f *outFile) run(j job) {
	start := time.Now()
	if f.err.Load() == nil {
		var err error
		if f.fd < 0 {
			err = f.create()
		}
		if err == nil {
			err = f.write(j.buf, j.off)
		}
		if err != nil {
			f.fail(err)
		}
	}
	f.release()
	f.x.writeNanos.Add(int64(time.Since(start)))
}

func (f *outFile) fail(err error) { f.err.CompareAndSwap(nil, &err) }

// release drops one pending; the last one sets metadata and closes.
func (f *outFile) release() {
	if f.pending.Add(-1) > 0 {
		return
	}
	var err error
	if failed := f.err.Load(); failed != nil {
		err = *failed
	}
	if f.fd >= 0 {
		if err == nil && f.sparse { // a hole at the end was never written
			err = unix.Ftruncate(f.fd, f.size)
		}
		if err == nil {
			err = f.x.apply(f.fd, f.path, f.meta)
		}
		if err == nil {
			err = f.x.layer.usage.addFd(f.fd)
		}
		if cerr := unix.Close(f.fd); err == nil && cerr != nil && cerr != unix.EINTR {
			err = cerr // NFS and quotas report lost writes here
		}
	}
	f.x.end(f.path, err)
}

// write puts p at off; in a sparse file, pages of zeros are left out.
func (f *outFile) write(p []byte, off int64) error {
	const page = 4096 // bytes: the granularity of holes on Linux file systems
	for len(p) > 0 {
		n := len(p)
		if f.sparse {
			n = min(page, n)
			if isZero(p[:n]) {
				p, off = p[n:], off+int64(n)
				continue
			}
		}
		w, err := retry(func() (int, error) { return unix.Pwrite(f.fd, p[:n], off) })
		if err != nil {
			return err
		}
		p, off = p[w:], off+int64(w)
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// apply sets the metadata of a file or directory by descriptor. Order matters:
// chown clears setuid bits and security.capability, and everything moves times.
func (x *extraction) apply(fd int, path string, m meta) error {
	owned, err := x.chown(path, m, func() error { return unix.Fchown(fd, m.uid, m.gid) })
	if err != nil {
		return err
	}
	if err := unix.Fchmod(fd, x.safeMode(path, m.mode, owned)); err != nil {
		return err
	}
	for name, value := range m.xattrs {
		if err := x.xattr(path, name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	return futimes(fd, m.times[:], func() error {
		return x.tree.at(path, func(dirfd int, base string) error {
			return unix.UtimesNanoAt(dirfd, base, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
		})
	})
}

// futimes sets times by descriptor, or by path before Linux 5.8.
func futimes(fd int, times []unix.Timespec, byPath func() error) error {
	err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT {
		err = byPath()
	}
	return err
}

// chown sets an owner where that is possible, and reports whether it is now the
// wanted one.
func (x *extraction) chown(path string, m meta, set func() error) (bool, error) {
	if !x.privileged {
		if m.uid == os.Geteuid() && m.gid == os.Getegid() {
			return true, nil // what a new file has anyway
		}
		x.layer.notes.add(noteOwner, path)
		return false, nil
	}
	err := set()
	if err == unix.EINVAL || err == unix.EPERM { // the id is not mapped in our user namespace
		x.layer.notes.add("owner not set (id not mapped in this user namespace)", path)
		return false, nil
	}
	return err == nil, err
}

// safeMode drops setuid and setgid from a file whose owner could not be set: such
// a file would lend everybody the rights of whoever runs this.
func (x *extraction) safeMode(path string, mode uint32, owned bool) uint32 {
	const lend = unix.S_ISUID | unix.S_ISGID
	if !owned && mode&lend != 0 {
		x.layer.notes.add("setuid or setgid bit not set (the owner is not)", path)
		return mode & 0o7777 &^ lend
	}
	return mode & 0o7777
}

// xattr judges the outcome of setting an attribute: file systems without
// attributes and processes without the right are noted, the rest is an error.
func (x *extraction) xattr(path, name string, err error) error {
	switch err {
	case unix.ENOTSUP, unix.EPERM, unix.EACCES:
		x.layer.notes.add("attribute "+shorten(name)+" not set ("+err.Error()+")", path)
		return nil
	case unix.ERANGE, unix.EINVAL:
		return fmt.Errorf("%w: attribute %q: %w", ErrFormat, shorten(name), err)
	}
	return err
}

// device makes a device node when that is allowed.
func (x *extraction) device(path string, hdr *tar.Header, m meta) error {
	const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // bits of dev_t in the kernel
	if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
		return fmt.Errorf("%w: device %d:%d out of range", ErrFormat, hdr.Devmajor, hdr.Devminor)
	}
	if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		// Overlayfs reads this very node as a whiteout: a layer must not smuggle one in.
		x.layer.notes.add("device 0:0 left out (overlayfs takes it for a whiteout)", hdr.Name)
		return nil
	}
	if !x.privileged {
		x.layer.notes.add("device node left out (needs root)", hdr.Name)
		return nil
	}
	m.mode |= unix.S_IFCHR
	if hdr.Typeflag == tar.TypeBlock {
		m.mode = m.mode&^unix.S_IFMT | unix.S_IFBLK
	}
	return x.special(path, m, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)), "")
}

// special makes a symbolic link (target != ""), device or fifo, in the parser:
// they are few and cost one call each.
func (x *extraction) special(path string, m meta, dev uint64, target string) error {
	make := func(dirfd int, base string) error {
		if target != "" {
			return unix.Symlinkat(target, dirfd, base)
		}
		return unix.Mknodat(dirfd, base, m.mode, int(dev))
	}
	return x.tree.at(path, func(dirfd int, base string) error {
		err := make(dirfd, base)
		if err == unix.EEXIST {
			if err = x.drop(dirfd, base); err == nil {
				err = make(dirfd, base)
			}
		}
		if err == unix.EPERM && target == "" {
			x.layer.notes.add("device node left out (not permitted here)", path)
			return nil
		}
		if err != nil {
			return err
		}
		if err := x.applySpecial(dirfd, base, path, m, target != ""); err != nil {
			return err
		}
		return x.layer.usage.addAt(dirfd, base)
	})
}

// applySpecial is apply for nodes that must not be opened.
func (x *extraction) applySpecial(dirfd int, base, path string, m meta, isLink bool) error {
	owned, err := x.chown(path, m, func() error {
		return unix.Fchownat(dirfd, base, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return err
	}
	if !isLink { // links have no mode of their own
		if err := unix.Fchmodat(dirfd, base, x.safeMode(path, m.mode, owned), 0); err != nil {
			return err
		}
	}
	for name, value := range m.xattrs {
		where := "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + base
		if err := x.xattr(path, name, unix.Lsetxattr(where, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dirfd, base, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
}
