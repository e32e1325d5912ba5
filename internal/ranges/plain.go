package ranges

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// What a stream does when the server ignores ranges and sends everything.

// reaskHead asks for the head again, this time ready to take a whole-object
// answer: it was queued as prefetch, when ranges were still served.
func (s *Stream) reaskHead(head *part) {
	off := head.off
	s.drop()
	s.plan.next = off
}

// goPlain continues the stream on an answer that carries the whole object, if
// no more of it has to be thrown away than is left to read.
func (s *Stream) goPlain(head *part) error {
	body := head.body
	head.body = plainBody{}
	s.drop()
	if s.at > max(body.info.Size-s.at, skipMax) && s.broken == 0 {
		body.close()
		return &Error{
			Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1,
			Err: fmt.Errorf("%w: it answered with all %d bytes", ErrNoRanges, body.info.Size),
		}
	}
	s.plain, s.plainPace = body, plainPace{}
	s.plan.next = s.at
	if s.at == 0 {
		return nil
	}
	if _, err := io.CopyN(io.Discard, watched{s, body.rc}, s.at); err != nil {
		return s.plainBroke(err)
	}
	return nil
}

// nextPlain reads the next part from the whole-object answer.
func (s *Stream) nextPlain(ctx context.Context) (Part, error) {
	n := s.opts.PartBytes
	if s.plan.end >= 0 {
		n = min(n, s.plan.end-s.at)
	}
	if n <= 0 {
		s.plain.close()
		return Part{}, s.end()
	}
	buf, err := s.acct.Get(ctx, int(n))
	if err != nil {
		return Part{}, &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: n, Err: err}
	}
	unhook := context.AfterFunc(s.life, func() { s.plain.cancel(context.Cause(s.life)) })
	got, err := io.ReadFull(watched{s, s.plain.rc}, buf.Bytes())
	unhook()
	if err != nil {
		buf.Release()
		if cause := context.Cause(s.life); cause != nil {
			return Part{}, s.closedErr()
		}
		if err := s.plainBroke(err); err != nil {
			return Part{}, err
		}
		return s.next(ctx)
	}
	s.o.e.stats.received.Add(int64(got))
	off := s.at
	if err := s.count(int64(got), s.algorithm().update(0, buf.Bytes())); err != nil {
		buf.Release()
		return Part{}, err
	}
	return Part{Off: off, Buf: buf}, nil
}

// plainBroke goes back to ranges from where the body broke; the server may
// answer with everything again, and then the start is thrown away.
func (s *Stream) plainBroke(err error) error {
	s.plain.close()
	if s.broken++; s.broken > maxPlainBreaks {
		return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Attempts: s.broken, Err: fmt.Errorf("%w: %w", errShort, err)}
	}
	s.o.e.stats.retries.Add(1)
	s.plan.next = s.at
	return nil
}

// watched reads a plain body and ends it when it makes too little progress by the
// engine's RetryPolicy. Time that the consumer takes between reads does not count.
type watched struct {
	s  *Stream
	rc io.Reader
}

func (w watched) Read(p []byte) (int, error) {
	policy, pace := w.s.o.e.opts.Retry, &w.s.plainPace
	if policy.Stall > 0 {
		cancel := w.s.plain.cancel
		t := time.AfterFunc(policy.Stall, func() { cancel(ErrStalled) })
		defer t.Stop()
	}
	start := w.s.o.e.now()
	n, err := w.rc.Read(p[:min(len(p), chunk)])
	pace.spent += w.s.o.e.now() - start
	pace.got += int64(n)
	w.s.o.arrived.Add(int64(n))
	if err == nil {
		err = policy.Over(&pace.progress, pace.spent, pace.spent, pace.got)
	}
	return n, err
}

// plainPace is how a plain body gets on, in time spent reading it.
type plainPace struct {
	progress Progress
	spent    time.Duration
	got      int64
}

// sizedBody is a body whose server did not tell its length, of an object whose size
// is known: it yields exactly that many bytes or an error. The last ones are given
// out once the end has been seen.
type sizedBody struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *sizedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left > 0 {
		if err == io.EOF { //nolint:errorlint // the body's own end is bare
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	var one [1]byte
	for err == nil {
		var more int
		if more, err = b.ReadCloser.Read(one[:]); more > 0 {
			return 0, errLong
		}
	}
	if err != io.EOF { //nolint:errorlint // the body's own end is bare
		return 0, err
	}
	return n, nil
}

// errLong is the error of a body with more bytes than its object.
var errLong = errors.New("body is longer than the object")
