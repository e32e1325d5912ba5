package ranges

import (
	lru "container/list"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/budget"
)

// ReaderOptions is the policy of one random-access reader. The zero value
// works.
type ReaderOptions struct {
	// WindowBytes bounds the bytes that are fetched ahead of sequential reads. 0
	// means a quarter of the budget, negative no read-ahead.
	WindowBytes int64
}

// Reader reads an object at any offset for one consumer, as a file handle does. It
// fetches exactly the requested bytes until the reads are sequential, and then
// also the bytes after them. ReadAt is safe for concurrent use.
//
// The bytes that are fetched ahead stay within the budget. Without room a reader
// takes the memory of an idle reader, then shrinks its window, and finally reads
// straight into the caller's buffer. A reader therefore never waits for memory,
// and any number of readers may be open.
type Reader struct {
	o         *Object
	partBytes int64

	reading atomic.Int32  // running calls of ReadAt
	used    time.Duration // guarded by windows.mu
	elem    *lru.Element  // guarded by windows.mu; nil without a window

	mu        sync.Mutex // guards the fields below; taken before a gate's lock
	ahead     readAhead
	segs      []*segment // fetched ahead, in order, without gaps
	fetchedTo int64      // offset after the last segment
	closed    bool
	wg        sync.WaitGroup // segments whose task has not ended
}

// segment is a task of a reader's window.
type segment struct {
	task
	ignoreEvents
	r     *Reader
	mem   *budget.Buf   // one reference is the reader's, one the request's
	ready chan struct{} // closed when the task has ended
}

func (s *segment) started() { s.buf = s.mem.Bytes() }

func (s *segment) ended() {
	close(s.ready)
	s.mem.Release()
	s.r.wg.Done()
}

// keepBehind is how far behind the end of the run segments are kept, for reads
// that arrive out of order.
const keepBehind = reorderBytes

// minSegment is the smallest request that fetches ahead. Below it the request
// costs more than its bytes.
const minSegment = 128 << 10

// Reader returns a new reader of the object. Close it.
func (o *Object) Reader(ro ReaderOptions) *Reader {
	limit := ro.WindowBytes
	if limit == 0 {
		limit = o.e.opts.Budget.Limit() / 4
	}
	part := o.e.opts.PartBytes
	return &Reader{o: o, partBytes: part, ahead: newReadAhead(part, limit)}
}

// ReadAt reads len(p) bytes at off. It returns fewer bytes only with an error,
// which is io.EOF at the end of the object.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	size, _ := r.o.known()
	var eof error
	if size >= 0 && off+int64(len(p)) > size {
		p, eof = p[:max(size-off, 0)], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	r.reading.Add(1)
	defer r.reading.Add(-1)
	got, err := r.readAt(ctx, p, off, size)
	if err == nil {
		err = eof
	}
	return got, err
}

func (r *Reader) readAt(ctx context.Context, p []byte, off, size int64) (int, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return 0, &Error{Op: "read", Object: r.o.spec.Name, Off: off, Len: int64(len(p)), Err: ErrClosed}
	}
	var segs []*segment
	switch a := r.ahead.read(off, int64(len(p))); {
	case a == accessSeek:
		r.dropAllLocked()
	case a == accessSequential && size >= 0:
		segs = r.advanceLocked(off, int64(len(p)), size)
	}
	if len(r.segs) > 0 {
		r.o.e.windows.use(r, r.o.e.now())
	}
	r.mu.Unlock()
	if segs == nil {
		return r.readRandom(ctx, p, off)
	}
	total := 0
	for _, s := range segs {
		from := off + int64(total) - s.off
		want := p[total:min(int64(total)+s.n-from, int64(len(p)))]
		n, err := r.copyFrom(ctx, s, want, from)
		total += n
		if err == nil {
			continue
		}
		for _, rest := range segs {
			rest.release()
		}
		if errors.Is(err, errAgain) {
			n, err := r.readRandom(ctx, p[total:], off+int64(total))
			return total + n, err
		}
		return total, err
	}
	for _, s := range segs {
		s.release()
	}
	return total, nil
}

// readRandom reads without the window.
func (r *Reader) readRandom(ctx context.Context, p []byte, off int64) (int, error) {
	if int64(len(p)) > r.partBytes {
		return r.o.Fetch(ctx, p, off)
	}
	return r.o.reads.read(ctx, p, off)
}

func (s *segment) release() { s.mem.Release() }

