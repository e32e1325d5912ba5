package untar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// meta is the metadata of an entry in the form that system calls take.
type meta struct {
	mode  uint32 // permission bits with setuid, setgid, sticky
	uid   uint32
	gid   uint32
	times [2]unix.Timespec // access, modification
	attrs []tarfile.Attr
}

// defaultDirMeta is the metadata of directories that no entry describes.
var defaultDirMeta = meta{mode: defaultDirMode}

// setIDBits are the mode bits that give other users the rights of the file's
// owner or group.
const setIDBits = unix.S_ISUID | unix.S_ISGID

// meta returns the metadata of a header.
func (x *extraction) meta(hdr *tarfile.Header) (meta, error) {
	const maxID = 1<<32 - 2 // -1 means "unchanged" to the kernel
	if hdr.UID < 0 || hdr.GID < 0 || hdr.UID > maxID || hdr.GID > maxID {
		return meta{}, badf("owner %d:%d out of range", hdr.UID, hdr.GID)
	}
	return meta{
		mode:  uint32(hdr.Mode & 0o7777),
		uid:   uint32(hdr.UID),
		gid:   uint32(hdr.GID),
		times: [2]unix.Timespec{timespec(hdr.Atime), timespec(hdr.Mtime)},
		attrs: x.allowedAttrs(hdr),
	}, nil
}

// allowedAttrs returns the extended attributes of a header that may be set.
// Attributes of trusted.* and of overlayfs are never taken from an archive. For
// example, with trusted.overlay.redirect a mount would show a directory of the
// attacker's choice. Other trusted.* attributes belong to the system;
// containerd leaves them out, too.
func (x *extraction) allowedAttrs(hdr *tarfile.Header) []tarfile.Attr {
	keep := hdr.Attrs
	for i, a := range hdr.Attrs {
		if refused(a.Name) == "" {
			continue
		}
		keep = append([]tarfile.Attr(nil), hdr.Attrs[:i]...)
		for _, a := range hdr.Attrs[i:] {
			if why := refused(a.Name); why != "" {
				x.layer.notes.add("attribute refused ("+why+")", tarfile.Shorten(hdr.Name)+": "+a.Name)
			} else {
				keep = append(keep, a)
			}
		}
		break
	}
	return keep
}

// refused returns the reason why an attribute is not set, or "".
func refused(name string) string {
	switch {
	case steersOverlay(name):
		return "it steers overlayfs"
	case strings.HasPrefix(name, "trusted."):
		return "trusted.* is the system's"
	}
	return ""
}

func steersOverlay(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// timespec converts a time. A time that the system cannot represent (after 2038
// on 32-bit systems) becomes the epoch.
func timespec(t tarfile.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(time.Unix(t.Sec, t.Nsec))
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}

func nanos(n *atomic.Int64) time.Duration { return time.Duration(n.Load()) }

// create creates the name of an operation and replaces an earlier non-directory
// of that name. It leaves a regular file open, so that its content can be
// written.
func (x *extraction) create(d *dirWork, o *op) error {
	if o.kind == opLink {
		return x.link(d, d, o)
	}
	err := x.make(d, o)
	if err == unix.EEXIST {
		if err = x.removeOld(d.fd, o.base); err == nil {
			err = x.make(d, o)
		}
	}
	if err == unix.EPERM && o.kind == opNode {
		x.layer.notes.add("device node left out (not permitted here)", join(d.path, o.base))
		o.skipped = true
		return nil
	}
	if err == nil && o.kind != opFile {
		err = x.applySpecial(d, o)
	}
	return err
}

func (x *extraction) make(d *dirWork, o *op) error {
	switch o.kind {
	case opSymlink:
		return retryErr(func() error { return unix.Symlinkat(o.target, d.fd, o.base) })
	case opNode:
		mode := o.node | o.meta.mode&0o777
		return retryErr(func() error { return unix.Mknodat(d.fd, o.base, mode, int(o.dev)) }) //nolint:gosec // 32 bits, see device
	}
	// The file gets its final mode here, so that usually no chmod is needed.
	// apply adds setuid and setgid bits once the owner is set. Setting
	// attributes needs a writable file.
	mode := o.meta.mode & 0o777
	if len(o.meta.attrs) > 0 || x.keepOwners {
		mode |= 0o200
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Openat(d.fd, o.base, flags, mode) })
	if err == nil {
		o.fd = fd
	}
	return err
}

// link creates o.base in d as a hard link to o.from in the directory from.
func (x *extraction) link(from, d *dirWork, o *op) error {
	if from == d && o.from == o.base { // a link to itself
		var st unix.Stat_t
		err := unix.Fstatat(d.fd, o.base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			return x.waitFor(d, o)
		}
		return err
	}
	err := retryErr(func() error { return unix.Linkat(from.fd, o.from, d.fd, o.base, 0) })
	if err == unix.EEXIST {
		if err = x.removeOld(d.fd, o.base); err == nil {
			err = retryErr(func() error { return unix.Linkat(from.fd, o.from, d.fd, o.base, 0) })
		}
	}
	if err == unix.ENOENT {
		return x.waitFor(d, o)
	}
	return err
}

