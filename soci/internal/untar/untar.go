package untar

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// Errors that callers distinguish.
var (
	// ErrUnsafe is the error of an entry that would leave the root.
	ErrUnsafe = errors.New("unsafe path")
	// ErrLimit is the error of an archive that exceeds the limits.
	ErrLimit = tarfile.ErrLimit
	// ErrFormat is the error of an archive that is malformed or cannot be
	// extracted.
	ErrFormat = tarfile.ErrFormat
	// ErrAttribute is the error of an attribute that is too large for the file
	// system.
	ErrAttribute = errors.New("attribute too large for this file system")
)

// Error is an error at one entry of an archive.
type Error struct {
	Entry string // name in the archive, or "" between entries
	Err   error
}

func (e *Error) Error() string {
	if e.Entry == "" {
		return "unpack: " + e.Err.Error()
	}
	return fmt.Sprintf("unpack %q: %v", tarfile.Shorten(e.Entry), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// badf returns an ErrFormat with a message.
func badf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Block is a part of a stream.
type Block = tarfile.Block

// BlockReader is a stream that lends out its memory. If the stream given to
// [Extract] is a BlockReader, Extract never calls its Read, and writes its
// bytes to files straight from the blocks. The writers hold the blocks that
// they have not written yet. A stream with few blocks may make an extraction
// wait, but it must provide another block once the extraction has released all
// blocks but one.
type BlockReader = tarfile.BlockReader

// Limits bound an archive. A negative value means no limit.
type Limits struct {
	Entries   int64 // number of entries of all layers of an image
	Depth     int   // number of components of a path
	NameLen   int   // bytes of a path
	TotalSize int64 // bytes of all regular files of all layers
	// Attributes bounds the names and values of one entry's extended
	// attributes, in bytes.
	Attributes int64
}

// DefaultLimits returns limits that far exceed any real image and still protect
// a node.
func DefaultLimits() Limits {
	return Limits{
		Entries:   10_000_000, // the largest AI images have about one million files
		Depth:     255,        // node_modules trees reach 60; beyond 255 path walks get slow
		NameLen:   4096,       // PATH_MAX of Linux
		TotalSize: 1 << 40,    // 1 TiB: thirty times the 35 GB image of the goals

		Attributes: 1 << 20, // 1 MiB, as for an extended header
	}
}

// Meter counts entries and bytes of all layers of an image against the limits.
// It is safe for concurrent use.
type Meter struct {
	limits  Limits
	entries atomic.Int64
	bytes   atomic.Int64
	mem     *Memory
	held    int64 // bytes of mem; guarded by its lock
}

// freeAttrs is the number of extended attributes of an entry that do not count.
// Each further attribute counts as an entry, because setting it costs about as
// much as creating a file.
const freeAttrs = 16

// countEntry counts an entry with a cleaned name, n bytes of content and a
// number of extended attributes.
func (m *Meter) countEntry(name string, n int64, attrs int) error {
	l := m.limits
	if l.NameLen >= 0 && len(name) > l.NameLen {
		return fmt.Errorf("%w: name of %d bytes, at most %d allowed (limit NameLen)", ErrLimit, len(name), l.NameLen)
	}
	if depth := strings.Count(name, "/") + 1; l.Depth >= 0 && depth > l.Depth {
		return fmt.Errorf("%w: %d directories deep, at most %d allowed (limit Depth)", ErrLimit, depth, l.Depth)
	}
	if n < 0 {
		return fmt.Errorf("%w: negative size %d", ErrFormat, n)
	}
	if have := m.entries.Add(1 + int64(max(0, attrs-freeAttrs))); l.Entries >= 0 && have > l.Entries {
		return fmt.Errorf("%w: more than %d entries (limit Entries; extended attributes beyond %d of one entry count too)", ErrLimit, l.Entries, freeAttrs)
	}
	// The size of a file is counted before its content is written, so an
	// excessive header is refused at once. The sum cannot overflow, because
	// each counted size is at most the limit, and without a limit no disk holds
	// 2^63 bytes.
	if l.TotalSize >= 0 && n > l.TotalSize {
		return fmt.Errorf("%w: file of %d bytes, at most %d allowed (limit TotalSize)", ErrLimit, n, l.TotalSize)
	}
	if have := m.bytes.Add(n); l.TotalSize >= 0 && have > l.TotalSize {
		return fmt.Errorf("%w: more than %d bytes of files (limit TotalSize)", ErrLimit, l.TotalSize)
	}
	return nil
}

// Options configure Extract.
type Options struct {
	Pool  *Pool  // file writers; required
	Meter *Meter // required
	// Unprivileged makes Extract act as if a normal user ran it: it reports
	// owners and device nodes in notes instead of setting them. A process that
	// is not root is always unprivileged.
	Unprivileged bool
	// KeepOwners stores an owner that cannot be set, and the mode with its
	// setuid and setgid bits, in the attribute user.containers.override_stat of
	// a file or directory ("uid:gid:0mode"). fuse-overlayfs and
	// containers/storage read it; the overlayfs of the kernel does not.
	KeepOwners bool

	// Checkpoints, unless nil, lets another process resume the extraction.
	Checkpoints *Checkpoints

	walk bool // for tests: resolve paths as on kernels without openat2
}

// Form is the form in which overlayfs stores opaque directories.
type Form int

// Forms of overlay metadata.
const (
	TrustedXattr Form = iota // trusted.overlay.opaque: the normal mount, needs root
	UserXattr                // user.overlay.opaque: mounts with the userxattr option
)

// prefix returns the prefix of the attributes of overlayfs.
func (f Form) prefix() string {
	if f == UserXattr {
		return "user.overlay."
	}
	return "trusted.overlay."
}

// Note is a warning about metadata that could not be set.
type Note struct {
	What    string
	Count   int64
	Example string // the smallest path, so that equal runs return equal notes
}

func (n Note) String() string {
	if n.Count == 1 {
		return fmt.Sprintf("%s: %s", n.What, n.Example)
	}
	return fmt.Sprintf("%s: %d entries, for example %s", n.What, n.Count, n.Example)
}

// Layer is an extracted layer: its directory, and a record of how it affects
// lower layers.
type Layer struct {
	Dir     string
	Entries int64 // of the archive
	Files   int64 // regular files
	Bytes   int64 // content of regular files
	Write   time.Duration

	dirs      *dirTable  // nil for a layer from OpenLayer
	whiteouts []whiteout // names removed from lower layers; sorted by settle
	lower     []link     // hard links whose target is in a lower layer
	texts     arena      // of lower
	mem       *ledger    // of dirs, whiteouts and lower
	notes     notes
	usage     usage
	form      Form // of the overlayfs marks on disk, once Overlay has run
	opened    bool // made by OpenLayer
}

// Usage returns the disk space of the layer, counted while it was written,
// including the additions of Overlay. A file system that allocates blocks late
// may use a few more for large files. Usage is zero for a layer from OpenLayer,
// and invalid after Merge.
func (l *Layer) Usage() Usage { return l.usage.sum() }

// Usage is the disk space of a layer. It is counted as containerd counts a
// snapshot: every inode once, including the directory of the layer.
type Usage struct {
	Bytes  int64 // allocated or reserved blocks, times 512
	Inodes int64
}

// usage counts Usage while a layer is written. It reads the block count of a
// file right before the file is closed, so that the count includes the blocks
// for attributes and excludes holes.
type usage struct {
	blocks atomic.Int64
	inodes atomic.Int64
}

func (u *usage) sum() Usage {
	const unit = 512 // bytes of a block in struct stat on every file system
	return Usage{Bytes: u.blocks.Load() * unit, Inodes: u.inodes.Load()}
}

// noteOwner is the kind of note for an owner that could not be set.
const noteOwner = "owner not set (needs root)"

// Notes merges the notes of layers, sorted by kind.
func Notes(layers ...*Layer) []Note {
	var sum notes
	for _, l := range layers {
		for _, n := range l.notes.list() {
			sum.merge(n)
		}
	}
	return sum.list()
}

// whiteout removes a name of lower layers. The name is in dirs.names.
type whiteout struct {
	dir  dirID
	name nameRef
}

const whiteoutBytes = 12

// link is a hard link whose target does not exist yet. Its names are in
// Layer.texts.
type link struct {
	dir    dirID
	name   nameRef
	target nameRef // logical, cleaned
	entry  nameRef // name in the archive, for messages; empty if it equals the path
}

const linkBytes = 28

// addWhiteout stores a whiteout.
func (l *Layer) addWhiteout(dir dirID, name string) error {
	if len(name) > maxText {
		return errTooLong
	}
	if err := l.mem.charge(whiteoutBytes + int64(len(name))); err != nil {
		return err
	}
	l.whiteouts = append(l.whiteouts, whiteout{dir, l.dirs.names.add(name)})
	return nil
}

// addLink appends a hard link to a list.
func (l *Layer) addLink(to []link, dir dirID, path, name, target, entry string) ([]link, error) {
	if entry == path {
		entry = ""
	}
	if len(name) > maxText || len(target) > maxText {
		return to, errTooLong
	}
	entry = entry[:min(len(entry), maxText)]
	if err := l.mem.charge(linkBytes + int64(len(name)+len(target)+len(entry))); err != nil {
		return to, err
	}
	return append(to, link{dir, l.texts.add(name), l.texts.add(target), l.texts.add(entry)}), nil
}

func (l *Layer) linkPath(ln link) string {
	return join(l.dirs.path(ln.dir), string(l.texts.bytes(ln.name)))
}

func (l *Layer) linkTarget(ln link) string { return string(l.texts.bytes(ln.target)) }

func (l *Layer) linkEntry(ln link) string {
	if ln.entry.n > 0 {
		return string(l.texts.bytes(ln.entry))
	}
	return l.linkPath(ln)
}

// sortWhiteouts sorts the whiteouts by directory and name, and removes
// duplicates and whiteouts in removed directories.
func (l *Layer) sortWhiteouts() {
	l.dirs.markDead()
	l.whiteouts = slices.DeleteFunc(l.whiteouts, func(w whiteout) bool { return l.dirs.isDead(w.dir) })
	slices.SortFunc(l.whiteouts, func(a, b whiteout) int {
		return cmp.Or(cmp.Compare(a.dir, b.dir), bytes.Compare(l.dirs.names.bytes(a.name), l.dirs.names.bytes(b.name)))
	})
	l.whiteouts = slices.CompactFunc(l.whiteouts, func(a, b whiteout) bool {
		return a.dir == b.dir && bytes.Equal(l.dirs.names.bytes(a.name), l.dirs.names.bytes(b.name))
	})
}

// whiteoutsOf returns the whiteouts in a directory.
func (l *Layer) whiteoutsOf(dir dirID) []whiteout {
	i, _ := slices.BinarySearchFunc(l.whiteouts, dir, func(w whiteout, dir dirID) int { return cmp.Compare(w.dir, dir) })
	n, _ := slices.BinarySearchFunc(l.whiteouts[i:], dir+1, func(w whiteout, dir dirID) int { return cmp.Compare(w.dir, dir) })
	return l.whiteouts[i : i+n]
}

// hasWhiteout reports whether the layer has a whiteout of path.
func (l *Layer) hasWhiteout(path string) bool {
	parent, base := split(path)
	dir, ok := l.dirs.find(parent)
	if !ok {
		return false
	}
	_, found := slices.BinarySearchFunc(l.whiteouts, base, func(w whiteout, base string) int {
		return cmp.Or(cmp.Compare(w.dir, dir), strings.Compare(string(l.dirs.names.bytes(w.name)), base))
	})
	return found
}

// isOpaque reports whether the directory at path hides the content of lower
// layers.
func (l *Layer) isOpaque(path string) bool {
	id, ok := l.dirs.find(path)
	return ok && l.dirs.nodes[id].flags&dirOpaque != 0
}

// isImplicit reports whether path is a directory of the layer that no entry
// describes.
func (l *Layer) isImplicit(path string) bool {
	id, ok := l.dirs.find(path)
	return ok && l.dirs.nodes[id].flags&(dirExplicit|dirNamed) == 0
}

// Release returns the memory of the layer to its [Memory]. It must be called
// once the layer is no longer used. Further calls do nothing.
func (l *Layer) Release() {
	if l != nil {
		l.mem.release()
	}
}

// notes merges warnings by kind, so that 16,000 files without an owner make one
// note.
type notes struct {
	mu     sync.Mutex
	byWhat map[string]*Note
}

func (n *notes) add(what, where string) {
	n.merge(Note{What: what, Count: 1, Example: tarfile.Shorten(where)})
}

func (n *notes) merge(more Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byWhat == nil {
		n.byWhat = make(map[string]*Note)
	}
	have := n.byWhat[more.What]
	if have == nil {
		n.byWhat[more.What] = &more
		return
	}
	have.Count += more.Count
	have.Example = min(have.Example, more.Example)
}

func (n *notes) list() []Note {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Note
	for _, what := range slices.Sorted(maps.Keys(n.byWhat)) {
		out = append(out, *n.byWhat[what])
	}
	return out
}

// clean returns the logical path of the name of an entry, or of the target of a
// hard link: a relative path without empty, "." or ".." components; the root is
// ".". Absolute names are relative to the root, as in every tar. A name that
// leaves the root is refused, because no image builder writes one.
func clean(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: name holds a zero byte", ErrFormat)
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("%w: leaves the root", ErrUnsafe)
	}
	return p, nil
}

// join is path.Join for cleaned parts, where "." is the root.
func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// split is the inverse of join.
func split(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return ".", p
}

// Names with a special meaning in a layer (OCI image spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // AUFS bookkeeping such as .wh..wh.plnk, not content
	whiteoutOpaque = ".wh..wh..opq"
)
