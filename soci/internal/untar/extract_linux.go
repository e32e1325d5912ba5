package untar

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/tarfile"
)

// extraction is the state of one call of Extract. Only the parser uses the
// fields above mu, except where noted.
type extraction struct {
	tree       *tree
	pool       *Pool
	meter      *Meter
	privileged bool
	keepOwners bool
	layer      *Layer
	in         *tarfile.Reader
	// dirs is layer.dirs. It lists all directories, because the layer started
	// empty. So a path that dirs lacks is not a directory, and a logical path
	// that dirs holds crosses no symbolic link.
	dirs *dirTable
	// links caches the targets of symbolic links that were crossed.
	links map[string]string
	works []*dirWork // open directories
	open  map[dirID]*dirWork
	last  *dirWork // the directory whose batch is being filled, or nil
	clock uint64   // counts uses of works
	seed  maphash.Seed

	checkpoints *Checkpoints // or nil
	names       *madeNames   // its content is guarded by mu; nil without checkpoints

	writeNanos atomic.Int64

	mu      sync.Mutex // guards the fields below and dirWork.out
	change  sync.Cond  // signalled when pending shrinks
	pending int        // number of operations that the writers have
	err     error      // first error of a writer
	waiting []link     // hard links whose target does not exist yet; their texts are in layer.texts
}

// Bounds on how far the parser runs ahead of the writers.
const (
	maxPending = 512 // operations: a few batches for each of many writers
	maxLinks   = 40  // symbolic links that one path may cross, as in the kernel
	maxWorks   = 64  // open directories; few suffice, because archives list files in the order of a walk
	maxKnown   = 512 // cached symbolic links
)

// Extract unpacks the tar stream r into dir, which must be empty (but see
// [Checkpoints]). It reads up to the end of the archive, and may leave the
// bytes after it unread. If r is also a [BlockReader], its bytes are not
// copied.
func Extract(ctx context.Context, r io.Reader, dir string, opts Options) (*Layer, error) {
	t, err := openTree(dir, opts.walk)
	if err != nil {
		return nil, &Error{Err: err}
	}
	defer t.close()
	mem := &ledger{meter: opts.Meter}
	x := &extraction{
		tree:       t,
		pool:       opts.Pool,
		meter:      opts.Meter,
		privileged: os.Geteuid() == 0 && !opts.Unprivileged,
		keepOwners: opts.KeepOwners,
		layer:      &Layer{Dir: dir, dirs: newDirTable(mem), mem: mem},
		open:       make(map[dirID]*dirWork),
		links:      make(map[string]string),
		seed:       maphash.MakeSeed(),

		checkpoints: opts.Checkpoints,
	}
	x.dirs = x.layer.dirs
	x.change.L = &x.mu
	src, ok := r.(BlockReader)
	if !ok {
		src = &copied{r: r, pool: opts.Pool}
	}
	from := tarfile.Options{BeforeWait: x.flush, Charge: mem.change, MaxAttributes: opts.Meter.limits.Attributes}
	if c := opts.Checkpoints; c != nil && c.From != nil {
		from.Offset = c.At
		err = x.resume(ctx, c.From)
	}
	x.in = tarfile.NewReader(src, from)
	if err == nil {
		err = x.trackNames()
	}
	if err == nil {
		err = x.guard(func() error { return x.parse(ctx) })
	} else {
		err = &Error{Err: err}
	}
	x.in.Close()
	// Writers hold blocks of r until they are done, even after a failure.
	if werr := x.waitForWriters(nil); werr != nil && (err == nil || errors.Is(err, errStopped)) {
		err = werr
	}
	if err == nil {
		x.invalidateCheckpoints() // finishDirs changes directories
		err = x.guard(func() error { return x.finishDirs(ctx) })
	}
	for _, w := range x.works {
		_ = unix.Close(w.fd)
	}
	if err != nil {
		x.layer.Release()
		return nil, err
	}
	return x.layer, nil
}

// guard runs a step of the parser and turns a panic into an error.
func (x *extraction) guard(step func() error) (err error) {
	if bad := panics.Guard(func() { err = step() }); bad != nil {
		return &Error{Entry: x.in.Header().Name, Err: bad}
	}
	return err
}

// errStopped ends the parser after a writer has failed.
var errStopped = errors.New("stopped")

func (x *extraction) parse(ctx context.Context) error {
	for {
		hdr, err := x.in.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == io.EOF:
			return nil
		case errors.Is(err, errStopped):
			return err
		case err != nil:
			return &Error{Err: err}
		}
		if err := x.entry(ctx, hdr); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, errStopped) {
				return err
			}
			return wrap(hdr.Name, x.explain(err))
		}
	}
}