// waitFor stores a hard link whose target does not exist yet. It removes an
// earlier entry of that name now; the link is created later.
func (x *extraction) waitFor(d *dirWork, o *op) error {
	if err := x.removeOld(d.fd, o.base); err != nil && err != unix.ENOENT {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var err error
	x.waiting, err = x.layer.addLink(x.waiting, d.id, join(d.path, o.base), o.base, o.target, o.entry)
	return err
}

// apply sets the metadata of an open file or directory where it differs from
// the metadata at creation. The order matters, because chown clears setuid bits
// and security.capability, and every change updates the times.
func (x *extraction) apply(fd int, dir, base string, m *meta) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	owned := true
	if st.Uid != m.uid || st.Gid != m.gid {
		var err error
		owned, err = x.chown(dir, base, func() error { return unix.Fchown(fd, int(m.uid), int(m.gid)) })
		if err != nil {
			return err
		}
	}
	for _, a := range m.attrs {
		if err := x.checkAttrError(dir, base, a.Name, len(a.Value), unix.Fsetxattr(fd, a.Name, []byte(a.Value), 0)); err != nil {
			return err
		}
	}
	kept := !owned && x.keepOwners
	if kept {
		if err := x.checkAttrError(dir, base, overrideAttr, 0, unix.Fsetxattr(fd, overrideAttr, m.override(), 0)); err != nil {
			return err
		}
	}
	// An access control list among the attributes changes the mode, too.
	if mode := x.safeMode(dir, base, m.mode, owned); st.Mode&0o7777 != mode || len(m.attrs) > 0 {
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	if len(m.attrs) > 0 || kept {
		if err := unix.Fstat(fd, &st); err != nil { // attributes may take a block
			return err
		}
	}
	x.layer.usage.add(&st)
	return futimes(fd, m.times[:], func() error {
		return x.tree.at(join(dir, base), func(dirfd int, base string) error {
			return unix.UtimesNanoAt(dirfd, base, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
		})
	})
}

// overrideAttr is the attribute that stores an owner that cannot be set, see
// Options.KeepOwners.
const overrideAttr = "user.containers.override_stat"

func (m *meta) override() []byte { return fmt.Appendf(nil, "%d:%d:0%o", m.uid, m.gid, m.mode) }

// futimes sets times by descriptor, or by calling byPath if the kernel cannot
// (before Linux 5.8).
func futimes(fd int, times []unix.Timespec, byPath func() error) error {
	err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT {
		err = byPath()
	}
	return err
}

// chown calls set, which sets the owner of a file, if the process has the
// privilege. It adds a note and returns false if the owner could not be set.
func (x *extraction) chown(dir, base string, set func() error) (bool, error) {
	if !x.privileged {
		x.layer.notes.add(noteOwner, join(dir, base))
		return false, nil
	}
	err := set()
	if err == unix.EINVAL || err == unix.EPERM { // the id is not mapped in our user namespace
		x.layer.notes.add("owner not set (id not mapped in this user namespace)", join(dir, base))
		return false, nil
	}
	return err == nil, err
}

// safeMode removes the setuid and setgid bits from the mode of a file whose
// owner could not be set. Otherwise the file would give every user the rights
// of the extracting process.
func (x *extraction) safeMode(dir, base string, mode uint32, owned bool) uint32 {
	if !owned && mode&setIDBits != 0 {
		x.layer.notes.add("setuid or setgid bit not set (the owner is not)", join(dir, base))
		return mode &^ setIDBits
	}
	return mode
}

// checkAttrError handles the error of setting an attribute, whose value has n
// bytes. It adds a note if the file system has no attributes or the process
// lacks the right, and returns all other errors.
func (x *extraction) checkAttrError(dir, base, name string, n int, err error) error {
	switch err {
	case unix.ENOTSUP, unix.EPERM, unix.EACCES:
		x.layer.notes.add("attribute of "+namespace(name)+" not set ("+err.Error()+")", tarfile.Shorten(join(dir, base))+": "+name)
		return nil
	case unix.ERANGE, unix.EINVAL:
		return fmt.Errorf("%w: attribute %q: %w", ErrFormat, tarfile.Shorten(name), err)
	case unix.E2BIG:
		return badf("attribute %q of %d bytes: Linux allows %d", tarfile.Shorten(name), n, maxAttrValue)
	case unix.ENOSPC:
		var fs unix.Statfs_t
		if unix.Fstatfs(x.tree.fd, &fs) == nil {
			return attrNoSpace(name, n, fs.Bavail, fs.Files, fs.Ffree)
		}
	}
	return err
}

const (
	// maxAttrValue is XATTR_SIZE_MAX of Linux.
	maxAttrValue = 64 << 10
	// attrRoom is the number of free blocks that rules out a full disk as the
	// cause of a failure. The largest attribute takes 64 blocks of 1 KiB, and
	// the margin allows for concurrent writes.
	attrRoom = 1 << 10
)

// attrNoSpace returns the error for an attribute that failed with ENOSPC, given
// the free blocks and inodes. ext4 returns ENOSPC for a full disk, and for
// attributes that do not fit in one block.
func attrNoSpace(name string, n int, blocks, inodes, freeInodes uint64) error {
	if blocks < attrRoom || inodes > 0 && freeInodes == 0 {
		return unix.ENOSPC
	}
	return fmt.Errorf("%w: %q of %d bytes, and the disk is not full: ext4 has room for one block of attributes of a file, "+
		"unless it was made with -O ea_inode; xfs and btrfs have more", ErrAttribute, tarfile.Shorten(name), n)
}

// namespace returns the namespace of an attribute, if Linux knows it. The
// archive chooses all other names, so they must not appear in the kind of a
// note.
func namespace(name string) string {
	switch head, _, _ := strings.Cut(name, "."); head {
	case "security", "system", "trusted", "user":
		return head + ".*"
	}
	return "an unknown namespace"
}

// device creates a device node if that is allowed.
func (x *extraction) device(d *dirWork, o op, hdr *tarfile.Header) error {
	const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // bits of dev_t in the kernel
	if hdr.Major < 0 || hdr.Major > maxMajor || hdr.Minor < 0 || hdr.Minor > maxMinor {
		return badf("device %d:%d out of range", hdr.Major, hdr.Minor)
	}
	if hdr.Type == tarfile.TypeChar && hdr.Major == 0 && hdr.Minor == 0 {
		// Overlayfs reads this node as a whiteout, and an archive must not
		// create overlayfs whiteouts.
		x.layer.notes.add("device 0:0 left out (overlayfs takes it for a whiteout)", hdr.Name)
		return nil
	}
	if !x.privileged {
		x.layer.notes.add("device node left out (needs root)", hdr.Name)
		return nil
	}
	o.kind, o.node = opNode, unix.S_IFCHR
	if hdr.Type == tarfile.TypeBlock {
		o.node = unix.S_IFBLK
	}
	o.dev = unix.Mkdev(uint32(hdr.Major), uint32(hdr.Minor))
	return x.add(d, o)
}

// applySpecial does the work of apply for symbolic links and special files,
// which must not be opened.
func (x *extraction) applySpecial(d *dirWork, o *op) error {
	m := &o.meta
	isLink := o.kind == opSymlink
	var st unix.Stat_t
	stat := func() error { return unix.Fstatat(d.fd, o.base, &st, unix.AT_SYMLINK_NOFOLLOW) }
	if err := stat(); err != nil {
		return err
	}
	owned := true
	if st.Uid != m.uid || st.Gid != m.gid {
		var err error
		owned, err = x.chown(d.path, o.base, func() error {
			return unix.Fchownat(d.fd, o.base, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			return err
		}
	}
	if !isLink { // symbolic links have no mode
		if mode := x.safeMode(d.path, o.base, m.mode, owned); st.Mode&0o7777 != mode {
			if err := unix.Fchmodat(d.fd, o.base, mode, 0); err != nil {
				return err
			}
		}
	}
	for _, a := range m.attrs {
		where := "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + o.base
		if err := x.checkAttrError(d.path, o.base, a.Name, len(a.Value), unix.Lsetxattr(where, a.Name, []byte(a.Value), 0)); err != nil {
			return err
		}
	}
	if len(m.attrs) > 0 {
		if err := stat(); err != nil {
			return err
		}
	}
	x.layer.usage.add(&st)
	return unix.UtimesNanoAt(d.fd, o.base, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// finishDir sets the metadata of a directory. Its parent still has all rights.
// Most directories need only times, which are set without opening them.
func (x *extraction) finishDir(path string, id dirID) error {
	dir, base := split(path)
	m := x.dirMeta(id)
	explicit := x.dirs.nodes[id].flags&dirExplicit != 0
	if path == "." || len(m.attrs) > 0 || m.mode&setIDBits != 0 || x.keepOwners {
		return x.finishDirByFd(path, &m, explicit)
	}
	parent, err := x.work(dir, x.dirs.nodes[id].parent)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode != unix.S_IFDIR|m.mode {
		return x.finishDirByFd(path, &m, explicit)
	}
	x.layer.usage.add(&st)
	if !explicit { // keep the owner and times of its creation
		return nil
	}
	if st.Uid != m.uid || st.Gid != m.gid {
		_, err := x.chown(dir, base, func() error {
			return unix.Fchownat(parent.fd, base, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(parent.fd, base, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (x *extraction) finishDirByFd(path string, m *meta, explicit bool) error {
	fd, err := x.tree.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if explicit {
		dir, base := split(path)
		return x.apply(fd, dir, base, m)
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return err
	}
	return x.layer.usage.addFd(fd)
}

// explain adds the free bytes and inodes to the error of a full file system.
func (x *extraction) explain(err error) error {
	if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(x.tree.fd, &fs) != nil {
		return err
	}
	const mib = 1 << 20
	unit := uint64(fs.Bsize) //nolint:gosec // a block size is positive
	return fmt.Errorf("%w (%s has %d of %d MiB and %d of %d inodes free: make room, or unpack elsewhere)",
		err, x.layer.Dir, fs.Bavail*unit/mib, fs.Blocks*unit/mib, fs.Ffree, fs.Files)
}
