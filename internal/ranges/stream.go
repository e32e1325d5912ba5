package ranges

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/penstock/penstock/internal/budget"
)

// StreamOptions is the policy of one stream. The zero value works.
type StreamOptions struct {
	// PartBytes is the largest request; 0 means the engine's PartBytes.
	PartBytes int64
	// WindowBytes bounds the bytes that are fetched ahead of the consumer. 0 means
	// half of the budget. The window starts at two parts and doubles whenever the
	// consumer has to wait.
	WindowBytes int64
	// Sum is the checksum of the delivered bytes. 0 means the object's algorithm,
	// or CRC64NVME if the object has none.
	Sum ChecksumAlgorithm
	// NoVerify turns the checksum off.
	NoVerify bool
}

// Part is a piece of a stream: the bytes of Buf at offset Off of the object. The
// receiver of a Part owns one reference of Buf and has to release it.
type Part struct {
	Off int64
	Buf *budget.Buf
}

// Stream delivers a span of an object in order while its parts are fetched
// concurrently. One goroutine may read; another one may call Close.
type Stream struct {
	o    *Object
	opts StreamOptions
	span struct{ off, n int64 } // as requested; n < 0 means to the end
	acct *budget.Account
	life context.Context //nolint:containedctx // bounds Read and WriteTo, which have no argument for it
	stop context.CancelCauseFunc

	answered chan struct{} // capacity 1; receives when an answer may have told the size

	backlog backlog

	mu     sync.Mutex // guards parts and closed; taken before a gate's lock
	parts  []*part    // in order; parts[0] is the head
	closed bool

	// Used by the consumer alone.
	plan            plan
	win             window
	fullWindowParts int   // number of parts for which the whole window is used, see retryParts
	at              int64 // offset of the next byte to deliver
	cur             Part  // the part that Read is copying from
	curRest         []byte
	sum             Checksum
	spare           []*part // delivered parts, for reuse
	plain           plainBody
	plainProgress   plainProgress
	broken          int // number of plain bodies that broke
	err             error
}

// part is a task of a stream, with its buffer.
type part struct {
	task
	s            *Stream
	mem          *budget.Buf
	tellsSize    bool          // the object's size was unknown when the part was submitted
	retry        chan struct{} // capacity 1; receives when another attempt follows
	done         chan struct{} // capacity 1; receives once when the task has ended
	doneReceived bool
}

// started sets the task's buffer. Bytes allocates its memory, which is not needed
// before the request has a slot.
func (p *part) started() { p.buf = p.mem.Bytes() }

func (p *part) answered() {
	if p.tellsSize {
		signal(p.s.answered)
	}
}

func (p *part) retried() { signal(p.retry) }

func (p *part) late() { p.s.backlog.headIsLate() }

func (p *part) ended() {
	b := &p.s.backlog // the part may be in use again once done has been received
	p.done <- struct{}{}
	b.partEnded()
}

// firstPart bounds the first part of an object of unknown size. The object may be
// small, and the kernel has to clear all memory of a buffer.
const firstPart = 1 << 20

// retryParts is the number of parts for which a stream uses its whole window after
// its head had to be retried. Finished parts bridge the time of further retries,
// which are likely. (A hedge doesn't count, because a busy processor causes some.)
const retryParts = 64

// maxPlainBreaks bounds how often a broken whole-object answer is requested again,
// because each one starts from the beginning.
const maxPlainBreaks = 3

// Stream starts reading n bytes at off; n < 0 reads to the end of the object. It
// returns at once; Read, WriteTo and Next return the first error. The stream ends
// with ctx. The caller must close it.
func (o *Object) Stream(ctx context.Context, off, n int64, so StreamOptions) *Stream {
	if so.PartBytes <= 0 {
		so.PartBytes = o.e.opts.PartBytes
	}
	if so.WindowBytes <= 0 {
		so.WindowBytes = max(o.e.opts.Budget.Limit()/2, so.PartBytes)
	}
	s := &Stream{o: o, opts: so, at: off, acct: o.e.opts.Budget.Account()}
	s.span.off, s.span.n = off, n
	s.plan = plan{off: off, end: -1, partBytes: so.PartBytes}
	s.updateEnd()
	s.win = newStreamWindow(so.PartBytes, so.WindowBytes)
	s.answered = make(chan struct{}, 1)
	s.backlog.wake = make(chan struct{}, 1)
	s.sum.Algorithm = so.Sum
	s.life, s.stop = context.WithCancelCause(ctx)
	context.AfterFunc(s.life, s.cancelParts)
	if off < 0 {
		s.err = &Error{Op: "stream", Object: o.spec.Name, Off: off, Len: n, Err: errors.New("negative offset")}
	} else {
		s.fill()
	}
	return s
}

