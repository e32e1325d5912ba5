package ranges

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/penstock/penstock/internal/budget"
)

// flights are the random reads of one object that are under way. Equal reads,
// and reads inside another, share its request. While a request still waits for
// a slot, reads that touch it are joined to it.
type flights struct {
	o    *Object
	mu   sync.Mutex // guards list and the flights' fields that say so; never held while a gate's lock is taken
	list []*flight
}

// flight is one request for one or more readers.
type flight struct {
	ignoreEvents
	fl    *flights
	task  task
	ready chan struct{} // closed when the task has ended

	// Guarded by fl.mu until begun, constant after.
	off   int64
	n     int64
	begun bool
	first int64       // offset of the first reader's range
	p     []byte      // its buffer, when the request fills it directly
	mem   []byte      // where the bytes are; nil after ready: failed
	buf   *budget.Buf // backs mem when readers were joined

	// copying counts the joined readers that may still read mem.
	copying sync.WaitGroup
}

// errAgain tells a joined reader that the request it waited for was given up
// by the reader that had started it.
var errAgain = errors.New("shared request was cancelled")

// read reads len(p) bytes at off, sharing requests.
func (fl *flights) read(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		f, mine := fl.join(p, off)
		var n int
		var err error
		if mine {
			n, err = fl.lead(ctx, f, p, off)
		} else {
			n, err = f.follow(ctx, p, off)
		}
		if !errors.Is(err, errAgain) {
			return n, err
		}
	}
}

// join returns the flight that will carry the range, and whether the caller
// starts it.
func (fl *flights) join(p []byte, off int64) (f *flight, mine bool) {
	n := int64(len(p))
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, f := range fl.list {
		if f.off <= off && off+n <= f.off+f.n {
			f.copying.Add(1)
			return f, false
		}
	}
	for _, f := range fl.list {
		lo, hi := min(f.off, off), max(f.off+f.n, off+n)
		touches := off <= f.off+f.n && f.off <= off+n
		if !f.begun && touches && hi-lo <= fl.o.e.opts.PartBytes {
			f.off, f.n = lo, hi-lo
			f.copying.Add(1)
			return f, false
		}
	}
	f = &flight{fl: fl, ready: make(chan struct{}), off: off, n: n, first: off, p: p}
	fl.list = append(fl.list, f)
	return f, true
}

// ended lets the readers of the flight copy.
func (f *flight) ended() { close(f.ready) }

// started fixes the range when the request gets its slot.
func (f *flight) started() {
	f.fl.mu.Lock()
	defer f.fl.mu.Unlock()
	f.begun = true
	f.mem = f.p
	if f.n > int64(len(f.p)) {
		// Readers were joined: their bytes stand beside each other in a buffer of
		// at most a part. Without room for it the request is for the first reader
		// alone, and the others ask again: waiting here would hold a slot.
		if f.buf = f.fl.o.e.opts.Budget.TryGet(int(f.n)); f.buf != nil {
			f.mem = f.buf.Bytes()
		} else {
			f.off, f.n = f.first, int64(len(f.p))
		}
	}
	f.task.off, f.task.n, f.task.buf = f.off, f.n, f.mem
}

// lead makes the request of a flight that the caller started.
func (fl *flights) lead(ctx context.Context, f *flight, p []byte, off int64) (int, error) {
	t := &f.task
	t.owner, t.o, t.off, t.n, t.buf, t.urgent = f, fl.o, off, int64(len(p)), p, true
	fl.o.g.submit(t)
	var err error
	select {
	case <-f.ready:
	case <-ctx.Done():
		fl.o.g.cancel(t, context.Cause(ctx))
		<-f.ready
	}
	fl.mu.Lock()
	if i := slices.Index(fl.list, f); i >= 0 {
		fl.list = slices.Delete(fl.list, i, i+1)
	}
	fl.mu.Unlock()
	// From here on nobody joins. Those who did copy out of mem, which may be
	// our caller's buffer: they finish first.
	f.copying.Wait()
	var n int
	if t.err != nil {
		err = fl.o.error("read", t)
	} else {
		n, err = f.take(p, off)
	}
	if f.buf != nil {
		f.buf.Release()
	}
	return n, err
}

// follow waits for a flight that another reader started.
func (f *flight) follow(ctx context.Context, p []byte, off int64) (int, error) {
	defer f.copying.Done()
	select {
	case <-f.ready:
	case <-ctx.Done():
		return 0, &Error{Op: "read", Object: f.fl.o.spec.Name, Off: off, Len: int64(len(p)), Err: context.Cause(ctx)}
	}
	if err := f.task.err; err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return 0, errAgain
		}
		return 0, f.fl.o.error("read", &f.task)
	}
	if off < f.off || off+int64(len(p)) > f.off+f.n {
		return 0, errAgain // there was no room for the joined ranges
	}
	return f.take(p, off)
}

// take copies the range out of a flight that ended well.
func (f *flight) take(p []byte, off int64) (int, error) {
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
