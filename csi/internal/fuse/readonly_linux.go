package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// The mount is read-only, so the kernel refuses these by itself; but a remount can take that away, and the answer must
// stay the same. None is asked on the way of a read.

// SetAttr implements gofuse.RawFileSystem.
func (b *bridge) SetAttr(<-chan struct{}, *gofuse.SetAttrIn, *gofuse.AttrOut) gofuse.Status {
	return gofuse.EROFS
}

// Mknod implements gofuse.RawFileSystem.
func (b *bridge) Mknod(<-chan struct{}, *gofuse.MknodIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Mkdir implements gofuse.RawFileSystem.
func (b *bridge) Mkdir(<-chan struct{}, *gofuse.MkdirIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Unlink implements gofuse.RawFileSystem.
func (b *bridge) Unlink(<-chan struct{}, *gofuse.InHeader, string) gofuse.Status { return gofuse.EROFS }

// Rmdir implements gofuse.RawFileSystem.
func (b *bridge) Rmdir(<-chan struct{}, *gofuse.InHeader, string) gofuse.Status { return gofuse.EROFS }

// Rename implements gofuse.RawFileSystem.
func (b *bridge) Rename(<-chan struct{}, *gofuse.RenameIn, string, string) gofuse.Status {
	return gofuse.EROFS
}

// Link implements gofuse.RawFileSystem.
func (b *bridge) Link(<-chan struct{}, *gofuse.LinkIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Symlink implements gofuse.RawFileSystem.
func (b *bridge) Symlink(<-chan struct{}, *gofuse.InHeader, string, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Create implements gofuse.RawFileSystem.
func (b *bridge) Create(<-chan struct{}, *gofuse.CreateIn, string, *gofuse.CreateOut) gofuse.Status {
	return gofuse.EROFS
}

// Write implements gofuse.RawFileSystem.
func (b *bridge) Write(<-chan struct{}, *gofuse.WriteIn, []byte) (uint32, gofuse.Status) {
	return 0, gofuse.EROFS
}
