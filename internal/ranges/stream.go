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
	// PartBytes is the most that one request asks for; 0 means the engine's.
	PartBytes int64
	// WindowBytes bounds what is fetched ahead of the consumer. 0 means half of
	// the budget. The window starts at two parts and doubles whenever the
	// consumer has to wait.
	WindowBytes int64
	// Sum is the checksum to compute over the delivered bytes. 0 means the one
	// that the object has, else CRC64NVME.
	Sum ChecksumAlgorithm
	// NoVerify turns the checksum off altogether.
	NoVerify bool
}

// Part is a piece of a stream: the bytes of Buf stand at offset Off of the
// object. Whoever gets a Part owns one reference of Buf and releases it.
type Part struct {
	Off int64
	Buf *budget.Buf
}

// Stream delivers a span of an object in order while its parts are fetched at
// the same time. One goroutine reads; Close may be called from another.
type Stream struct {
	o    *Object
	opts StreamOptions
	span struct{ off, n int64 } // as asked for; n < 0 to the end
	acct *budget.Account
	life context.Context //nolint:containedctx // bounds Read and WriteTo, which have no argument for it
	stop context.CancelCauseFunc

	answered chan struct{} // capacity 1: the first answer's head has come

	line line

	mu     sync.Mutex // guards parts and closed; taken before a gate's lock
	parts  []*part    // in order; parts[0] is the head of line
	closed bool

	// The consumer's alone.
	plan      plan
	win       window
	stretch   int   // deliveries for which the whole window is used: a head had to be retried
	at        int64 // offset of the next byte to deliver
	cur       Part  // what Read has not yet handed out
	curRest   []byte
	sum       Checksum
	spare     []*part // finished bookkeeping, for reuse
	plain     plainBody
	plainPace plainPace
	broken    int // plain bodies that broke
	err       error
}

// part is a task of a stream, with its buffer.
type part struct {
	task
	s         *Stream
	mem       *budget.Buf
	tellsSize bool          // its answer is the first to tell the object's size
	retry     chan struct{} // capacity 1; receives when another attempt follows
	done      chan struct{} // capacity 1; receives once when the task has ended
	over      bool          // done was received
}

func (p *part) started() { p.buf = p.mem.Bytes() } // memory is taken up when the request gets a slot

func (p *part) answered() {
	if p.tellsSize {
		signal(p.s.answered)
	}
}

func (p *part) retried() { signal(p.retry) }

func (p *part) late() { p.s.line.behind() }

func (p *part) ended() {
	line := &p.s.line // the part may be in use again once done has been received
	p.done <- struct{}{}
	line.finished()
}

// signal sends a token to a channel of capacity 1, unless it holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// firstPart bounds the first part of an object whose size is not known: it may
// be small, and all memory that a buffer gets has to be cleared first.
const firstPart = 1 << 20

// retryParts is for how many parts a stream uses its whole window after its
// head had to wait for a retry: what is ready bridges such a time, and trouble
// seldom comes alone. (A hedge is no such sign: it may be a busy processor.)
const retryParts = 64

// maxPlainBreaks bounds how often a whole-object answer that broke is asked
// for again: each time all of it comes from the start.
const maxPlainBreaks = 3

