package fs

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/csi/internal/tree"
)

// batchEntries is how many entries the lister hands over at once. Large enough that the hand-over costs nothing beside
// the parsing of a LIST answer, small enough that the first entries of a page show before its last is parsed.
const batchEntries = 128

// DirEntry is one entry of a directory stream.
type DirEntry struct {
	Name string
	Kind tree.Kind
	Off  uint64 // where the stream goes on after this entry; 1 is after the first
	Attr Attr   // as much of it as the Detail asks for
}

// Detail says what a ReadDir tells of each entry.
type Detail uint8

// The details.
const (
	Names   Detail = iota // Attr.Ino if the kernel knows the entry, nothing else
	Attrs                 // all of Attr but Ino
	Lookups               // all of Attr, and one lookup counted for each entry (but "." and "..")
)

// listed is an entry as the lister sees it.
type listed struct {
	name string
	kind tree.Kind
	obj  Object
}

// batch is what the lister sends. The last one has err set (to the failure, or to nil with end).
type batch struct {
	entries []listed
	end     bool
	err     error
}

// dirHandle is an open directory: a window on the stream of entries, and the lister that feeds it.
//
// The kernel may ask again for entries that it was already given: it fills a buffer, passes on what the program's
// buffer holds, drops the rest and comes back for it. It never goes back beyond the start of its last request unless the
// program seeks. So the window holds the entries since there, and a seek to before it lists anew. Memory is one reply,
// two batches and one page of the store, whatever the directory's size.
type dirHandle struct {
	node *node

	mu     sync.Mutex // held during a ReadDir; guards all below
	window []listed   // window[i] is entry number base+i of the stream ("." and ".." included)
	base   uint64
	last   uint64 // offset that the last ReadDir asked for
	end    bool   // the window reaches the end of the stream
	seen   time.Time
	lister *lister // nil before the first read and after a failure
}

// lister is the goroutine that lists a directory ahead of the reader.
type lister struct {
	batches chan batch // capacity 1: one waits, one is being filled
	cancel  context.CancelFunc
	done    chan struct{} // closed when the goroutine has ended
}

// OpenDir opens a directory. It asks nobody: the listing starts with the first ReadDir.
func (f *FS) OpenDir(ino uint64) (uint64, error) {
	n, err := f.dirNode("opendir", ino)
	if err != nil {
		return 0, err
	}
	return f.openDirNode(n)
}

