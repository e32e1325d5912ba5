package untar

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/tarfile"
)

// dirWork is a directory in which the writers create files. Its operations run
// in the order of the archive, in one queue.
type dirWork struct {
	path  string
	id    dirID
	fd    int // O_PATH
	queue taskQueue

	// Used only by the parser:
	batch *batch   // being filled
	sent  []*batch // handed to the writers; may contain batches that are done
	used  uint64   // extraction.clock of the last use

	out int // number of batches that are not done; guarded by extraction.mu
}

// batch is a list of operations in one directory. Operations are batched
// because waking a writer costs as much as creating a small file.
type batch struct {
	x      *extraction
	d      *dirWork
	ops    []op
	hashes []uint32         // hashes of the names
	pieces []*tarfile.Piece // pieces that hold the contents of the small files
	left   atomic.Int32
	done   atomic.Bool
}

// batchOps is the number of operations in a full batch. It is large enough to
// make the cost of waking a writer small, and bounds the number of open files.
const batchOps = 32

// The kinds of operations.
const (
	opFile = iota
	opSymlink
	opNode
	opLink
)

// op creates one name.
type op struct {
	kind    int
	base    string
	meta    meta
	data    []byte // content of a small file
	big     *bigFile
	target  string // of a symbolic link, or the logical target of a hard link
	from    string // of a hard link: the base name of its target
	entry   string // of a hard link: the name in the archive
	node    uint32 // file type of a special file
	dev     uint64
	fd      int  // of an open file, else -1
	skipped bool // nothing was created
}

// work returns the open directory at a physical path, which is the directory
// id.
func (x *extraction) work(path string, id dirID) (*dirWork, error) {
	x.clock++
	if x.last != nil && x.last.id == id {
		x.last.used = x.clock
		return x.last, nil
	}
	d := x.open[id]
	if d == nil {
		if len(x.works) >= maxWorks {
			if err := x.evict(); err != nil {
				return nil, err
			}
		}
		fd, err := x.tree.open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		d = &dirWork{path: path, id: id, fd: fd}
		x.works = append(x.works, d)
		x.open[id] = d
	}
	d.used = x.clock
	return d, nil
}

// evict closes the least recently used directory.
func (x *extraction) evict() error {
	w := slices.MinFunc(x.works, func(a, b *dirWork) int { return cmp.Compare(a.used, b.used) })
	if err := x.waitForWriters(w); err != nil {
		return err
	}
	x.works = slices.DeleteFunc(x.works, func(have *dirWork) bool { return have == w })
	delete(x.open, w.id)
	if x.last == w {
		x.last = nil
	}
	return unix.Close(w.fd)
}

func (x *extraction) hash(name string) uint32 {
	return uint32(maphash.String(x.seed, name)) //nolint:gosec // G115: 32 bits of the hash suffice
}

// waitForName waits until no writer works on the name base in d.
func (x *extraction) waitForName(d *dirWork, base string) error {
	if d.batch == nil && len(d.sent) == 0 {
		return nil
	}
	h := x.hash(base)
	busy := d.batch != nil && slices.Contains(d.batch.hashes, h)
	for _, b := range d.sent {
		busy = busy || !b.done.Load() && slices.Contains(b.hashes, h)
	}
	if !busy {
		return nil
	}
	return x.waitForWriters(d)
}

// add adds an operation in d to a batch. No writer may work on its name.
func (x *extraction) add(d *dirWork, o op) error {
	if x.last != d {
		if err := x.flush(); err != nil {
			return err
		}
		x.last = d
	}
	if d.batch == nil {
		d.batch = &batch{x: x, d: d, ops: make([]op, 0, 8), hashes: make([]uint32, 0, 8)}
	}
	b := d.batch
	b.ops = append(b.ops, o)
	b.hashes = append(b.hashes, x.hash(o.base))
	if len(o.data) > 0 && (len(b.pieces) == 0 || b.pieces[len(b.pieces)-1] != x.in.Piece()) {
		x.in.Piece().Hold()
		b.pieces = append(b.pieces, x.in.Piece())
	}
	if o.big != nil {
		o.big.b = b
	}
	if len(b.ops) == batchOps || o.big != nil {
		return x.flush()
	}
	return nil
}