// Stream starts reading n bytes at off; n < 0 reads to the end of the object.
// It returns at once; the first error comes from Read, WriteTo or Next. The
// stream ends with ctx. Close it.
func (o *Object) Stream(ctx context.Context, off, n int64, so StreamOptions) *Stream {
	if so.PartBytes <= 0 {
		so.PartBytes = o.e.opts.PartBytes
	}
	if so.WindowBytes <= 0 {
		so.WindowBytes = max(o.e.opts.Budget.Limit()/2, so.PartBytes)
	}
	s := &Stream{o: o, opts: so, at: off, acct: o.e.opts.Budget.Account()}
	s.span.off, s.span.n = off, n
	s.plan = plan{next: off, end: -1, part: so.PartBytes}
	s.setEnd()
	s.win = newStreamWindow(so.PartBytes, so.WindowBytes)
	s.answered = make(chan struct{}, 1)
	s.line.told = make(chan struct{}, 1)
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

// setEnd fixes the end of the plan as soon as the object's size is known.
func (s *Stream) setEnd() {
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

// fill asks for parts until the window is full. Reservations are made in
// offset order and never wait here: the head's is granted when nothing else of
// this stream is held, and without room for more the window shrinks.
func (s *Stream) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, _ := s.o.known()
	alone := size < 0 || s.o.noRanges.Load() // one request until its answer tells more
	var slots int
	slots, s.plan.part = s.o.g.policy(s.opts.PartBytes)
	if size < 0 {
		s.plan.part = min(s.plan.part, firstPart)
	}
	limit := s.win.size
	if s.stretch == 0 {
		// What the host's limit lets run, a quarter for parts that end out of
		// order, and two to keep the slots busy. More would only wait, and finished
		// ones would pile up: fresh pages to clear, and cold ones to write to.
		spare := slots / 4
		if s.line.wanted.Load() > 0 && s.line.late.Load() {
			// The consumer waits for a head that does not come, and once as many
			// parts as run at once have overtaken it, their slots are idle. (Fewer
			// overtake it whenever the processors are busy.)
			over := int(s.line.over.Load())
			if over >= slots {
				spare = min(over, 2*slots)
			}
			s.line.want(int64(max(over+1, slots)))
		}
		limit = min(limit, int64(slots+spare+2)*s.plan.part)
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
		s.submit(off, buf)
		ahead += n
	}
}

// submit queues a part. The caller holds s.mu.
func (s *Stream) submit(off int64, buf *budget.Buf) {
	var p *part
	if n := len(s.spare); n > 0 {
		p, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		p = &part{s: s, done: make(chan struct{}, 1), retry: make(chan struct{}, 1)}
		p.owner = p
	}
	select {
	case <-p.retry: // of its last use
	default:
	}
	p.mem, p.over = buf, false
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
// last one. The whole object's checksum, if known, is compared before its last
// part is returned.
func (s *Stream) Next(ctx context.Context) (Part, error) {
	if s.err != nil {
		return Part{}, s.err
	}
	p, err := s.next(ctx)
	if err != nil && ctx.Err() == nil {
		s.err = err
	}
	return p, err
}

func (s *Stream) next(ctx context.Context) (Part, error) {
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
			return Part{}, s.end()
		}
		if err := s.await(ctx, head); err != nil {
			return Part{}, err
		}
		s.setEnd()
		if head.body.rc != nil {
			if err := s.goPlain(head); err != nil {
				return Part{}, err
			}
			continue
		}
		if errors.Is(head.err, ErrNoRanges) && !head.wantsBody {
			s.reaskHead(head)
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

// head returns the first part that is not yet delivered; nil at the end. It
// waits for memory when the consumer still holds earlier parts.
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
			s.plan.next = off
			return nil, &Error{Op: "stream", Object: s.o.spec.Name, Off: off, Len: n, Err: err}
		case s.closed:
			buf.Release()
			return nil, s.closedErr()
		}
		s.submit(off, buf)
	}
	if len(s.parts) == 0 {
		return nil, nil
	}
	return s.parts[0], nil
}

func (s *Stream) closedErr() error {
	cause := context.Cause(s.life)
	if cause == nil {
		cause = ErrClosed
	}
	return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: cause}
}

// await waits for the head of line, whose consumer we are.
func (s *Stream) await(ctx context.Context, head *part) error {
	if head.over {
		return nil
	}
	select {
	case <-head.done:
		head.over = true
		return nil
	default:
	}
	s.win.consumerWaited()
	if s.o.g.promote(&head.task) {
		s.stretch = retryParts
	}
	s.line.wanted.Store(math.MaxInt64)
	defer s.line.wanted.Store(0)
	s.fill()
	for {
		select {
		case <-head.done:
			head.over = true
			return nil
		case <-s.answered:
			// The size is known before the first part's bytes have come: the
			// other parts need not wait for them.
			s.setEnd()
			s.fill()
		case <-head.retry:
			s.stretch = retryParts
			s.fill()
		case <-s.line.told:
			s.win.consumerWaited()
			s.fill()
		case <-ctx.Done():
			return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: context.Cause(ctx)}
		}
	}
}

