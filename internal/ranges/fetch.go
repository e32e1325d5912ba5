package ranges

import (
	"context"
	"errors"
	"io"
)

// getTask returns the bookkeeping of a range, for the verbs that do not keep
// their own. The pool is the engine's: a package's would carry channels from
// one test's bubble of fake time into the next.
func (e *Engine) getTask() *task {
	if t, ok := e.tasks.Get().(*task); ok {
		return t
	}
	return &task{done: make(chan struct{}, 1)}
}

func (e *Engine) putTask(t *task) {
	t.o, t.buf, t.begin, t.notify, t.body = nil, nil, nil, nil, plainBody{}
	t.urgent, t.wantsBody, t.sum = false, false, NoChecksum
	e.tasks.Put(t)
}

// Fetch reads len(p) bytes at offset off of the object into p. Ranges longer
// than a part are fetched as parts at the same time. It returns fewer bytes
// only with an error, which is io.EOF at the end of the object.
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
	t := o.e.getTask()
	t.o, t.off, t.n, t.buf, t.urgent = o, off, int64(len(p)), p, true
	o.g.submit(t)
	n, err := o.wait(ctx, t, "fetch")
	if err == nil && n < len(p) {
		err = io.EOF
	}
	o.e.putTask(t)
	return n, err
}

// wait returns when the task has ended, cancelling it when ctx ends first.
func (o *Object) wait(ctx context.Context, t *task, op string) (int, error) {
	select {
	case <-t.done:
	default:
		select {
		case <-t.done:
		case <-ctx.Done():
			o.g.cancel(t, context.Cause(ctx))
			<-t.done
		}
	}
	if t.err != nil {
		return t.got, o.error(op, t)
	}
	return t.got, nil
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
	ts := make([]*task, 0, (len(p)+part-1)/part)
	for at := 0; at < len(p); at += part {
		t := o.e.getTask()
		t.o, t.off, t.buf = o, off+int64(at), p[at:min(at+part, len(p))]
		t.n = int64(len(t.buf))
		t.urgent = at == 0
		o.g.submit(t)
		ts = append(ts, t)
	}
	total := 0
	var first error
	for _, t := range ts {
		if first != nil {
			o.g.cancel(t, context.Canceled)
		}
		n, err := o.wait(ctx, t, "fetch")
		switch {
		case first != nil:
		case err != nil:
			first = err
			total += n
		default:
			total += n
			if n < len(t.buf) {
				first = io.EOF
			}
		}
		o.e.putTask(t)
	}
	return total, first
}
