package ranges

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/penstock/penstock/internal/budget"
)

// sharedReads are the random reads of one object that are in progress. Equal reads,
// and reads inside another one, share its request. While a request still waits
// for a slot, reads that touch its range extend it.
type sharedReads struct {
	o    *Object
	mu   sync.Mutex // guards list and fields of its sharedReads; a gate's lock is never taken under it
	list []*sharedRead
}

// sharedRead is one request for one or more readers. The reader that starts it is
// its leader; readers that join it are followers.
type sharedRead struct {
	ignoreEvents
	rs    *sharedReads
	task  task
	ready chan struct{} // closed when the task has ended

	// Guarded by rs.mu until fixed, constant afterwards.
	off   int64
	n     int64
	fixed bool
	first int64       // offset of the first reader's range
	p     []byte      // the first reader's buffer
	mem   []byte      // receives the bytes: p, or buf if other readers have joined
	buf   *budget.Buf // nil unless readers have joined

	// copying counts the followers that may still read mem.
	copying sync.WaitGroup
}

// errAgain makes a reader request its range itself, because the request that it
// waited for was cancelled or doesn't hold the range.
var errAgain = errors.New("shared request was cancelled")

// read reads len(p) bytes at off, sharing requests.
func (rs *sharedReads) read(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		f, mine := rs.join(p, off)
		var n int
		var err error
		if mine {
			n, err = rs.lead(ctx, f, p, off)
		} else {
			n, err = f.follow(ctx, p, off)
		}
		if !errors.Is(err, errAgain) {
			return n, err
		}
	}
}

// join returns the sharedRead for the range, and whether the caller is its leader.
func (rs *sharedReads) join(p []byte, off int64) (f *sharedRead, mine bool) {
	n := int64(len(p))
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, f := range rs.list {
		if f.off <= off && off+n <= f.off+f.n {
			f.copying.Add(1)
			return f, false
		}
	}
	for _, f := range rs.list {
		lo, hi := min(f.off, off), max(f.off+f.n, off+n)
		touches := off <= f.off+f.n && f.off <= off+n
		if !f.fixed && touches && hi-lo <= rs.o.e.opts.PartBytes {
			f.off, f.n = lo, hi-lo
			f.copying.Add(1)
			return f, false
		}
	}
	f = &sharedRead{rs: rs, ready: make(chan struct{}), off: off, n: n, first: off, p: p}
	rs.list = append(rs.list, f)
	return f, true
}

// ended releases the readers.
func (f *sharedRead) ended() { close(f.ready) }

// started fixes the range, because the request now has a slot and is about to be
// sent.
func (f *sharedRead) started() {
	f.rs.mu.Lock()
	defer f.rs.mu.Unlock()
	f.fixed = true
	f.mem = f.p
	if f.n > int64(len(f.p)) {
		// Readers have joined. Their ranges share a buffer of at most one part.
		// Without memory for it the request is for the first reader alone, and the
		// others make their own, because waiting for memory would hold a slot.
		if f.buf = f.rs.o.e.opts.Budget.TryGet(int(f.n)); f.buf != nil {
			f.mem = f.buf.Bytes()
		} else {
			f.off, f.n = f.first, int64(len(f.p))
		}
	}
	f.task.off, f.task.n, f.task.buf = f.off, f.n, f.mem
}

// lead makes the request of a sharedRead for its first reader.
func (rs *sharedReads) lead(ctx context.Context, f *sharedRead, p []byte, off int64) (int, error) {
	t := &f.task
	t.owner, t.o, t.off, t.n, t.buf, t.urgent = f, rs.o, off, int64(len(p)), p, true
	rs.o.g.submit(t)
	var err error
	select {
	case <-f.ready:
	case <-ctx.Done():
		rs.o.g.cancel(t, context.Cause(ctx))
		<-f.ready
	}
	rs.mu.Lock()
	if i := slices.Index(rs.list, f); i >= 0 {
		rs.list = slices.Delete(rs.list, i, i+1)
	}
	rs.mu.Unlock()
	// No reader joins any more. The followers copy from mem, which may be the
	// caller's buffer, so they have to finish before the caller may use it.
	f.copying.Wait()
	var n int
	if t.err != nil {
		err = rs.o.error("read", t)
	} else {
		n, err = f.take(p, off)
	}
	if f.buf != nil {
		f.buf.Release()
	}
	return n, err
}

// follow waits for a sharedRead that another reader leads.
func (f *sharedRead) follow(ctx context.Context, p []byte, off int64) (int, error) {
	defer f.copying.Done()
	select {
	case <-f.ready:
	case <-ctx.Done():
		return 0, &Error{Op: "read", Object: f.rs.o.spec.Name, Off: off, Len: int64(len(p)), Err: context.Cause(ctx)}
	}
	if err := f.task.err; err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return 0, errAgain
		}
		return 0, f.rs.o.error("read", &f.task)
	}
	if off < f.off || off+int64(len(p)) > f.off+f.n {
		return 0, errAgain // there was no memory for the joined ranges
	}
	return f.take(p, off)
}

// take copies a range out of a sharedRead that has ended well.
func (f *sharedRead) take(p []byte, off int64) (int, error) {
	have := f.mem[:f.task.got]
	from := min(off-f.off, int64(len(have)))
	have = have[from:]
	n := min(len(p), len(have))
	if n > 0 && &p[0] != &have[0] {
		copy(p, have[:n])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
