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
	// chunk is the most that one Read of a body may return. It is large enough
	// that the cost of system calls doesn't matter, and small enough that the
	// bytes are still in the cache when the checksum reads them.
	chunk = 1 << 20
	// skipMax is how many bytes of a whole-object answer are read and discarded
	// to reach the range that the server has ignored.
	skipMax = 1 << 20
)

// A lane is a goroutine that makes one request at a time. It lives as long as its
// gate. It keeps its context from one request to the next, so that a request
// costs no allocation, and replaces only a cancelled one.
type lane struct {
	g    *gate
	work chan *attempt // capacity 1; closed by gate.close

	// Guarded by g.mu.
	ctx              context.Context //nolint:containedctx // the lane's own lifetime, never a caller's
	cancel           context.CancelCauseFunc
	current          *attempt
	active           bool // the fields of current are set up
	started          time.Duration
	since            time.Duration // started, as gate.awakeTime
	progress         Progress      // of the current attempt
	completedAtStart int64         // gate.completed at that time

	first time.Duration // time of the first byte; used only by the lane

	// Written by the lane, read by the monitor.
	got, want       atomic.Int64
	last            atomic.Int64 // gate.awakeTime of the last byte, in nanoseconds
	completedAtByte atomic.Int64 // gate.completed at that time
}

func newLane(g *gate) *lane {
	l := &lane{g: g, work: make(chan *attempt, 1)}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// renewContextLocked replaces a cancelled context. g.mu must be held.
func (l *lane) renewContextLocked() {
	if l.ctx.Err() != nil {
		l.ctx, l.cancel = context.WithCancelCause(context.Background())
	}
}

func (l *lane) loop() {
	for a := range l.work {
		ctx, req := l.setup(a)
		a.err = l.attempt(ctx, a, req)
		l.g.finishAttempt(l, a)
	}
	l.g.mu.Lock()
	l.cancel(nil) // releases the context
	l.g.mu.Unlock()
}

// setup fixes the range of an attempt and shows the lane to the monitor.
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
	l.since, l.completedAtStart = g.awakeTime(l.started), g.completed.Load()
	l.progress = Progress{From: l.since}
	l.last.Store(int64(l.since))
	l.completedAtByte.Store(l.completedAtStart)
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
// full; it is shortened if the object ends inside it.
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
		case info.Pin == "" && req.Pin != "": // it may be another object
			return errors.Join(&Fault{Kind: Retryable, Fresh: true, Err: errUnidentified}, body.Close())
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

// beyond handles a 416, the answer to a range that starts at or after the end.
// Some servers don't send the size with it.
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

// fit adapts the attempt's buffer to the range of the answer. It reports true if
// it handed the body to the task's owner.
func (l *lane) fit(ctx context.Context, a *attempt, req Request, body io.ReadCloser, info Info) (handed bool, err error) {
	if info.Off == req.Off && info.Len <= req.Len {
		if a.t.o.noRanges.Load() {
			a.t.o.noRanges.Store(false) // that was one odd answer, or another server of the same name
		}
		if info.Len < req.Len {
			// A server may send fewer bytes than requested (RFC 9110 section
			// 15.3.7). They are kept, and the rest is requested again.
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
			l.completedAtByte.Store(l.g.completed.Load())
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

// blame returns the cause of a failure. If the lane's context was cancelled, that
// is the cause, and not the error that the transport derives from it.
func (l *lane) blame(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); cause == ErrStalled || cause == ErrSlow { //nolint:errorlint // the monitor's own, bare
			return &Fault{Kind: Retryable, Fresh: true, Err: fmt.Errorf("%w (%v)", cause, l.g.e.opts.Retry.Stall)}
		}
		return context.Canceled
	}
	return err
}

// plainBody is the answer of a server that sent the whole object instead of a
// range.
type plainBody struct {
	rc     io.ReadCloser
	info   Info
	ctx    context.Context //nolint:containedctx // the lifetime of the answer's body
	cancel context.CancelCauseFunc
}

func (p *plainBody) close() {
	if p.rc != nil {
		p.cancel(nil)
		_ = p.rc.Close() // the rest of the body isn't needed
		p.rc = nil
	}
}