// copyFrom waits for a segment and copies out of it. The error is errAgain if the
// reader has given the segment up, or if the segment had failed before the call.
func (r *Reader) copyFrom(ctx context.Context, s *segment, p []byte, from int64) (int, error) {
	waited := false
	select {
	case <-s.ready:
	default:
		waited = true
		r.o.g.promote(&s.task)
		r.mu.Lock()
		r.ahead.consumerWaited()
		r.mu.Unlock()
		select {
		case <-s.ready:
		case <-ctx.Done():
			return 0, &Error{Op: "read", Object: r.o.spec.Name, Off: s.off + from, Len: int64(len(p)), Err: context.Cause(ctx)}
		}
	}
	if s.err != nil {
		if errors.Is(s.err, context.Canceled) {
			return 0, errAgain
		}
		r.forget(s)
		if !waited {
			return 0, errAgain
		}
		return 0, r.o.error("read", &s.task)
	}
	have := s.mem.Bytes()[:s.got]
	n := copy(p, have[min(from, int64(len(have))):])
	if n < len(p) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// advanceLocked makes the segments cover [off, off+n) and the window beyond it, and
// returns the segments of the range, each with a reference for the caller. It
// returns nil if the window can't hold the range. mu must be held.
func (r *Reader) advanceLocked(off, n, size int64) []*segment {
	if len(r.segs) == 0 {
		r.fetchedTo = off
	}
	if off < r.firstOffset() {
		return nil // the read is behind the window
	}
	// A read beyond the window, which may have overtaken earlier reads, moves the
	// window up to its own offset.
	r.dropBehindLocked(min(off, r.ahead.expected-keepBehind))
	end := min(off+n+r.ahead.bytes(), size)
	for r.fetchedTo < end {
		if r.fetchedTo >= off+n && end-r.fetchedTo < min(r.partBytes, r.ahead.bytes())/2 && end < size {
			break // the rest is too small for a request of its own
		}
		length := min(max(end-r.fetchedTo, minSegment), r.partBytes-r.fetchedTo%r.partBytes, size-r.fetchedTo)
		if !r.fetchLocked(length) && !(r.dropBehindLocked(off) && r.fetchLocked(length)) && (length <= minSegment || !r.fetchLocked(minSegment)) {
			r.ahead.budgetEmpty()
			break
		}
	}
	if r.fetchedTo < off+n {
		return nil
	}
	var out []*segment
	for _, s := range r.segs {
		if s.off < off+n && off < s.off+s.n {
			s.mem.Retain()
			out = append(out, s)
		}
	}
	return out
}

// firstOffset returns the offset of the first segment. mu must be held.
func (r *Reader) firstOffset() int64 {
	if len(r.segs) == 0 {
		return r.fetchedTo
	}
	return r.segs[0].off
}

// fetchLocked requests the next n bytes. It returns false if there is no memory
// for them, not even in the windows of idle readers. mu must be held.
func (r *Reader) fetchLocked(n int64) bool {
	buf := r.o.e.opts.Budget.TryGet(int(n))
	for buf == nil && r.o.e.windows.reclaim(r.o.e.now()) {
		buf = r.o.e.opts.Budget.TryGet(int(n))
	}
	if buf == nil {
		return false
	}
	s := &segment{r: r, mem: buf, ready: make(chan struct{})}
	s.owner, s.o, s.off, s.n = s, r.o, r.fetchedTo, n
	buf.Retain() // the request's reference
	r.wg.Add(1)
	r.segs = append(r.segs, s)
	r.fetchedTo += n
	r.o.g.submit(&s.task)
	return true
}

// dropBehindLocked drops the segments that end at or before limit, and reports
// whether there were any. mu must be held.
func (r *Reader) dropBehindLocked(limit int64) bool {
	i := 0
	for i < len(r.segs) && r.segs[i].off+r.segs[i].n <= limit {
		r.dropSegment(r.segs[i])
		i++
	}
	r.segs = append(r.segs[:0], r.segs[i:]...)
	return i > 0
}

// dropAllLocked drops the window. mu must be held.
func (r *Reader) dropAllLocked() {
	r.dropSegmentsLocked()
	r.o.e.windows.remove(r)
}

// dropSegmentsLocked drops all segments. The caller must remove the reader from
// Engine.windows. mu must be held.
func (r *Reader) dropSegmentsLocked() {
	for _, s := range r.segs {
		r.dropSegment(s)
	}
	clear(r.segs)
	r.segs = r.segs[:0]
}

// forget drops the window if s, which has failed, is still in it. The next read of
// the range then makes another request.
func (r *Reader) forget(s *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.segs, s) {
		r.dropAllLocked()
	}
}

// dropSegment cancels a segment's request, if it still runs, and releases the
// reader's reference. Calls that wait for the segment hold their own.
func (r *Reader) dropSegment(s *segment) {
	r.o.g.cancel(&s.task, context.Canceled)
	s.release()
}

// Close drops the window and returns when the requests of the reader have ended.
func (r *Reader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.dropAllLocked()
	r.mu.Unlock()
	r.wg.Wait()
	return nil
}