// updateEnd sets the end of the plan by the object's size, if that is known.
func (s *Stream) updateEnd() {
	size, _ := s.o.known()
	switch {
	case s.span.n >= 0 && size >= 0:
		s.plan.end = min(s.span.off+s.span.n, size)
	case s.span.n >= 0:
		s.plan.end = s.span.off + s.span.n
	default:
		s.plan.end = size
	}
	if s.plan.end >= 0 {
		s.plan.end = max(s.plan.end, s.span.off)
	}
}

// fill requests parts until the window is full. It reserves memory in the order of
// offsets and never waits for it. The budget always grants the reservation of a
// stream that holds no other part; without room for more the window shrinks.
func (s *Stream) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, _ := s.o.known()
	// One request runs alone until its answer tells the size, and that the server
	// serves ranges.
	alone := size < 0 || s.o.noRanges.Load()
	var slots int
	slots, s.plan.partBytes = s.o.g.policy(s.opts.PartBytes)
	if size < 0 {
		s.plan.partBytes = min(s.plan.partBytes, firstPart)
	}
	limit := s.win.size
	if s.fullWindowParts == 0 {
		// Request as many parts as the host's limit lets run, a quarter more for
		// parts that end out of order, and two to keep the slots busy. More parts
		// would only wait after their end, and new parts would get memory that is
		// not in the cache, or that the kernel has to clear first.
		spare := slots / 4
		if s.backlog.wakeAt.Load() > 0 && s.backlog.headLate.Load() {
			// The consumer waits for a late head. Once as many parts as there are
			// slots have overtaken it, the slots are idle. (Fewer parts overtake a
			// head whenever the processors are busy.)
			ended := int(s.backlog.ended.Load())
			if ended >= slots {
				spare = min(ended, 2*slots)
			}
			s.backlog.wakeWhen(int64(max(ended+1, slots)))
		}
		limit = min(limit, int64(slots+spare+2)*s.plan.partBytes)
	}
	var ahead int64
	for _, p := range s.parts {
		ahead += p.n
	}
	for !s.closed && s.plan.more() {
		if len(s.parts) > 0 && (alone || ahead >= limit) {
			return
		}
		next := s.plan
		off, n := next.take()
		buf := s.acct.TryGet(int(n))
		if buf == nil {
			s.win.budgetEmpty()
			return
		}
		s.plan = next
		s.submitLocked(off, buf)
		ahead += n
	}
}

// submitLocked queues a part. mu must be held.
func (s *Stream) submitLocked(off int64, buf *budget.Buf) {
	var p *part
	if n := len(s.spare); n > 0 {
		p, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		p = &part{s: s, done: make(chan struct{}, 1), retry: make(chan struct{}, 1)}
		p.owner = p
	}
	select {
	case <-p.retry: // left from its last use
	default:
	}
	p.mem, p.doneReceived = buf, false
	p.o, p.off, p.n, p.buf = s.o, off, int64(buf.Len()), nil
	p.urgent = len(s.parts) == 0
	p.wantsBody = p.urgent
	size, _ := s.o.known()
	p.tellsSize = size < 0
	p.sum = s.algorithm()
	s.parts = append(s.parts, p)
	s.o.g.submit(&p.task)
}

// algorithm returns the checksum for new parts.
func (s *Stream) algorithm() ChecksumAlgorithm {
	if s.opts.NoVerify {
		return NoChecksum
	}
	if s.sum.Algorithm != NoChecksum {
		return s.sum.Algorithm
	}
	if _, sum := s.o.known(); sum.Algorithm != NoChecksum {
		return sum.Algorithm
	}
	return CRC64NVME
}

// Next returns the next part without copying it. The error is io.EOF after the
// last part. If the checksum of the whole object is known, Next compares it
// before it returns the last part.
func (s *Stream) Next(ctx context.Context) (Part, error) {
	if s.err != nil {
		return Part{}, s.err
	}
	p, err := s.nextPart(ctx)
	if err != nil && ctx.Err() == nil {
		s.err = err
	}
	return p, err
}

