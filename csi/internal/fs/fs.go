package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/csi/internal/tree"
)

// Root is the inode number of the root directory (FUSE_ROOT_ID).
const Root = 1

// DefaultMetadataTTL is how long what is known of a name is reused. One second: long enough that "ls -l" followed by
// reading the files costs no further request, short enough that a change elsewhere shows at once to a person.
const DefaultMetadataTTL = time.Second

// openTTL is how long, by default, an open trusts what was just learned of a name: long enough for the lookup that the
// kernel makes right before the open, and no longer. So whoever opens a file after it was replaced gets the new version.
// (Mountpoint for Amazon S3 has the same figure.)
const openTTL = 100 * time.Millisecond

// Default permissions: everybody may read, nobody may write, as all of it is read-only.
const (
	DefaultFileMode = 0o444
	DefaultDirMode  = 0o555
)

// Options configure an [FS]. The zero value is the whole bucket, owned by uid 0.
type Options struct {
	Prefix      string        // root of the tree: "" or ending in "/"
	MetadataTTL time.Duration // 0: DefaultMetadataTTL, with opens always confirmed; negative: ask the store every time
	UID, GID    uint32        // owner of everything
	FileMode    uint32        // permission bits of files; 0: DefaultFileMode
	DirMode     uint32        // permission bits of directories; 0: DefaultDirMode
	Limits      *Limits       // of all file systems of the process; nil: of this one alone
}

// withDefaults returns the options without zeros, and how long an open trusts what is known.
func (o Options) withDefaults() (Options, time.Duration) {
	open := o.MetadataTTL
	if o.MetadataTTL == 0 {
		o.MetadataTTL, open = DefaultMetadataTTL, openTTL
	}
	if o.FileMode == 0 {
		o.FileMode = DefaultFileMode
	}
	if o.DirMode == 0 {
		o.DirMode = DefaultDirMode
	}
	return o, open
}

// Attr is what stat shows of an inode. It never changes while the inode lives.
type Attr struct {
	Ino      uint64
	Kind     tree.Kind
	Mode     uint32 // type and permission bits as in st_mode
	Size     int64
	ModTime  time.Time
	UID, GID uint32
}

// OpenFlags say what a handle is for.
type OpenFlags uint8

// OpenRead is a handle to read. OpenWrite, alone or with OpenRead, is refused with EROFS.
const (
	OpenRead OpenFlags = 1 << iota
	OpenWrite
)

// FS is the file system. Create it with [New], end it with [FS.Close].
type FS struct {
	store   Store
	opts    Options
	openTTL time.Duration
	nodes   *inodes
	share   *share
	mounted time.Time // modification time of directories, which have none of their own

	unsorted atomic.Bool // the store has listed names out of order

	mu     sync.Mutex // guards the handle tables; a leaf lock
	files  map[uint64]*fileHandle
	dirs   map[uint64]*dirHandle
	nextH  uint64
	closed bool
}

// fileHandle is an open file. reader is nil for an empty file: there is nothing to fetch.
type fileHandle struct {
	node   *node
	reader Reader
}

// New returns a file system over the store.
func New(store Store, opts Options) *FS {
	now := time.Now()
	opts, open := opts.withDefaults()
	if opts.Limits == nil {
		opts.Limits = NewLimits(0)
	}
	share := opts.Limits.share()
	return &FS{
		store: store, opts: opts, openTTL: open, nodes: newInodes(opts.Prefix, now, share.inode), share: share, mounted: now,
		files: map[uint64]*fileHandle{}, dirs: map[uint64]*dirHandle{}, nextH: 1,
	}
}

// MetadataTTL returns how long an answer about a name may be reused; 0 is not at all.
func (f *FS) MetadataTTL() time.Duration { return max(f.opts.MetadataTTL, 0) }

// since is the oldest confirmation that still counts at now. With caching off nothing does, not even one made now.
func since(now time.Time, ttl time.Duration) time.Time {
	if ttl < 0 {
		return now.Add(time.Hour)
	}
	return now.Add(-ttl)
}

// Lookup finds a name in a directory and counts one lookup of its inode, which the caller gives back with [FS.Forget].
func (f *FS) Lookup(ctx context.Context, parent uint64, name string) (Attr, error) {
	dir, err := f.dirNode("lookup", parent)
	if err != nil {
		return Attr{}, err
	}
	if len(name) > tree.MaxName {
		return Attr{}, &Error{"lookup", name, syscall.ENAMETOOLONG}
	}
	at := child{parent, name}
	now := time.Now()
	if n := f.nodes.refFresh(at, since(now, f.opts.MetadataTTL)); n != nil {
		return f.attr(n), nil
	}
	kind, obj, err := f.resolve(ctx, dir.obj.Key, name)
	if err != nil {
		return Attr{}, &Error{"lookup", dir.obj.Key + name, err}
	}
	return f.attr(f.nodes.ref(at, kind, obj, now)), nil
}