// entry extracts one entry.
func (x *extraction) entry(ctx context.Context, hdr *tarfile.Header) error {
	name, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	if err := x.meter.countEntry(name, hdr.Size, len(hdr.Attrs)); err != nil {
		return err
	}
	x.layer.Entries++
	dir, base := split(name)
	parent, in, err := x.resolve(dir, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(in, base)
	}
	m, err := x.meta(hdr)
	if err != nil {
		return err
	}
	if name == "." {
		return x.root(hdr, m)
	}
	path := join(parent, base)
	if len(x.links) > 0 {
		delete(x.links, path)
	}
	if hdr.Type == tarfile.TypeDir || hdr.Type == tarfile.TypeGNUDumpDir {
		return x.directory(in, path, m)
	}
	d, err := x.makeRoom(ctx, path, parent, in)
	if err != nil {
		return err
	}
	o := op{base: base, meta: m, fd: -1}
	switch hdr.Type {
	case tarfile.TypeFile, tarfile.TypeFileV7, tarfile.TypeContiguous, tarfile.TypeGNUSparse:
		return x.file(ctx, d, o, hdr)
	case tarfile.TypeHardLink:
		return x.hardLink(d, o, hdr)
	case tarfile.TypeSymlink:
		if hdr.Link == "" || len(hdr.Link) >= unix.PathMax || strings.IndexByte(hdr.Link, 0) >= 0 {
			return badf("symbolic link with a target of %d bytes, or with a zero byte in it", len(hdr.Link))
		}
		o.kind, o.target = opSymlink, hdr.Link
		return x.add(d, o)
	case tarfile.TypeFifo:
		o.kind, o.node = opNode, unix.S_IFIFO
		return x.add(d, o)
	case tarfile.TypeChar, tarfile.TypeBlock:
		return x.device(d, o, hdr)
	}
	x.layer.notes.add(fmt.Sprintf("entry of unknown type %q left out", hdr.Type), hdr.Name)
	return nil
}

// root records the metadata of the root directory from its entry.
func (x *extraction) root(hdr *tarfile.Header, m meta) error {
	if hdr.Type != tarfile.TypeDir && hdr.Type != tarfile.TypeGNUDumpDir {
		return fmt.Errorf("%w: replaces the root directory", ErrUnsafe)
	}
	return x.setDirMeta(rootDir, m)
}

// whiteout records that a name is deleted from lower layers. It never removes a
// file of this layer, whatever the order of the entries (OCI image spec:
// whiteouts hide lower layers only).
func (x *extraction) whiteout(parent dirID, base string) error {
	if base == whiteoutOpaque {
		x.dirs.nodes[parent].flags |= dirOpaque
		return nil
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrUnsafe, name)
	}
	return x.layer.addWhiteout(parent, name)
}

// setDirMeta records the metadata of a directory from its entry.
func (x *extraction) setDirMeta(id dirID, m meta) error {
	n := &x.dirs.nodes[id]
	n.mode, n.uid, n.gid = uint16(m.mode), m.uid, m.gid //nolint:gosec // 12 bits
	n.asec, n.ansec = secs(m.times[0])
	n.msec, n.mnsec = secs(m.times[1])
	n.flags |= dirExplicit
	return x.dirs.setAttrs(id, m.attrs)
}

// dirMeta is the inverse of setDirMeta.
func (x *extraction) dirMeta(id dirID) meta {
	n := &x.dirs.nodes[id]
	return meta{
		mode: uint32(n.mode), uid: n.uid, gid: n.gid, attrs: x.dirs.attrs[id],
		times: [2]unix.Timespec{timespec(tarfile.Time{Sec: n.asec, Nsec: int64(n.ansec)}), timespec(tarfile.Time{Sec: n.msec, Nsec: int64(n.mnsec)})},
	}
}

func secs(t unix.Timespec) (sec int64, nsec uint32) {
	return int64(t.Sec), uint32(t.Nsec) //nolint:unconvert,gosec // 32 bits on some systems; below 1e9
}

// resolve returns the physical path of a logical directory. If mk is true, it
// creates missing directories.
func (x *extraction) resolve(logical string, mk bool) (string, dirID, error) {
	if x.last != nil && x.last.path == logical {
		return x.last.path, x.last.id, nil
	}
	if id, ok := x.dirs.find(logical); ok {
		return logical, id, nil
	}
	path, err := resolvePath(logical, func(phys string) (bool, string, error) {
		if _, ok := x.dirs.find(phys); ok {
			return true, "", nil
		}
		if target, ok := x.links[phys]; ok {
			return false, target, nil
		}
		dir, base := split(phys)
		parent, ok := x.dirs.find(dir)
		if !ok {
			return false, "", unix.ENOENT
		}
		d, err := x.work(dir, parent)
		if err != nil {
			return false, "", err
		}
		if err := x.waitForName(d, base); err != nil {
			return false, "", err
		}
		if mk {
			if n := strings.Count(phys, "/") + 1; x.meter.limits.Depth >= 0 && n > x.meter.limits.Depth {
				return false, "", fmt.Errorf("%w: symbolic links lead %d directories deep (limit Depth)", ErrLimit, n)
			}
			err := retryErr(func() error { return unix.Mkdirat(d.fd, base, defaultDirMeta.mode) })
			if err == nil {
				_, err = x.dirs.add(parent, base)
				return true, "", err
			}
			if err != unix.EEXIST {
				return false, "", err
			}
		}
		target, err := readlinkat(d.fd, base)
		if err == unix.EINVAL { // exists, but is neither a link nor in dirs
			err = badf("parent %q is not a directory", tarfile.Shorten(phys))
		}
		if err == nil {
			if len(x.links) >= maxKnown {
				clear(x.links)
			}
			x.links[phys] = target
		}
		return false, target, err
	})
	if err != nil {
		return "", 0, err
	}
	id, ok := x.dirs.find(path)
	if !ok {
		return "", 0, unix.ENOENT
	}
	return path, id, nil
}

