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
)

// extraction is one run of Extract. Fields above mu belong to the parser alone.
type extraction struct {
	tree       *tree
	pool       *Pool
	meter      *Meter
	privileged bool
	keepOwners bool
	layer      *Layer
	in         reader
	// dirs holds every directory of the layer by physical path. It is complete:
	// the layer began empty. So a path that is not in dirs is no directory, and a
	// logical path that is in dirs crosses no symbolic link.
	dirs map[string]*dirMeta
	// links remembers where symbolic links lead that lay on the way of an entry.
	links map[string]string
	works []*dirWork // directories that are open
	last  *dirWork   // the one whose batch is being filled, or nil
	clock uint64     // counts uses of works
	seed  maphash.Seed

	checkpoints *Checkpoints // nil: none
	names       *names       // made is guarded by mu; nil without checkpoints

	writeNanos atomic.Int64

	mu      sync.Mutex // guards what follows, and dirWork.out
	change  sync.Cond  // signalled when pending shrinks
	pending int        // operations that were handed to the writers
	err     error      // first failure of a writer
	waiting []link     // hard links whose target was not there
}

// dirMeta is what an entry says about a directory; applied at the very end,
// because creating files changes times and a mode may lock even its owner out.
type dirMeta struct {
	meta
	explicit bool
	work     *dirWork // while it is open
}

// Bounds of what the parser runs ahead of the writers.
const (
	maxPending = 512 // operations: a few batches for each of many writers
	maxLinks   = 40  // symbolic links that one path may cross, as in the kernel
	maxWorks   = 64  // open directories: archives come in the order of a walk
	maxKnown   = 512 // remembered symbolic links
)

// Extract unpacks the tar stream r into dir, which must be empty (but see
// [Checkpoints]). It reads at least
// up to the end of the archive; what follows may be left in r. An r that is a
// [BlockReader] too is not copied from.
func Extract(ctx context.Context, r io.Reader, dir string, opts Options) (*Layer, error) {
	t, err := openTree(dir, opts.walk)
	if err != nil {
		return nil, &Error{Err: err}
	}
	defer t.close()
	x := &extraction{
		tree:       t,
		pool:       opts.Pool,
		meter:      opts.Meter,
		privileged: os.Geteuid() == 0 && !opts.Unprivileged,
		keepOwners: opts.KeepOwners,
		layer: &Layer{
			Dir:       dir,
			whiteouts: make(map[string][]string),
			opaque:    make(map[string]bool),
			implicit:  make(map[string]bool),
		},
		dirs:  map[string]*dirMeta{".": {meta: defaultDirMeta}},
		links: make(map[string]string),
		seed:  maphash.MakeSeed(),

		checkpoints: opts.Checkpoints,
	}
	x.change.L = &x.mu
	src, ok := r.(BlockReader)
	if !ok {
		src = &copied{r: r, pool: opts.Pool}
	}
	x.in.stream = stream{src: src, flush: x.flush}
	x.in.global.maxAttrs = opts.Meter.limits.Attributes
	if c := opts.Checkpoints; c != nil && c.From != nil {
		x.in.pos = c.At
		err = x.resume(c.From)
	}
	if err == nil {
		err = x.track()
	}
	if err == nil {
		err = x.parse(ctx)
	} else {
		err = &Error{Err: err}
	}
	x.in.close()
	// Writers hold pieces of this run until they are done, also after a failure.
	if werr := x.settle(nil); werr != nil && (err == nil || errors.Is(err, errStopped)) {
		err = werr
	}
	if err == nil {
		x.void() // from here on directories change
		err = x.finish()
	}
	for _, w := range x.works {
		_ = unix.Close(w.fd)
	}
	if err != nil {
		return nil, err
	}
	return x.layer, nil
}

// errStopped ends the parser when a writer has failed.
var errStopped = errors.New("stopped")

func (x *extraction) parse(ctx context.Context) error {
	for {
		hdr, err := x.in.next(ctx)
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
			return wrap(hdr.name, x.explain(err))
		}
	}
}

