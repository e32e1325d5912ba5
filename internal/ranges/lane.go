package ranges

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// chunk is the most that one Read of a body may return: large enough that
	// system calls do not matter, and a megabyte still is in the cache when
	// the checksum reads it again.
	chunk = 1 << 20
	// skipMax is how much of a whole-object answer is read and thrown away to
	// get to a range that the server ignored.
	skipMax = 1 << 20
)

// lane is a goroutine that makes one request at a time. It lives as long as
// its gate and keeps its context from request to request, so that a request
// costs no allocation; only a cancelled context is replaced.
type lane struct {
	g    *gate
	work chan *attempt // capacity 1; closed by shut

	// Guarded by g.mu.
	ctx       context.Context //nolint:containedctx // the lane's own lifetime, never a caller's
	cancel    context.CancelCauseFunc
	current   *attempt
	active    bool // the fields of current are set up
	started   time.Duration
	since     time.Duration // started, by gate.awakeTime
	progress  Progress      // of the current attempt
	overStart int64         // gate.over then

	first time.Duration // time of the first byte; the lane's alone

	// Written by the lane, read by the monitor.
	got, want atomic.Int64
	last      atomic.Int64 // time of the last byte, in ns of gate.awakeTime
	overByte  atomic.Int64 // gate.over then
}