// resolve asks the store what a path below a prefix shows. The directory question and the file question go out
// together; a directory wins at once.
func (f *FS) resolve(ctx context.Context, prefix, path string) (tree.Kind, Object, error) {
	key, ok := tree.Key(prefix, path, tree.File)
	if !ok {
		return 0, Object{}, iofs.ErrNotExist
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		obj Object
		err error
	}
	file := make(chan answer, 1)
	go func() {
		obj, err := f.store.Stat(ctx, key)
		file <- answer{obj, err}
	}()
	isDir, dirErr := f.probe(ctx, key+"/")
	if isDir || dirErr != nil {
		cancel()
	}
	a := <-file // always: no goroutine outlives the call
	switch {
	case dirErr != nil:
		return 0, Object{}, dirErr
	case isDir:
		return tree.Dir, Object{Key: key + "/"}, nil
	case a.err != nil:
		return 0, Object{}, a.err
	default:
		return tree.File, a.obj, nil
	}
}

// probe reports whether any key starts with prefix.
func (f *FS) probe(ctx context.Context, prefix string) (bool, error) {
	if len(prefix) > tree.MaxKey {
		return false, nil
	}
	for _, err := range f.store.List(ctx, prefix, 1) {
		return err == nil, err
	}
	return false, nil
}

// Forget takes back count lookups of an inode.
func (f *FS) Forget(ino, count uint64) { f.nodes.forget(ino, count) }

// GetAttr returns the attributes of an inode. It asks nobody: an inode is one version.
func (f *FS) GetAttr(ino uint64) (Attr, error) {
	n := f.nodes.get(ino)
	if n == nil {
		return Attr{}, &Error{"getattr", "", syscall.ESTALE}
	}
	return f.attr(n), nil
}

func (f *FS) attr(n *node) Attr {
	a := f.attrOf(n.kind, n.obj)
	a.Ino = n.ino
	return a
}

func (f *FS) attrOf(kind tree.Kind, o Object) Attr {
	a := Attr{Kind: kind, UID: f.opts.UID, GID: f.opts.GID}
	if kind == tree.Dir {
		a.Mode, a.ModTime = syscall.S_IFDIR|f.opts.DirMode, f.mounted
	} else {
		// HEAD gives whole seconds and LIST may give more: cut, so that one version always shows one time.
		a.Mode, a.Size, a.ModTime = syscall.S_IFREG|f.opts.FileMode, o.Size, o.ModTime.Truncate(time.Second)
	}
	return a
}

// Open opens a file. If the object was replaced or deleted since the inode was looked up, the error is ESTALE and the
// next Lookup of the name asks the store.
func (f *FS) Open(ctx context.Context, ino uint64, flags OpenFlags) (uint64, error) {
	n := f.nodes.get(ino)
	switch {
	case n == nil:
		return 0, &Error{"open", "", syscall.ESTALE}
	case n.kind == tree.Dir:
		return 0, &Error{"open", n.obj.Key, syscall.EISDIR}
	case flags&OpenWrite != 0:
		return 0, &Error{"open", n.obj.Key, syscall.EROFS}
	}
	if err := f.revalidate(ctx, n); err != nil {
		return 0, &Error{"open", n.obj.Key, err}
	}
	return f.openNode(ctx, n)
}

// revalidate asks the store whether n is still current, unless that is known well enough.
func (f *FS) revalidate(ctx context.Context, n *node) error {
	now := time.Now()
	if f.nodes.fresh(n, since(now, f.openTTL)) {
		return nil
	}
	obj, err := f.store.Stat(ctx, n.obj.Key)
	switch {
	case errors.Is(err, iofs.ErrNotExist), err == nil && !n.sameVersion(tree.File, obj):
		f.nodes.outdate(n)
		return syscall.ESTALE
	case err != nil:
		return err
	}
	f.nodes.confirm(n, now)
	return nil
}

// openNode makes a handle for the version of n.
func (f *FS) openNode(ctx context.Context, n *node) (uint64, error) {
	h := &fileHandle{node: n}
	if err := f.share.open(fileCost); err != nil {
		return 0, &Error{"open", n.obj.Key, err}
	}
	if n.obj.Size > 0 {
		r, err := f.store.Open(ctx, n.obj)
		if err != nil {
			f.share.release(fileCost)
			return 0, &Error{"open", n.obj.Key, err}
		}
		h.reader = r
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		if h.reader != nil {
			_ = h.reader.Close() // nothing was read through it
		}
		f.share.release(fileCost)
		return 0, &Error{"open", n.obj.Key, syscall.ENODEV}
	}
	id := f.nextH
	f.nextH++
	f.files[id] = h
	return id, nil
}