// entry places one entry.
func (x *extraction) entry(ctx context.Context, hdr *header) error {
	name, err := clean(hdr.name)
	if err != nil {
		return err
	}
	if err := x.meter.entry(name, hdr.size, len(hdr.attrs)); err != nil {
		return err
	}
	x.layer.Entries++
	dir, base := split(name)
	parent, err := x.resolve(dir, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(parent, base)
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
	if hdr.flag == typeDir || hdr.flag == typeGNUDumpDir {
		return x.directory(path, m)
	}
	d, err := x.makeRoom(path, parent, base)
	if err != nil {
		return err
	}
	o := op{base: base, meta: m, fd: -1}
	switch hdr.flag {
	case typeFile, typeFileOld, typeContiguous, typeGNUSparse:
		return x.file(ctx, d, o, hdr)
	case typeHardLink:
		return x.hardLink(d, o, hdr)
	case typeSymlink:
		if hdr.link == "" || len(hdr.link) >= unix.PathMax || strings.IndexByte(hdr.link, 0) >= 0 {
			return badf("symbolic link with a target of %d bytes, or with a zero byte in it", len(hdr.link))
		}
		o.kind, o.target = opSymlink, hdr.link
		return x.add(d, o)
	case typeFifo:
		o.kind, o.node = opNode, unix.S_IFIFO
		return x.add(d, o)
	case typeChar, typeBlock:
		return x.device(d, o, hdr)
	}
	x.layer.notes.add(fmt.Sprintf("entry of unknown type %q left out", hdr.flag), hdr.name)
	return nil
}

// root takes the metadata of the root directory from its own entry.
func (x *extraction) root(hdr *header, m meta) error {
	if hdr.flag != typeDir && hdr.flag != typeGNUDumpDir {
		return fmt.Errorf("%w: replaces the root directory", ErrUnsafe)
	}
	d := x.dirs["."]
	d.meta, d.explicit = m, true
	return nil
}

// whiteout notes a deletion in lower layers. Nothing of this layer is removed,
// in whatever order the entries come (OCI image spec: whiteouts hide lower layers only).
func (x *extraction) whiteout(parent, base string) error {
	if base == whiteoutOpaque {
		x.layer.opaque[parent] = true
		return nil
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrUnsafe, name)
	}
	x.layer.whiteouts[parent] = append(x.layer.whiteouts[parent], name)
	return nil
}

// resolve turns a logical directory into a physical one; mk makes what is missing.
func (x *extraction) resolve(logical string, mk bool) (string, error) {
	if x.last != nil && x.last.path == logical || x.dirs[logical] != nil {
		return logical, nil
	}
	return follow(logical, func(phys string) (bool, string, error) {
		if x.dirs[phys] != nil {
			return true, "", nil
		}
		if target, ok := x.links[phys]; ok {
			return false, target, nil
		}
		dir, base := split(phys)
		d, err := x.work(dir)
		if err != nil {
			return false, "", err
		}
		if err := x.clear(d, base); err != nil {
			return false, "", err
		}
		if mk {
			if n := strings.Count(phys, "/") + 1; x.meter.limits.Depth >= 0 && n > x.meter.limits.Depth {
				return false, "", fmt.Errorf("%w: symbolic links lead %d directories deep (limit Depth)", ErrLimit, n)
			}
			err := retryErr(func() error { return unix.Mkdirat(d.fd, base, defaultDirMeta.mode) })
			if err == nil {
				x.dirs[phys] = &dirMeta{meta: defaultDirMeta}
				return true, "", nil
			}
			if err != unix.EEXIST {
				return false, "", err
			}
		}
		target, err := readlinkat(d.fd, base)
		if err == unix.EINVAL { // exists, is no link, and directories are in dirs
			err = badf("parent %q is not a directory", shorten(phys))
		}
		if err == nil {
			if len(x.links) >= maxKnown {
				clear(x.links)
			}
			x.links[phys] = target
		}
		return false, target, err
	})
}

// directory makes or updates a directory.
func (x *extraction) directory(path string, m meta) error {
	if have := x.dirs[path]; have != nil {
		have.meta, have.explicit = m, true
		return nil
	}
	parent, base := split(path)
	d, err := x.work(parent)
	if err != nil {
		return err
	}
	if err := x.clear(d, base); err != nil {
		return err
	}
	// All that its owner needs to fill it; finish sets the rest.
	mk := func() error {
		return retryErr(func() error { return unix.Mkdirat(d.fd, base, m.mode&0o777|0o700) })
	}
	err = mk()
	if err == unix.EEXIST { // something else of this layer: the last entry wins
		if err = x.drop(d.fd, base); err == nil {
			err = mk()
		}
	}
	if err != nil {
		return err
	}
	x.dirs[path] = &dirMeta{meta: m, explicit: true}
	return nil
}