// nextPart is Next without the stream's final error.
func (s *Stream) nextPart(ctx context.Context) (Part, error) {
	for {
		if s.plain.rc != nil {
			return s.nextPlain(ctx)
		}
		s.fill()
		head, err := s.head(ctx)
		if err != nil {
			return Part{}, err
		}
		if head == nil {
			return Part{}, s.endError()
		}
		if err := s.awaitHead(ctx, head); err != nil {
			return Part{}, err
		}
		s.updateEnd()
		if head.body.rc != nil {
			if err := s.switchToPlain(head); err != nil {
				return Part{}, err
			}
			continue
		}
		if errors.Is(head.err, ErrNoRanges) && !head.wantsBody {
			s.refetchHead(head)
			continue
		}
		if head.err != nil {
			err := s.o.error("stream", &head.task)
			if cause := context.Cause(s.life); cause != nil {
				err = &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: cause}
			}
			return Part{}, err
		}
		return s.deliver(head)
	}
}

// head returns the first undelivered part, or nil at the end. It waits for memory
// while the consumer holds earlier parts.
func (s *Stream) head(ctx context.Context) (*part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, s.closedErr()
	}
	if len(s.parts) == 0 && s.plan.more() {
		off, n := s.plan.take()
		s.mu.Unlock()
		both, cancel := context.WithCancelCause(ctx)
		unhook := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
		buf, err := s.acct.Get(both, int(n))
		unhook()
		cancel(nil)
		s.mu.Lock()
		switch {
		case err != nil:
			s.plan.off = off
			return nil, &Error{Op: "stream", Object: s.o.spec.Name, Off: off, Len: n, Err: err}
		case s.closed:
			buf.Release()
			return nil, s.closedErr()
		}
		s.submitLocked(off, buf)
	}
	if len(s.parts) == 0 {
		return nil, nil
	}
	return s.parts[0], nil
}

// closedErr returns the error of a stream that has ended before its span.
func (s *Stream) closedErr() error {
	cause := context.Cause(s.life)
	if cause == nil {
		cause = ErrClosed
	}
	return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: cause}
}

// awaitHead waits until the head has ended.
func (s *Stream) awaitHead(ctx context.Context, head *part) error {
	if head.doneReceived {
		return nil
	}
	select {
	case <-head.done:
		head.doneReceived = true
		return nil
	default:
	}
	s.win.consumerWaited()
	if s.o.g.promote(&head.task) {
		s.fullWindowParts = retryParts
	}
	s.backlog.wakeAt.Store(math.MaxInt64)
	defer s.backlog.wakeAt.Store(0)
	s.fill()
	for {
		select {
		case <-head.done:
			head.doneReceived = true
			return nil
		case <-s.answered:
			// The size is known before the first part's bytes have arrived, so the
			// other parts need not wait for them.
			s.updateEnd()
			s.fill()
		case <-head.retry:
			s.fullWindowParts = retryParts
			s.fill()
		case <-s.backlog.wake:
			s.win.consumerWaited()
			s.fill()
		case <-ctx.Done():
			return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: context.Cause(ctx)}
		}
	}
}

// popHead removes the head from parts and returns its buffer.
func (s *Stream) popHead() *budget.Buf {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[0]
	copy(s.parts, s.parts[1:])
	s.parts[len(s.parts)-1] = nil
	s.parts = s.parts[:len(s.parts)-1]
	buf := p.mem
	p.mem, p.buf, p.o = nil, nil, nil
	s.backlog.ended.Add(-1)
	s.backlog.headLate.Store(false)
	s.spare = append(s.spare, p)
	return buf
}

// deliver returns the head, which has ended well.
func (s *Stream) deliver(head *part) (Part, error) {
	off, got, asked, crc, alg := head.off, head.got, int(head.n), head.crc, head.sum
	buf := s.popHead()
	buf.Truncate(got)
	s.fullWindowParts = max(s.fullWindowParts-1, 0)
	if want := s.algorithm(); want != alg {
		// The first answer has named another algorithm.
		crc = want.update(0, buf.Bytes())
	}
	if got < asked {
		if size, _ := s.o.known(); off+int64(got) < size {
			buf.Release()
			return Part{}, &Error{Op: "stream", Object: s.o.spec.Name, Off: off, Len: int64(asked), Err: io.ErrUnexpectedEOF}
		}
		s.plan.off, s.plan.end = off+int64(got), off+int64(got)
	}
	if got == 0 {
		buf.Release()
		return Part{}, s.endError()
	}
	if err := s.addDelivered(int64(got), crc); err != nil {
		buf.Release()
		return Part{}, err
	}
	return Part{Off: off, Buf: buf}, nil
}

