package untar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
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
	layer      *Layer
	// dirs holds every directory of the layer by physical path. It is complete:
	// the layer began empty. So a path that is not in dirs is no directory, and a
	// logical path that is in dirs crosses no symbolic link.
	dirs  map[string]*dirMeta
	lower []link

	writeNanos atomic.Int64

	mu       sync.Mutex
	idle     sync.Cond // signalled when inflight shrinks
	inflight map[string]struct{}
	err      error // first failure of a writer
}

// dirMeta is what an entry says about a directory; applied at the very end,
// because creating files changes times and a mode may lock even its owner out.
type dirMeta struct {
	meta
	explicit bool
}

// Extract unpacks the tar stream r into dir, which must be empty. It reads up to
// the end of the archive; what follows is left in r.
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
		layer: &Layer{
			Dir:       dir,
			whiteouts: make(map[string][]string),
			opaque:    make(map[string]bool),
			implicit:  make(map[string]bool),
		},
		dirs:     map[string]*dirMeta{".": {meta: defaultDirMeta}},
		inflight: make(map[string]struct{}),
	}
	x.idle.L = &x.mu
	err = x.parse(ctx, tar.NewReader(r))
	// Writers hold pieces of this run until they are done, also after a failure.
	if werr := x.wait(""); err == nil && werr != nil {
		err = werr
	}
	if err == nil {
		err = x.finish()
	}
	if err != nil {
		return nil, err
	}
	return x.layer, nil
}

func (x *extraction) parse(ctx context.Context, tr *tar.Reader) error {
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		// ErrInsecurePath comes with a usable header; names are judged by clean.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &Error{Err: archiveErr(err)}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := x.entry(ctx, hdr, tr); err != nil {
			if _, ok := errors.AsType[*Error](err); ok || ctx.Err() != nil {
				return err
			}
			return &Error{Entry: hdr.Name, Err: err}
		}
	}
}

// archiveErr marks what the tar reader itself dislikes; errors of the stream
// below (network, digest, cancel) pass as they are.
func archiveErr(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

// entry places one entry.
func (x *extraction) entry(ctx context.Context, hdr *tar.Header, tr *tar.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive writes one; it holds nothing about files
	}
	name, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	size := int64(0)
	if isRegular(hdr.Typeflag) {
		size = hdr.Size
	}
	if err := x.meter.entry(name, size); err != nil {
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
	if hdr.Typeflag == tar.TypeDir {
		return x.directory(path, m)
	}
	if err := x.makeRoom(path); err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse: // '\x00' is TypeReg of version 7 archives
		return x.file(ctx, path, hdr, m, tr)
	case tar.TypeLink:
		return x.hardLink(path, hdr)
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) >= unix.PathMax {
			return fmt.Errorf("%w: symbolic link with a target of %d bytes", ErrFormat, len(hdr.Linkname))
		}
		return x.special(path, m, 0, hdr.Linkname)
	case tar.TypeFifo:
		m.mode |= unix.S_IFIFO
		return x.special(path, m, 0, "")
	case tar.TypeChar, tar.TypeBlock:
		return x.device(path, hdr, m)
	}
	x.layer.notes.add(fmt.Sprintf("entry of unknown type %q left out", hdr.Typeflag), hdr.Name)
	return nil
}

func isRegular(flag byte) bool {
	return flag == tar.TypeReg || flag == '\x00' || flag == tar.TypeCont || flag == tar.TypeGNUSparse
}