// makeRoom clears the way for a non-directory: waits for an earlier entry of the
// same name and removes a directory. An earlier file or link is replaced by the
// writer. It returns the open parent.
func (x *extraction) makeRoom(path, parent, base string) (*dirWork, error) {
	if x.dirs[path] != nil {
		if err := x.settle(nil); err != nil { // writers may be busy below
			return nil, err
		}
		x.untrack()
		if err := x.tree.removeAll(path, x.layer.usage.gone); err != nil {
			return nil, err
		}
		x.forget(path)
	}
	d, err := x.work(parent)
	if err == nil {
		err = x.clear(d, base)
	}
	return d, err
}

// forget drops all that is known of a directory that was removed.
func (x *extraction) forget(path string) {
	below := path + "/"
	inside := func(p string) bool { return p == path || strings.HasPrefix(p, below) }
	x.works = slices.DeleteFunc(x.works, func(w *dirWork) bool {
		if inside(w.path) {
			_ = unix.Close(w.fd)
			if x.last == w {
				x.last = nil
			}
			return true
		}
		return false
	})
	maps.DeleteFunc(x.dirs, func(p string, _ *dirMeta) bool { return inside(p) })
	maps.DeleteFunc(x.links, func(p string, _ string) bool { return inside(p) })
	maps.DeleteFunc(x.layer.opaque, func(p string, _ bool) bool { return inside(p) })
	maps.DeleteFunc(x.layer.whiteouts, func(p string, _ []string) bool { return inside(p) })
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting = slices.DeleteFunc(x.waiting, func(l link) bool { return inside(l.path) })
}

// hardLink makes a second name. A target that is not there may come later or lie in
// a lower layer.
func (x *extraction) hardLink(d *dirWork, o op, hdr *header) error {
	target, err := clean(hdr.link)
	if err != nil {
		return fmt.Errorf("hard link target %q: %w", shorten(hdr.link), err)
	}
	o.kind, o.target, o.entry = opLink, target, hdr.name
	dir, base := split(target)
	parent, err := x.resolve(dir, false)
	if errors.Is(err, unix.ENOENT) {
		return x.waitFor(d, &o)
	}
	if err != nil {
		return err
	}
	if x.dirs[join(parent, base)] != nil {
		return badf("hard link to directory %q", shorten(target))
	}
	o.from = base
	if parent == d.path {
		return x.add(d, o) // in order with the files beside it
	}
	from, err := x.work(parent)
	if err == nil {
		err = x.clear(from, base)
	}
	if err != nil {
		return err
	}
	if err = x.link(from, d, &o); err == nil && x.names != nil {
		h := x.names.hash(join(d.path, o.base))
		x.mu.Lock()
		x.names.made = append(x.names.made, h)
		x.mu.Unlock()
	}
	return err
}

// finish resolves forward links and gives directories their metadata, children
// before parents: a parent's mode may forbid to reach them.
func (x *extraction) finish() error {
	if err := x.forwardLinks(); err != nil {
		return err
	}
	paths := slices.Sorted(maps.Keys(x.dirs))
	for _, path := range slices.Backward(paths) {
		d := x.dirs[path]
		if !d.explicit {
			x.layer.implicit[path] = true
		}
		if err := x.finishDir(path, d); err != nil {
			return &Error{Entry: path, Err: err}
		}
	}
	x.layer.Write = nanos(&x.writeNanos)
	return nil
}

// forwardLinks makes the links whose target came after them. What stays has its
// target in a lower layer.
func (x *extraction) forwardLinks() error {
	// A later entry of the same name has replaced a link: another link, or what
	// lies there now.
	byPath := make(map[string]int)
	for i, ln := range x.waiting {
		byPath[ln.path] = i
	}
	var left []link
	for i, ln := range x.waiting {
		if byPath[ln.path] != i {
			continue
		}
		if _, err := x.tree.lstat(ln.path); err == nil || err == unix.ENOTDIR {
			continue
		}
		left = append(left, ln)
	}
	for again := true; again; {
		again = false
		waiting := left
		left = nil
		for _, ln := range waiting {
			done, err := x.linkNow(ln)
			if err != nil {
				return &Error{Entry: ln.entry, Err: err}
			}
			if again = again || done; !done {
				left = append(left, ln)
			}
		}
	}
	x.layer.lower = left
	return nil
}

// linkNow reports whether the target was there.
func (x *extraction) linkNow(ln link) (bool, error) {
	dir, base := split(ln.target)
	parent, err := x.resolve(dir, false)
	if err == nil {
		from := join(parent, base)
		if x.dirs[from] != nil {
			return false, badf("hard link to directory %q", shorten(ln.target))
		}
		err = x.tree.link(from, x.tree, ln.path)
	}
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
