package ranges

import (
	"context"
	"errors"
	"io"
)

// fetch is a task whose owner waits for its end.
type fetch struct {
	task
	ignoreEvents
	done chan struct{} // capacity 1; receives once when the task has ended
}

func (f *fetch) ended() { f.done <- struct{}{} }

// getFetch returns a fetch from the engine's pool. A pool of the package would
// carry channels from one test's bubble of fake time into the next.
func (e *Engine) getFetch() *fetch {
	if f, ok := e.fetches.Get().(*fetch); ok {
		return f
	}
	f := &fetch{done: make(chan struct{}, 1)}
	f.owner = f
	return f
}

// putFetch gives a fetch that has ended back to the pool.
func (e *Engine) putFetch(f *fetch) {
	f.o, f.buf, f.body = nil, nil, plainBody{}
	f.urgent = false
	e.fetches.Put(f)
}

// Fetch reads len(p) bytes at offset off of the object into p. It fetches ranges
// longer than a part as concurrent parts. It returns fewer bytes only with an
// error, which is io.EOF at the end of the object.
func (o *Object) Fetch(ctx context.Context, p []byte, off int64) (int, error) {
	size, _ := o.known()
	var eof error
	if size >= 0 && off+int64(len(p)) > size {
		p, eof = p[:max(size-off, 0)], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	if len(p) <= int(o.e.opts.PartBytes) {
		n, err := o.fetchPart(ctx, p, off)
		if err == nil {
			err = eof
		}
		return n, err
	}
	n, err := o.fetchParts(ctx, p, off)
	if err == nil {
		err = eof
	}
	return n, err
}

func (o *Object) fetchPart(ctx context.Context, p []byte, off int64) (int, error) {
	f := o.e.getFetch()
	f.o, f.off, f.n, f.buf, f.urgent = o, off, int64(len(p)), p, true
	o.g.submit(&f.task)
	n, err := f.wait(ctx)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	o.e.putFetch(f)
	return n, err
}

// wait returns when the fetch has ended, cancelling it when ctx ends first.
func (f *fetch) wait(ctx context.Context) (int, error) {
	select {
	case <-f.done:
	default:
		select {
		case <-f.done:
		case <-ctx.Done():
			f.o.g.cancel(&f.task, context.Cause(ctx))
			<-f.done
		}
	}
	if f.err != nil {
		return f.got, f.o.error("fetch", &f.task)
	}
	return f.got, nil
}

// error wraps the failure of a task.
func (o *Object) error(op string, t *task) error {
	var f *Fault
	e := &Error{Op: op, Object: o.spec.Name, Off: t.off, Len: t.n, Attempts: t.attempts, Err: t.err}
	if errors.As(t.err, &f) {
		e.Status = f.Status
	}
	return e
}

func (o *Object) fetchParts(ctx context.Context, p []byte, off int64) (int, error) {
	part := int(o.e.opts.PartBytes)
	fs := make([]*fetch, 0, (len(p)+part-1)/part)
	for at := 0; at < len(p); at += part {
		f := o.e.getFetch()
		f.o, f.off, f.buf = o, off+int64(at), p[at:min(at+part, len(p))]
		f.n = int64(len(f.buf))
		f.urgent = at == 0
		o.g.submit(&f.task)
		fs = append(fs, f)
	}
	total := 0
	var first error
	for _, f := range fs {
		if first != nil {
			o.g.cancel(&f.task, context.Canceled)
		}
		n, err := f.wait(ctx)
		switch {
		case first != nil:
		case err != nil:
			first = err
			total += n
		default:
			total += n
			if n < len(f.buf) {
				first = io.EOF
			}
		}
		o.e.putFetch(f)
	}
	return total, first
}