// addDelivered adds n delivered bytes to the checksum, and compares it after the
// last byte of a whole object.
func (s *Stream) addDelivered(n int64, crc uint64) error {
	s.at += n
	if s.opts.NoVerify {
		return nil
	}
	s.sum.Algorithm = s.algorithm()
	s.sum.Value = s.sum.Algorithm.combine(s.sum.Value, crc, n)
	return s.verify()
}

// verify compares the checksum once the whole object is delivered.
func (s *Stream) verify() error {
	size, want := s.o.known()
	if s.opts.NoVerify || s.span.off != 0 || s.at != size || want.Algorithm == NoChecksum || want.Algorithm != s.sum.Algorithm {
		return nil
	}
	if want.Value != s.sum.Value {
		return &Error{
			Op: "stream", Object: s.o.spec.Name, Off: 0, Len: size,
			Err: fmt.Errorf("%w: object has %v, received %v", ErrChecksum, want, s.sum),
		}
	}
	return nil
}

// endError returns the error after the last part.
func (s *Stream) endError() error {
	size, _ := s.o.known()
	if s.plan.end >= 0 && s.at < s.plan.end && s.at < size {
		return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: io.ErrUnexpectedEOF}
	}
	return io.EOF
}

// Sum returns the checksum of the bytes delivered so far, and false with NoVerify.
func (s *Stream) Sum() (Checksum, bool) {
	return Checksum{Algorithm: s.algorithm(), Value: s.sum.Value}, !s.opts.NoVerify
}

// Read copies the next bytes into p (io.Reader).
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.curRest) == 0 {
		s.releaseCurrent()
		part, err := s.Next(s.life)
		if err != nil {
			return 0, err
		}
		s.cur, s.curRest = part, part.Buf.Bytes()
	}
	n := copy(p, s.curRest)
	s.curRest = s.curRest[n:]
	return n, nil
}

// releaseCurrent releases the part that Read is copying from.
func (s *Stream) releaseCurrent() {
	if s.cur.Buf != nil {
		s.cur.Buf.Release()
		s.cur, s.curRest = Part{}, nil
	}
}

// WriteTo writes the rest of the stream to w (io.WriterTo).
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	if len(s.curRest) > 0 {
		n, err := w.Write(s.curRest)
		total += int64(n)
		s.curRest = s.curRest[n:]
		if err != nil {
			return total, err
		}
	}
	s.releaseCurrent()
	for {
		p, err := s.Next(s.life)
		if err != nil {
			if err == io.EOF { //nolint:errorlint // Next returns io.EOF bare; a wrapped one is a failure
				err = nil
			}
			return total, err
		}
		n, err := w.Write(p.Buf.Bytes())
		p.Buf.Release()
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// cancelParts cancels all parts. It runs when the stream's context ends.
func (s *Stream) cancelParts() {
	cause := context.Cause(s.life)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.parts {
		s.o.g.cancel(&p.task, cause)
	}
}

// Close ends the stream and returns when its requests have ended. It may be called
// more than once. It must not be called while another goroutine is in Read,
// WriteTo or Next, unless the context of that call or of the stream has ended.
func (s *Stream) Close() error {
	s.stop(ErrClosed)
	s.cancelParts()
	s.plain.close()
	s.releaseCurrent()
	s.mu.Lock()
	parts := s.parts
	s.parts = nil
	s.mu.Unlock()
	for _, p := range parts {
		if !p.doneReceived {
			<-p.done
		}
		p.body.close()
		p.mem.Release()
	}
	if s.err == nil {
		s.err = s.closedErr()
	}
	return nil
}

// dropParts cancels and removes all parts.
func (s *Stream) dropParts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if !p.doneReceived {
			s.o.g.cancel(&p.task, context.Canceled)
		}
	}
	for i, p := range s.parts {
		if !p.doneReceived {
			<-p.done
		}
		p.body.close()
		p.mem.Release()
		p.mem, p.buf, p.o = nil, nil, nil
		s.backlog.ended.Add(-1)
		s.spare = append(s.spare, p)
		s.parts[i] = nil
	}
	s.parts = s.parts[:0]
}