// Read reads into p from off. It is short only at the end of the file, with no error.
func (f *FS) Read(ctx context.Context, handle uint64, p []byte, off int64) (int, error) {
	f.mu.Lock()
	h := f.files[handle]
	f.mu.Unlock()
	if h == nil {
		return 0, &Error{"read", "", syscall.EBADF}
	}
	if off < 0 {
		return 0, &Error{"read", h.node.obj.Key, syscall.EINVAL}
	}
	size := h.node.obj.Size
	if off >= size || len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	n, err := h.reader.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return n, nil // io.EOF beside all the bytes is no error
	case err == nil, errors.Is(err, io.EOF):
		// The object ended before the size that it was opened with.
		return 0, &Error{"read", h.node.obj.Key, io.ErrUnexpectedEOF}
	case errors.Is(err, iofs.ErrNotExist):
		// Deleted under an open handle: its version is gone, as if replaced.
		f.nodes.outdate(h.node)
		return 0, &Error{"read", h.node.obj.Key, fmt.Errorf("%w: %w", ErrChanged, err)}
	case errors.Is(err, ErrChanged):
		f.nodes.outdate(h.node) // whoever opens the file after this error sees the new version
		return 0, &Error{"read", h.node.obj.Key, err}
	default:
		return 0, &Error{"read", h.node.obj.Key, err}
	}
}

// Reserve takes memory for a reply of n bytes to a read, waiting for it while programs read as much of this file system as
// it may have under way; see [Limits]. waiting is called before it waits. A reply from the caller's own memory needs none. Give it
// back with Unreserve.
func (f *FS) Reserve(ctx context.Context, n int, waiting func()) error {
	if err := f.share.reserve(ctx, int64(n), waiting); err != nil {
		return &Error{"read", "", err}
	}
	return nil
}

// Unreserve gives back what Reserve took.
func (f *FS) Unreserve(n int) { f.share.unreserve(int64(n)) }

// Release ends a file handle.
func (f *FS) Release(handle uint64) {
	f.mu.Lock()
	h := f.files[handle]
	delete(f.files, handle)
	f.mu.Unlock()
	if h == nil {
		return
	}
	if h.reader != nil {
		_ = h.reader.Close() // a reader has nothing to lose at close
	}
	f.share.release(fileCost)
}

// Usage is what statfs shows. A bucket has no size and no free space of its own.
type Usage struct {
	Inodes  int // inodes that the kernel knows of
	Handles int // open files and directories
}

// Usage returns the gauges of the file system; all but the root inode are 0 when the kernel has let go of everything.
func (f *FS) Usage() Usage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Usage{Inodes: f.nodes.len(), Handles: len(f.files) + len(f.dirs)}
}

// Close ends every handle and waits for their goroutines. Calls that come later fail with EBADF or ENODEV.
func (f *FS) Close() error {
	f.mu.Lock()
	f.closed = true
	files, dirs := f.files, f.dirs
	f.files, f.dirs = map[uint64]*fileHandle{}, map[uint64]*dirHandle{}
	f.mu.Unlock()
	for _, h := range files {
		if h.reader != nil {
			_ = h.reader.Close() // a reader has nothing to lose at close
		}
	}
	for _, d := range dirs {
		d.close()
	}
	f.share.end()
	return nil
}

// Crowded receives when this file system should have the kernel forget inodes, [FS.Surplus] of them, those of
// [FS.Oldest].
func (f *FS) Crowded() <-chan struct{} { return f.share.crowded }

// Name is an inode of a directory as the kernel knows it.
type Name struct {
	Ino    uint64
	Parent uint64
	Name   string
	Dir    bool
}

// Surplus returns how many inodes the kernel should forget now.
func (f *FS) Surplus() int { return f.share.surplus() }

// Oldest returns inodes that the kernel should forget: those that were looked up longest ago, at most limit. Asked again
// it goes on with others.
func (f *FS) Oldest(limit int) []Name { return f.nodes.oldest(limit) }

// dirNode returns the node of a directory.
func (f *FS) dirNode(op string, ino uint64) (*node, error) {
	n := f.nodes.get(ino)
	switch {
	case n == nil:
		return nil, &Error{op, "", syscall.ESTALE}
	case n.kind != tree.Dir:
		return nil, &Error{op, n.obj.Key, syscall.ENOTDIR}
	}
	return n, nil
}