// directory creates or updates a directory.
func (x *extraction) directory(in dirID, path string, m meta) error {
	if id, ok := x.dirs.find(path); ok {
		return x.setDirMeta(id, m)
	}
	parent, base := split(path)
	d, err := x.work(parent, in)
	if err != nil {
		return err
	}
	if err := x.waitForName(d, base); err != nil {
		return err
	}
	// The owner gets all rights, so that files can be created in the directory;
	// finishDirs sets the final mode.
	mk := func() error {
		return retryErr(func() error { return unix.Mkdirat(d.fd, base, m.mode&0o777|0o700) })
	}
	err = mk()
	if err == unix.EEXIST { // an earlier entry that is not a directory; the last entry wins
		if err = x.removeOld(d.fd, base); err == nil {
			err = mk()
		}
	}
	if err != nil {
		return err
	}
	id, err := x.dirs.add(in, base)
	if err != nil {
		return err
	}
	return x.setDirMeta(id, m)
}

// makeRoom prepares the creation of a non-directory. It waits until an earlier
// entry of the same name is complete, removes a directory of that name, and
// returns the open parent. It leaves an earlier file or link, which the writer
// replaces.
func (x *extraction) makeRoom(ctx context.Context, path, parent string, in dirID) (*dirWork, error) {
	if id, ok := x.dirs.find(path); ok {
		if err := x.waitForWriters(nil); err != nil { // writers may still work below path
			return nil, err
		}
		x.stopTracking()
		if err := x.tree.removeAll(ctx, path, x.layer.usage.subtract); err != nil {
			return nil, err
		}
		x.forget(id, path)
	}
	d, err := x.work(parent, in)
	if err == nil {
		_, base := split(path)
		err = x.waitForName(d, base)
	}
	return d, err
}

// forget drops the cached data of a removed directory. Whiteouts and links in
// it are dropped at the end, see Layer.sortWhiteouts.
func (x *extraction) forget(id dirID, path string) {
	below := path + "/"
	inside := func(p string) bool { return p == path || strings.HasPrefix(p, below) }
	x.works = slices.DeleteFunc(x.works, func(w *dirWork) bool {
		if inside(w.path) {
			_ = unix.Close(w.fd)
			delete(x.open, w.id)
			if x.last == w {
				x.last = nil
			}
			return true
		}
		return false
	})
	x.dirs.forget(id)
	maps.DeleteFunc(x.links, func(p string, _ string) bool { return inside(p) }) // at most maxKnown
}

// hardLink creates a hard link. A missing target may be a later entry or lie in
// a lower layer.
func (x *extraction) hardLink(d *dirWork, o op, hdr *tarfile.Header) error {
	target, err := clean(hdr.Link)
	if err != nil {
		return fmt.Errorf("hard link target %q: %w", tarfile.Shorten(hdr.Link), err)
	}
	if len(target) > maxText {
		return badf("hard link target of %d bytes", len(target))
	}
	o.kind, o.target, o.entry = opLink, target, hdr.Name
	dir, base := split(target)
	parent, in, err := x.resolve(dir, false)
	if errors.Is(err, unix.ENOENT) {
		return x.waitFor(d, &o)
	}
	if err != nil {
		return err
	}
	if _, ok := x.dirs.child(in, base); ok || base == "." {
		return badf("hard link to directory %q", tarfile.Shorten(target))
	}
	o.from = base
	if parent == d.path {
		return x.add(d, o) // in order with the files of the directory
	}
	from, err := x.work(parent, in)
	if err == nil {
		err = x.waitForName(from, base)
	}
	if err != nil {
		return err
	}
	if err = x.link(from, d, &o); err == nil && x.names != nil {
		h := x.names.hash(join(d.path, o.base))
		x.mu.Lock()
		x.names.add(h)
		x.mu.Unlock()
	}
	return err
}

// finishDirs resolves forward links and sets the metadata of directories.
// Children come before parents, because the final mode of a parent may deny
// access to its children.
func (x *extraction) finishDirs(ctx context.Context) error {
	x.names = nil
	x.dirs.markDead()
	if err := x.forwardLinks(ctx); err != nil {
		return err
	}
	for i := len(x.dirs.nodes) - 1; i >= 0; i-- { // parents were added first
		id := dirID(i) //nolint:gosec // see dirTable.add
		if x.dirs.isDead(id) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := x.dirs.path(id)
		if err := x.finishDir(path, id); err != nil {
			return &Error{Entry: path, Err: err}
		}
	}
	x.dirs.attrs = nil
	x.layer.sortWhiteouts()
	x.layer.Write = nanos(&x.writeNanos)
	return nil
}