// root takes the metadata of the root directory from its own entry.
func (x *extraction) root(hdr *tar.Header, m meta) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: replaces the root directory", ErrUnsafe)
	}
	*x.dirs["."] = dirMeta{meta: m, explicit: true}
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
	if x.dirs[logical] != nil {
		return logical, nil
	}
	return follow(logical, func(phys string) (bool, string, error) {
		if x.dirs[phys] != nil {
			return true, "", nil
		}
		if err := x.wait(phys); err != nil {
			return false, "", err
		}
		if mk {
			if d := strings.Count(phys, "/") + 1; x.meter.limits.Depth >= 0 && d > x.meter.limits.Depth {
				return false, "", fmt.Errorf("%w: symbolic links lead %d directories deep", ErrLimit, d)
			}
			err := x.tree.mkdir(phys, 0o700)
			if err == nil {
				x.dirs[phys] = &dirMeta{meta: defaultDirMeta}
				return true, "", nil
			}
			if err != unix.EEXIST {
				return false, "", err
			}
		}
		target, err := x.tree.readlink(phys)
		if err == unix.EINVAL { // exists, is no link, and directories are in dirs
			err = fmt.Errorf("%w: parent %q is not a directory", ErrFormat, shorten(phys))
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
	if err := x.wait(path); err != nil {
		return err
	}
	err := x.tree.mkdir(path, 0o700)
	if err == unix.EEXIST { // something else of this layer: the last entry wins
		if err = x.unlink(path); err == nil {
			err = x.tree.mkdir(path, 0o700)
		}
	}
	if err != nil {
		return err
	}
	x.forget(path)
	x.dirs[path] = &dirMeta{meta: m, explicit: true}
	return nil
}

// makeRoom clears the way for a non-directory at path: waits for an earlier entry
// of the same name and removes a directory. An earlier file or link is replaced
// by the writer.
func (x *extraction) makeRoom(path string) error {
	if x.dirs[path] != nil {
		if err := x.wait(""); err != nil { // writers may be busy below
			return err
		}
		if err := x.tree.removeAll(path, x.layer.usage.gone); err != nil {
			return err
		}
		x.forget(path)
		below := path + "/"
		inside := func(p string) bool { return p == path || strings.HasPrefix(p, below) }
		maps.DeleteFunc(x.dirs, func(p string, _ *dirMeta) bool { return inside(p) })
		maps.DeleteFunc(x.layer.opaque, func(p string, _ bool) bool { return inside(p) })
		maps.DeleteFunc(x.layer.whiteouts, func(p string, _ []string) bool { return inside(p) })
		return nil
	}
	if err := x.wait(path); err != nil {
		return err
	}
	x.forget(path)
	return nil
}

// forget drops waiting hard links at or below path: a later entry replaced them.
func (x *extraction) forget(path string) {
	if len(x.lower) > 0 {
		x.lower = slices.DeleteFunc(x.lower, func(l link) bool {
			return l.path == path || strings.HasPrefix(l.path, path+"/")
		})
	}
}

// wait blocks until no writer works on path ("" for: on anything) and returns
// the first failure of a writer.
func (x *extraction) wait(path string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		_, busy := x.inflight[path]
		if path == "" {
			busy = len(x.inflight) > 0
		}
		if !busy {
			return x.err
		}
		x.idle.Wait()
	}
}

// begin marks path as in work, unless a writer has failed already.
func (x *extraction) begin(path string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return x.err
	}
	x.inflight[path] = struct{}{}
	return nil
}

// end is the counterpart of begin.
func (x *extraction) end(path string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.inflight, path)
	if err != nil && x.err == nil {
		x.err = &Error{Entry: path, Err: err}
	}
	x.idle.Broadcast()
}

// hardLink links at once when the target is in this layer, else later.
func (x *extraction) hardLink(path string, hdr *tar.Header) error {
	target, err := clean(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link target %q: %w", shorten(hdr.Linkname), err)
	}
	done, err := x.linkNow(path, target)
	if err != nil || done {
		return err
	}
	x.lower = append(x.lower, link{path: path, target: target, entry: hdr.Name})
	// An earlier entry of this name is replaced now; the link itself comes later.
	if err := x.unlink(path); err != unix.ENOENT {
		return err
	}
	return nil
}

// linkNow reports whether the target was there.
func (x *extraction) linkNow(path, target string) (bool, error) {
	dir, base := split(target)
	parent, err := x.resolve(dir, false)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return false, err
	}
	from := join(parent, base)
	if x.dirs[from] != nil {
		return false, fmt.Errorf("%w: hard link to directory %q", ErrFormat, shorten(target))
	}
	if err := x.wait(from); err != nil {
		return false, err
	}
	if from == path { // a link to itself says nothing new
		_, err = x.tree.lstat(from)
	} else if err = x.tree.link(from, x.tree, path); err == unix.EEXIST {
		if err = x.unlink(path); err == nil {
			err = x.tree.link(from, x.tree, path)
		}
	}
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil, err
}

// finish resolves forward links and gives directories their metadata, children
// before parents: a parent's mode may forbid to reach them.
func (x *extraction) finish() error {
	l := x.layer
	for again := true; again; {
		again = false
		waiting := x.lower
		x.lower = nil
		for _, ln := range waiting {
			done, err := x.linkNow(ln.path, ln.target)
			if err != nil {
				return &Error{Entry: ln.entry, Err: err}
			}
			if again = again || done; !done {
				x.lower = append(x.lower, ln)
			}
		}
	}
	l.lower = x.lower
	paths := slices.Sorted(maps.Keys(x.dirs))
	for _, path := range slices.Backward(paths) {
		d := x.dirs[path]
		if !d.explicit {
			l.implicit[path] = true
		}
		if err := x.finishDir(path, d); err != nil {
			return &Error{Entry: path, Err: err}
		}
	}
	l.Write = nanos(&x.writeNanos)
	return nil
}

func (x *extraction) finishDir(path string, d *dirMeta) error {
	fd, err := x.tree.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if d.explicit {
		err = x.apply(fd, path, d.meta)
	} else { // owner and times are those of its making
		err = unix.Fchmod(fd, d.mode)
	}
	if err != nil {
		return err
	}
	return x.layer.usage.addFd(fd)
}