// pop takes the head out of the line and returns its buffer.
func (s *Stream) pop() *budget.Buf {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[0]
	copy(s.parts, s.parts[1:])
	s.parts[len(s.parts)-1] = nil
	s.parts = s.parts[:len(s.parts)-1]
	buf := p.mem
	p.mem, p.buf, p.o = nil, nil, nil
	s.line.over.Add(-1)
	s.line.late.Store(false)
	s.spare = append(s.spare, p)
	return buf
}

// deliver hands the finished head out.
func (s *Stream) deliver(head *part) (Part, error) {
	off, got, asked, crc, alg := head.off, head.got, int(head.n), head.crc, head.sum
	buf := s.pop()
	buf.Truncate(got)
	s.stretch = max(s.stretch-1, 0)
	if want := s.algorithm(); want != alg {
		// The first answer told an algorithm that we did not expect.
		crc = want.update(0, buf.Bytes())
	}
	if got < asked {
		if size, _ := s.o.known(); off+int64(got) < size {
			buf.Release()
			return Part{}, &Error{Op: "stream", Object: s.o.spec.Name, Off: off, Len: int64(asked), Err: io.ErrUnexpectedEOF}
		}
		s.plan.next, s.plan.end = off+int64(got), off+int64(got)
	}
	if got == 0 {
		buf.Release()
		return Part{}, s.end()
	}
	if err := s.count(int64(got), crc); err != nil {
		buf.Release()
		return Part{}, err
	}
	return Part{Off: off, Buf: buf}, nil
}

// count adds n delivered bytes to the checksum, and compares it when they are
// the last of a whole object.
func (s *Stream) count(n int64, crc uint64) error {
	s.at += n
	if s.opts.NoVerify {
		return nil
	}
	s.sum.Algorithm = s.algorithm()
	s.sum.Value = s.sum.Algorithm.combine(s.sum.Value, crc, n)
	return s.verify()
}

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

// end returns what follows the last part.
func (s *Stream) end() error {
	size, _ := s.o.known()
	if s.plan.end >= 0 && s.at < s.plan.end && s.at < size {
		return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Err: io.ErrUnexpectedEOF}
	}
	return io.EOF
}

// Sum returns the checksum of the bytes delivered so far; false with NoVerify.
func (s *Stream) Sum() (Checksum, bool) {
	return Checksum{Algorithm: s.algorithm(), Value: s.sum.Value}, !s.opts.NoVerify
}

// Read copies the next bytes into p (io.Reader).
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.curRest) == 0 {
		s.dropCur()
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

func (s *Stream) dropCur() {
	if s.cur.Buf != nil {
		s.cur.Buf.Release()
		s.cur, s.curRest = Part{}, nil
	}
}

// WriteTo writes what is left of the stream to w (io.WriterTo).
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
	s.dropCur()
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

// cancelParts ends all parts; run when the stream's life ends.
func (s *Stream) cancelParts() {
	cause := context.Cause(s.life)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.parts {
		s.o.g.cancel(&p.task, cause)
	}
}

// Close ends the stream and returns when none of its requests runs any more.
// It may be called more than once, but not while another goroutine is in Read,
// WriteTo or Next, unless that one's context or the stream's ended.
func (s *Stream) Close() error {
	s.stop(ErrClosed)
	s.cancelParts()
	s.plain.close()
	s.dropCur()
	s.mu.Lock()
	parts := s.parts
	s.parts = nil
	s.mu.Unlock()
	for _, p := range parts {
		if !p.over {
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

// drop cancels all parts from the head on and takes them out of the line.
func (s *Stream) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if !p.over {
			s.o.g.cancel(&p.task, context.Canceled)
		}
	}
	for i, p := range s.parts {
		if !p.over {
			<-p.done
		}
		p.body.close()
		p.mem.Release()
		p.mem, p.buf, p.o = nil, nil, nil
		s.line.over.Add(-1)
		s.spare = append(s.spare, p)
		s.parts[i] = nil
	}
	s.parts = s.parts[:0]
}
