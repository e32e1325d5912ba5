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
	// WindowBytes bounds what is fetched ahead of sequential reads. 0 means a
	// quarter of the budget. Negative: nothing is fetched ahead.
	WindowBytes int64
}

// Reader is one consumer's view of an object at any offset: a file handle. It
// fetches just what is asked for until the reads turn out to be sequential, and
// then runs ahead of them. ReadAt may be called from several goroutines.
//
// What is fetched ahead stays within the budget: a reader for which there is no
// room takes a smaller window, then that of a reader that has been idle, and
// reads without one in the end, straight into the caller's buffer. So a reader
// never waits for memory, and any number of them may be open.
type Reader struct {
	o    *Object
	part int64

	reading atomic.Int32  // calls of ReadAt under way
	used    time.Duration // guarded by windows.mu
	elem    *lru.Element  // guarded by windows.mu; nil: no window

	mu     sync.Mutex // guards what follows; taken before a gate's lock
	ahead  readAhead
	segs   []*segment // fetched ahead, in order, without gaps
	next   int64      // offset after the last segment
	closed bool
	wg     sync.WaitGroup // segments whose request still runs
}

// segment is one part that is fetched ahead.
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

// keepBehind is how far behind the run's end a segment is kept, for reads that
// come late.
const keepBehind = reorderBytes

// minSegment is the least to fetch ahead in one request: below it the request
// costs more than the bytes.
const minSegment = 128 << 10

// Reader returns a new reader of the object. Close it.
func (o *Object) Reader(ro ReaderOptions) *Reader {
	limit := ro.WindowBytes
	if limit == 0 {
		limit = o.e.opts.Budget.Limit() / 4
	}
	part := o.e.opts.PartBytes
	return &Reader{o: o, part: part, ahead: newReadAhead(part, limit)}
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
		r.dropAll()
	case a == accessSequential && size >= 0:
		segs = r.advance(off, int64(len(p)), size)
	}
	if len(r.segs) > 0 {
		r.o.e.windows.use(r, r.o.e.now())
	}
	r.mu.Unlock()
	if segs == nil {
		return r.random(ctx, p, off)
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
			n, err := r.random(ctx, p[total:], off+int64(total))
			return total + n, err
		}
		return total, err
	}
	for _, s := range segs {
		s.release()
	}
	return total, nil
}

// random reads without the window.
func (r *Reader) random(ctx context.Context, p []byte, off int64) (int, error) {
	if int64(len(p)) > r.part {
		return r.o.Fetch(ctx, p, off)
	}
	return r.o.flights.read(ctx, p, off)
}

func (s *segment) release() { s.mem.Release() }

// copyFrom waits for a segment and copies out of it. When the reader itself
// gave the segment up, or it had failed before anybody asked for its bytes, the
// error is errAgain.
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

// advance makes the segments cover [off, off+n) and the window beyond it, and
// returns those that hold the range, each with a reference for the caller. nil
// when the range can't be had from the window. The caller holds r.mu.
func (r *Reader) advance(off, n, size int64) []*segment {
	if len(r.segs) == 0 {
		r.next = off
	}
	if off < r.first() {
		return nil // a late one from behind the window
	}
	// One that comes early, beyond what has been asked for, pulls the window up
	// to itself: the reads before it are on their way.
	r.dropBehind(min(off, r.ahead.expected-keepBehind))
	end := min(off+n+r.ahead.bytes(), size)
	for r.next < end {
		if r.next >= off+n && end-r.next < min(r.part, r.ahead.bytes())/2 && end < size {
			break // wait until a whole request's worth is missing
		}
		length := min(max(end-r.next, minSegment), r.part-r.next%r.part, size-r.next)
		if !r.fetch(length) && !(r.dropBehind(off) && r.fetch(length)) && (length <= minSegment || !r.fetch(minSegment)) {
			r.ahead.budgetEmpty()
			break
		}
	}
	if r.next < off+n {
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

func (r *Reader) first() int64 {
	if len(r.segs) == 0 {
		return r.next
	}
	return r.segs[0].off
}

// fetch asks for the next n bytes; false when there is no memory for them, not
// even in the windows of idle readers.
func (r *Reader) fetch(n int64) bool {
	buf := r.o.e.opts.Budget.TryGet(int(n))
	for buf == nil && r.o.e.windows.reclaim(r.o.e.now()) {
		buf = r.o.e.opts.Budget.TryGet(int(n))
	}
	if buf == nil {
		return false
	}
	s := &segment{r: r, mem: buf, ready: make(chan struct{})}
	s.owner, s.o, s.off, s.n = s, r.o, r.next, n
	buf.Retain() // the request's reference
	r.wg.Add(1)
	r.segs = append(r.segs, s)
	r.next += n
	r.o.g.submit(&s.task)
	return true
}

// dropBehind gives up segments that end at or before limit, and reports whether
// there were any.
func (r *Reader) dropBehind(limit int64) bool {
	i := 0
	for i < len(r.segs) && r.segs[i].off+r.segs[i].n <= limit {
		r.drop(r.segs[i])
		i++
	}
	r.segs = append(r.segs[:0], r.segs[i:]...)
	return i > 0
}

func (r *Reader) dropAll() {
	r.dropSegments()
	r.o.e.windows.remove(r)
}

// dropSegments is dropAll for who has taken the reader off the list. The
// caller holds r.mu.
func (r *Reader) dropSegments() {
	for _, s := range r.segs {
		r.drop(s)
	}
	clear(r.segs)
	r.segs = r.segs[:0]
}

// forget drops the window when s, which has failed, is still in it: the failure
// is that of one request, and the next read of the range makes another.
func (r *Reader) forget(s *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.segs, s) {
		r.dropAll()
	}
}

// drop cancels a segment's request, if it still runs, and gives up the
// reader's reference; readers that wait for it hold their own.
func (r *Reader) drop(s *segment) {
	r.o.g.cancel(&s.task, context.Canceled)
	s.release()
}

// Close gives up what was fetched ahead and returns when no request of this
// reader runs any more.
func (r *Reader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.dropAll()
	r.mu.Unlock()
	r.wg.Wait()
	return nil
}