func newLane(g *gate) *lane {
	l := &lane{g: g, work: make(chan *attempt, 1)}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// renew replaces a cancelled context. The caller holds g.mu.
func (l *lane) renew() {
	if l.ctx.Err() != nil {
		l.ctx, l.cancel = context.WithCancelCause(context.Background())
	}
}

func (l *lane) loop() {
	for a := range l.work {
		ctx, req := l.setup(a)
		a.err = l.attempt(ctx, a, req)
		l.g.finish(l, a)
	}
	l.g.mu.Lock()
	l.cancel(nil) // releases the context
	l.g.mu.Unlock()
}

// setup fixes the range of an attempt and makes the lane visible to the
// monitor.
func (l *lane) setup(a *attempt) (context.Context, Request) {
	t, g := a.t, l.g
	if !t.startSent {
		t.owner.started()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t.startSent = true
	if !a.hedge {
		a.off, a.buf, a.crc = t.off+int64(t.got), t.buf[t.got:], t.crc
	}
	l.got.Store(0)
	l.want.Store(int64(len(a.buf)))
	l.since, l.overStart = g.awakeTime(l.started), g.over.Load()
	l.progress = Progress{From: l.since}
	l.last.Store(int64(l.since))
	l.overByte.Store(l.overStart)
	l.active = true
	req := Request{Off: a.off, Len: int64(len(a.buf)), Pin: t.o.pinned(), Fresh: a.fresh, Attempt: t.attempts}
	t.attempts++
	g.e.stats.requests.Add(1)
	if a.hedge {
		g.e.stats.hedges.Add(1)
	}
	return l.ctx, req
}

// attempt makes one request and reads its body into a.buf. On success a.buf is
// full, or was shortened to the end of the object.
func (l *lane) attempt(ctx context.Context, a *attempt, req Request) error {
	o := a.t.o
	body, info, err := o.src.Open(ctx, req)
	if err != nil {
		var f *Fault
		if errors.As(err, &f) && f.Kind == OutOfRange && ctx.Err() == nil {
			return l.beyond(a, req, info, f)
		}
		return l.blame(ctx, err)
	}
	if err := o.observe(info); err != nil {
		return errors.Join(err, body.Close())
	}
	if info.Len < 0 {
		size, _ := o.known()
		switch {
		case size < 0:
			return errors.Join(&Fault{Kind: NoRanges, Err: errNoLength}, body.Close())
		case info.Pin == "" && req.Pin != "": // it could be anything
			return errors.Join(&Fault{Kind: Retryable, Fresh: true, Err: errNothingKnown}, body.Close())
		}
		body, info.Size, info.Len = &sizedBody{ReadCloser: body, left: size}, size, size
	}
	if handed, err := l.fit(ctx, a, req, body, info); handed || err != nil {
		return err
	}
	a.t.owner.answered()
	err = l.receive(ctx, a, body)
	if cerr := body.Close(); err == nil && cerr != nil && len(a.buf) > a.n {
		err = cerr
	}
	if err == nil && a.clipped {
		return &Fault{Kind: Retryable, Err: fmt.Errorf("%w: %d bytes of %d", errClipped, a.n, req.Len)}
	}
	return err
}

// beyond judges an answer that the range starts after the end (416). Not every
// server tells the size along with it.
func (l *lane) beyond(a *attempt, req Request, info Info, f *Fault) error {
	o := a.t.o
	if err := o.observe(info); err != nil {
		return err
	}
	size, _ := o.known()
	if size >= 0 && req.Off < size {
		return &Fault{Kind: OutOfRange, Status: f.Status, Fresh: true, Err: fmt.Errorf("%w, but the object has %d bytes", f, size)}
	}
	a.buf = a.buf[:0]
	return nil
}

// fit makes the attempt's buffer and the answer's range agree. It reports true
// when the body was handed to the task's owner.
func (l *lane) fit(ctx context.Context, a *attempt, req Request, body io.ReadCloser, info Info) (handed bool, err error) {
	if info.Off == req.Off && info.Len <= req.Len {
		if a.t.o.noRanges.Load() {
			a.t.o.noRanges.Store(false) // it was one odd answer, or another server behind the name
		}
		if info.Len < req.Len {
			// A server may send less than it was asked for (RFC 9110 section
			// 15.3.7): these bytes are taken, and the rest is asked for.
			size, _ := a.t.o.known()
			a.clipped = size < 0 || info.Off+info.Len < size
			a.buf = a.buf[:info.Len]
			l.want.Store(info.Len)
		}
		return false, nil
	}
	if info.Off != 0 || info.Len != info.Size {
		return false, errors.Join(&Fault{Kind: Retryable, Fresh: true, Err: fmt.Errorf("answer has bytes %d+%d, not the %d+%d asked for", info.Off, info.Len, req.Off, req.Len)}, body.Close())
	}
	// The whole object instead of a range.
	a.t.o.noRanges.Store(true)
	switch {
	case a.t.wantsBody && !a.hedge && a.t.got == 0:
		a.t.body = plainBody{rc: body, info: info, ctx: ctx}
		l.g.mu.Lock()
		a.t.body.cancel = l.cancel
		l.ctx, l.cancel = context.WithCancelCause(context.Background())
		l.g.mu.Unlock()
		a.buf = a.buf[:0]
		return true, nil
	case req.Off <= skipMax:
		if _, err := io.CopyN(io.Discard, body, min(req.Off, info.Size)); err != nil {
			return false, errors.Join(l.blame(ctx, err), body.Close())
		}
		if left := max(info.Size-req.Off, 0); left < req.Len {
			a.buf = a.buf[:left]
			l.want.Store(left)
		}
		return false, nil
	}
	return false, errors.Join(&Fault{Kind: NoRanges, Err: fmt.Errorf("server answered with the whole object (%d bytes) instead of bytes %d-%d", info.Size, req.Off, req.Off+req.Len-1)}, body.Close())
}

// receive fills a.buf from body.
func (l *lane) receive(ctx context.Context, a *attempt, body io.Reader) error {
	sum := a.t.sum
	for a.n < len(a.buf) {
		n, err := body.Read(a.buf[a.n:min(a.n+chunk, len(a.buf))])
		if n > 0 {
			if !a.hedge {
				a.crc = sum.update(a.crc, a.buf[a.n:a.n+n])
			}
			now := l.g.e.now()
			if a.n == 0 {
				l.first = now
			}
			a.n += n
			l.last.Store(int64(l.g.awakeTime(now)))
			l.overByte.Store(l.g.over.Load())
			l.got.Store(int64(a.n))
			a.t.o.arrived.Add(int64(n))
		}
		if err != nil && a.n < len(a.buf) {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %d of %d bytes", errShort, a.n, len(a.buf))
			}
			return l.blame(ctx, err)
		}
	}
	return nil
}

// blame returns the cause of a failure: our own cancellation rather than what
// the transport made of it.
func (l *lane) blame(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); cause == ErrStalled || cause == ErrSlow { //nolint:errorlint // the monitor's own, bare
			return &Fault{Kind: Retryable, Fresh: true, Err: fmt.Errorf("%w (%v)", cause, l.g.e.opts.Retry.Stall)}
		}
		return context.Canceled
	}
	return err
}

// plainBody is a whole-object answer that the engine got instead of a range.
type plainBody struct {
	rc     io.ReadCloser
	info   Info
	ctx    context.Context //nolint:containedctx // the lifetime of the answer's body
	cancel context.CancelCauseFunc
}

func (p *plainBody) close() {
	if p.rc != nil {
		p.cancel(nil)
		_ = p.rc.Close() // a body that we stop reading: nothing to learn
		p.rc = nil
	}
}