// flush hands the current batch to the writers, and waits while too many
// operations are pending. It returns errStopped if a writer has failed.
func (x *extraction) flush() error {
	d := x.last
	if d == nil || d.batch == nil {
		return nil
	}
	b := d.batch
	d.batch = nil
	b.left.Store(1)
	if b.ops[len(b.ops)-1].big != nil {
		b.left.Store(2)
	}
	d.sent = slices.DeleteFunc(d.sent, func(b *batch) bool { return b.done.Load() })
	d.sent = append(d.sent, b)
	x.mu.Lock()
	d.out++
	x.pending += len(b.ops)
	for x.pending > maxPending && x.err == nil && x.pending > len(b.ops) {
		x.change.Wait()
	}
	failed := x.err != nil
	x.mu.Unlock()
	x.pool.submit(&d.queue, b)
	if failed {
		return errStopped
	}
	return nil
}

// waitForWriters waits until the writers are done in d, or everywhere if d is
// nil, and returns the first error of a writer.
func (x *extraction) waitForWriters(d *dirWork) error {
	flushed := x.flush()
	x.mu.Lock()
	defer x.mu.Unlock()
	for d == nil && x.pending > 0 || d != nil && d.out > 0 {
		x.change.Wait()
	}
	if d != nil {
		d.sent = d.sent[:0]
	}
	if x.err != nil {
		return x.err
	}
	return flushed
}

// fail stores the first error of a writer.
func (x *extraction) fail(path string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = &Error{Entry: path, Err: x.explain(err)}
	}
}

// failed reports whether a writer has failed.
func (x *extraction) failed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err != nil
}

// run implements task. It creates the names in order. The files may be filled
// and closed in any order, so run offers that work to an idle writer. Thus one
// directory can keep several writers busy.
func (b *batch) run() {
	defer b.x.addWriteTime(time.Now())
	if !b.x.failed() {
		for i := range b.ops {
			o := &b.ops[i]
			if err := guard(func() error { return b.x.create(b.d, o) }); err != nil {
				b.x.fail(join(b.d.path, o.base), err)
				break
			}
		}
	}
	if !b.x.pool.offer((*fillTask)(b)) {
		b.fill()
	}
}

// fillTask fills and closes the files of a batch.
type fillTask batch

// run implements task.
func (f *fillTask) run() {
	b := (*batch)(f)
	defer b.x.addWriteTime(time.Now())
	b.fill()
}

func (b *batch) fill() {
	for i := range b.ops {
		o := &b.ops[i]
		switch {
		case o.big != nil:
			o.big.open(o.fd)
		case o.fd >= 0:
			if err := guard(func() error { return b.x.fillFile(b.d, o) }); err != nil {
				b.x.fail(join(b.d.path, o.base), err)
			}
		}
	}
	for _, p := range b.pieces {
		p.Drop()
	}
	b.finish()
}

// finish is called once for each part of a batch; the last call ends the batch.
func (b *batch) finish() {
	if b.left.Add(-1) > 0 {
		return
	}
	n := len(b.ops)
	x := b.x
	made := x.made(b)
	b.ops, b.pieces = nil, nil
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(made) > 0 && x.names != nil {
		x.names.add(made...)
	}
	b.done.Store(true)
	b.d.out--
	x.pending -= n
	x.change.Broadcast()
}

// made returns the hashes of the names that a batch has created.
func (x *extraction) made(b *batch) (made []uint64) {
	if x.names == nil {
		return nil
	}
	for i := range b.ops {
		if o := &b.ops[i]; !o.skipped {
			made = append(made, x.names.hash(join(b.d.path, o.base)))
		}
	}
	return made
}

// guard runs a step of a writer and turns a panic into an error, so that the
// batch is finished as it is after any other error.
func guard(step func() error) (err error) {
	defer panics.Recover(&err)
	return step()
}

// addWriteTime adds the time since start to the total time of the writers.
func (x *extraction) addWriteTime(start time.Time) { x.writeNanos.Add(int64(time.Since(start))) }

// fillFile writes, completes and closes a small file.
func (x *extraction) fillFile(d *dirWork, o *op) error {
	err := writeAll(o.fd, o.data, 0)
	if err == nil {
		err = x.apply(o.fd, d.path, o.base, &o.meta)
	}
	return closeFile(o.fd, err)
}