// ReadDir emits the entries from offset off on until emit returns false (that entry does not count), the directory
// ends, or waiting would hold back entries already emitted. Nothing emitted and no error is the end.
//
// "." and ".." come first; their Attr is never filled.
func (f *FS) ReadDir(ctx context.Context, handle, off uint64, detail Detail, emit func(*DirEntry) bool) error {
	f.mu.Lock()
	d := f.dirs[handle]
	f.mu.Unlock()
	if d == nil {
		return &Error{"readdir", "", syscall.EBADF}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.readDir(ctx, d, off, detail, emit); err != nil {
		return &Error{"readdir", d.node.obj.Key, err}
	}
	return nil
}

func (f *FS) readDir(ctx context.Context, d *dirHandle, off uint64, detail Detail, emit func(*DirEntry) bool) error {
	if off < d.base {
		d.restart() // a seek to before the window: list again and skip
	}
	d.trim(min(d.last, off))
	d.last = off
	// Entries in hand are worth more than a full buffer, but "." and ".." alone are not worth a trip to the kernel.
	emitted, worthwhile := false, false
	for ; ; off++ {
		for off >= d.base+uint64(len(d.window)) {
			if d.end {
				return nil
			}
			more, err := f.pull(ctx, d, !worthwhile)
			switch {
			case err != nil && emitted:
				return nil //nolint:nilerr // a failure that lasts shows at the next read, when nothing else does
			case err != nil:
				return err
			case !more:
				return nil
			}
			d.trim(min(d.last, d.base+uint64(len(d.window))))
		}
		if !f.emit(d, off, detail, emit) {
			return nil
		}
		emitted, worthwhile = true, off >= 2
	}
}

// emit emits entry number off, and reports whether it was taken.
func (f *FS) emit(d *dirHandle, off uint64, detail Detail, emit func(*DirEntry) bool) bool {
	l := &d.window[off-d.base]
	e := DirEntry{Name: l.name, Kind: l.kind, Off: off + 1}
	at := child{d.node.ino, l.name}
	switch {
	case l.name == "." || l.name == "..":
		return emit(&e)
	case detail == Names:
		e.Attr.Ino = f.nodes.number(at)
		return emit(&e)
	case detail == Attrs, f.share.full():
		e.Attr = f.attrOf(l.kind, l.obj)
		return emit(&e)
	}
	e.Attr = f.attr(f.nodes.ref(at, l.kind, l.obj, d.seen))
	if !emit(&e) {
		f.nodes.forget(e.Attr.Ino, 1)
		return false
	}
	return true
}

// pull adds the next batch to the window. Without wait it reports false rather than block. A failure of the listing is
// returned once; the next read lists anew.
func (f *FS) pull(ctx context.Context, d *dirHandle, wait bool) (more bool, err error) {
	if d.lister == nil {
		d.lister = f.list(d.node.obj.Key)
		if d.base == 0 && len(d.window) == 0 {
			d.window = []listed{{name: ".", kind: tree.Dir}, {name: "..", kind: tree.Dir}}
			return true, nil
		}
	}
	var b batch
	if wait {
		select {
		case b = <-d.lister.batches:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	} else {
		select {
		case b = <-d.lister.batches:
		default:
			return false, nil
		}
	}
	if b.err != nil {
		d.restart()
		return false, b.err
	}
	d.seen = time.Now()
	d.window = append(d.window, b.entries...)
	d.end = b.end
	return true, nil
}

// trim drops the entries before offset keep.
func (d *dirHandle) trim(keep uint64) {
	if keep <= d.base {
		return
	}
	n := min(keep-d.base, uint64(len(d.window)))
	// Copy down, so that the names dropped can be collected and the array does not creep.
	rest := copy(d.window, d.window[n:])
	clear(d.window[rest:])
	d.window = d.window[:rest]
	d.base += n
}

// restart ends the lister and goes back to the start of the stream.
func (d *dirHandle) restart() {
	if d.lister != nil {
		d.lister.stop()
	}
	d.lister, d.window, d.base, d.last, d.end = nil, nil, 0, 0, false
}

// close ends the lister for good. It waits for a ReadDir that is running.
func (d *dirHandle) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.restart()
	d.end = true
}

// ReleaseDir ends a directory handle and waits for its goroutine.
func (f *FS) ReleaseDir(handle uint64) {
	f.mu.Lock()
	d := f.dirs[handle]
	delete(f.dirs, handle)
	f.mu.Unlock()
	if d != nil {
		d.close()
		f.share.release(dirCost)
	}
}

// list starts a lister. It runs on its own context and not on that of the read that needs it first: an interrupted
// read must not spoil the stream for the next.
func (f *FS) list(prefix string) *lister {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lister{batches: make(chan batch, 1), cancel: cancel, done: make(chan struct{})}
	go l.run(ctx, f.store, prefix, &f.unsorted, f.share)
	return l
}

func (l *lister) stop() {
	l.cancel()
	<-l.done
}

// run lists. unsorted is whether the store is known to list in no order; share pays for the names of a large directory.
func (l *lister) run(ctx context.Context, store Store, prefix string, unsorted *atomic.Bool, share *share) {
	defer close(l.done)
	var (
		merge tree.Merger[Object]
		b     batch
		names int64 // bytes that share pays for
	)
	merge.Room = func(bytes int) bool {
		if share.open(int64(bytes)) != nil {
			return false
		}
		names += int64(bytes)
		return true
	}
	defer func() { share.release(names) }()
	if unsorted.Load() {
		merge.Unsort()
	}
	defer func() {
		if merge.Unsorted() {
			unsorted.Store(true)
		}
	}()
	emit := func(name string, kind tree.Kind, o Object) {
		b.entries = append(b.entries, listed{name, kind, o})
	}
	for e, err := range store.List(ctx, prefix, 0) {
		if err != nil {
			l.send(ctx, batch{err: err})
			return
		}
		name, kind, ok := tree.Child(prefix, e.Key)
		if !ok {
			continue
		}
		if kind == tree.Dir {
			e.Object = Object{Key: prefix + name + "/"}
		}
		if err := merge.Add(name, kind, e.Object, emit); err != nil {
			l.send(ctx, batch{err: err})
			return
		}
		if len(b.entries) >= batchEntries {
			if !l.send(ctx, b) {
				return
			}
			b = batch{}
		}
	}
	merge.Flush(emit)
	b.end = true
	l.send(ctx, b)
}

func (l *lister) send(ctx context.Context, b batch) bool {
	select {
	case l.batches <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