// closeFile closes a file and returns err, or else the error of close, which is
// how NFS and quotas report lost writes.
func closeFile(fd int, err error) error {
	if cerr := unix.Close(fd); err == nil && cerr != nil && cerr != unix.EINTR {
		err = cerr
	}
	return err
}

func writeAll(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := retry(func() (int, error) { return unix.Pwrite(fd, p, off) })
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// bigFile is a file whose content is not contiguous in memory. Its pieces are
// written by a queue of its own, which is held until the file is created.
type bigFile struct {
	x     *extraction
	b     *batch
	base  string
	meta  meta
	size  int64
	tail  bool // the file ends with a hole, so its size must be set
	fd    int
	queue taskQueue
}

// open lets the writers process the pieces of f. fd is negative if the file
// could not be created.
func (f *bigFile) open(fd int) {
	f.fd = fd
	f.x.pool.release(&f.queue)
}

// bigFileWrite writes one piece of a large file.
type bigFileWrite struct {
	f     *bigFile
	data  []byte
	off   int64
	piece *tarfile.Piece
	last  bool // completes the file; has no data
}

// run implements task.
func (s *bigFileWrite) run() {
	f := s.f
	defer f.x.addWriteTime(time.Now())
	ok := f.fd >= 0 && !f.x.failed()
	err := guard(func() error {
		switch {
		case s.last:
			return f.complete(ok)
		case ok:
			return writeAll(f.fd, s.data, s.off)
		}
		return nil
	})
	s.piece.Drop()
	if err != nil {
		f.x.fail(join(f.b.d.path, f.base), err)
	}
	if s.last {
		f.b.finish()
	}
}

func (f *bigFile) complete(ok bool) error {
	if f.fd < 0 {
		return nil
	}
	var err error
	if ok && f.tail {
		err = unix.Ftruncate(f.fd, f.size)
	}
	if ok && err == nil {
		err = f.x.apply(f.fd, f.b.d.path, f.base, &f.meta)
	}
	return closeFile(f.fd, err)
}

// file hands the content of a regular file to the writers.
func (x *extraction) file(ctx context.Context, d *dirWork, o op, hdr *tarfile.Header) error {
	x.layer.Files++
	x.layer.Bytes += hdr.Size
	if hdr.Sparse || !x.in.Whole() {
		return x.bigFile(ctx, d, o, hdr)
	}
	var err error
	if o.data, _, err = x.in.Content(ctx, hdr.Stored); err != nil {
		return err
	}
	return x.add(d, o)
}

// bigFile hands the content of a file to the writers piece by piece.
func (x *extraction) bigFile(ctx context.Context, d *dirWork, o op, hdr *tarfile.Header) error {
	f := &bigFile{x: x, base: o.base, meta: o.meta, size: hdr.Size, fd: -1}
	f.queue.held = true
	o.big = f
	extents := hdr.Extents
	if !hdr.Sparse {
		extents = []tarfile.Extent{{Len: hdr.Stored}}
	}
	f.tail = hdr.Sparse
	if len(extents) > 0 {
		last := extents[len(extents)-1]
		f.tail = last.Off+last.Len < hdr.Size
	}
	err := x.add(d, o)
	if f.b == nil {
		return err
	}
	if err == nil {
		err = guard(func() error { return x.feed(ctx, f, extents) }) // the last write must be submitted
	}
	if err != nil {
		x.fail(join(d.path, o.base), err)
	}
	x.pool.submit(&f.queue, &bigFileWrite{f: f, last: true})
	return err
}

func (x *extraction) feed(ctx context.Context, f *bigFile, extents []tarfile.Extent) error {
	for _, e := range extents {
		for e.Len > 0 {
			data, p, err := x.in.Content(ctx, min(e.Len, bufferBytes))
			if err != nil {
				return err
			}
			if x.failed() {
				return errStopped
			}
			p.Hold()
			x.pool.submit(&f.queue, &bigFileWrite{f: f, data: data, off: e.Off, piece: p})
			e.Off, e.Len = e.Off+int64(len(data)), e.Len-int64(len(data))
		}
	}
	return nil
}
