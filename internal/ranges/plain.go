package ranges

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// This file is for servers that ignore ranges and send the whole object.

// refetchHead requests the head again, this time accepting a whole-object answer.
// The head was submitted behind other parts, when the server still sent ranges.
func (s *Stream) refetchHead(head *part) {
	off := head.off
	s.dropParts()
	s.plan.off = off
}

// switchToPlain continues the stream with a whole-object answer, if it has to
// discard no more of it than remains to be read.
func (s *Stream) switchToPlain(head *part) error {
	body := head.body
	head.body = plainBody{}
	s.dropParts()
	if s.at > max(body.info.Size-s.at, skipMax) && s.broken == 0 {
		body.close()
		return &Error{
			Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1,
			Err: fmt.Errorf("%w: it answered with all %d bytes", ErrNoRanges, body.info.Size),
		}
	}
	s.plain, s.plainProgress = body, plainProgress{}
	s.plan.off = s.at
	if s.at == 0 {
		return nil
	}
	if _, err := io.CopyN(io.Discard, watchedBody{s, body.rc}, s.at); err != nil {
		return s.plainBodyBroke(err)
	}
	return nil
}

// nextPlain returns the next part of the whole-object answer.
func (s *Stream) nextPlain(ctx context.Context) (Part, error) {
	n := s.opts.PartBytes
	if s.plan.end >= 0 {
		n = min(n, s.plan.end-s.at)
	}
	if n <= 0 {
		s.plain.close()
		return Part{}, s.endError()
	}
	buf, err := s.acct.Get(ctx, int(n))
	if err != nil {
		return Part{}, &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: n, Err: err}
	}
	unhook := context.AfterFunc(s.life, func() { s.plain.cancel(context.Cause(s.life)) })
	got, err := io.ReadFull(watchedBody{s, s.plain.rc}, buf.Bytes())
	unhook()
	if err != nil {
		buf.Release()
		if cause := context.Cause(s.life); cause != nil {
			return Part{}, s.closedErr()
		}
		if err := s.plainBodyBroke(err); err != nil {
			return Part{}, err
		}
		return s.nextPart(ctx)
	}
	s.o.e.stats.received.Add(int64(got))
	off := s.at
	if err := s.addDelivered(int64(got), s.algorithm().update(0, buf.Bytes())); err != nil {
		buf.Release()
		return Part{}, err
	}
	return Part{Off: off, Buf: buf}, nil
}

// plainBodyBroke makes the stream request ranges again, from the offset where the
// body broke. The server may send the whole object again.
func (s *Stream) plainBodyBroke(err error) error {
	s.plain.close()
	if s.broken++; s.broken > maxPlainBreaks {
		return &Error{Op: "stream", Object: s.o.spec.Name, Off: s.at, Len: -1, Attempts: s.broken, Err: fmt.Errorf("%w: %w", errShort, err)}
	}
	s.o.e.stats.retries.Add(1)
	s.plan.off = s.at
	return nil
}

// watchedBody reads a plain body, and ends it if its progress is too slow for the
// engine's RetryPolicy. The time between reads, which the consumer takes, doesn't
// count.
type watchedBody struct {
	s  *Stream
	rc io.Reader
}

func (w watchedBody) Read(p []byte) (int, error) {
	policy, progress := w.s.o.e.opts.Retry, &w.s.plainProgress
	if policy.Stall > 0 {
		cancel := w.s.plain.cancel
		t := time.AfterFunc(policy.Stall, func() { cancel(ErrStalled) })
		defer t.Stop()
	}
	start := w.s.o.e.now()
	n, err := w.rc.Read(p[:min(len(p), chunk)])
	progress.spent += w.s.o.e.now() - start
	progress.got += int64(n)
	w.s.o.arrived.Add(int64(n))
	if err == nil {
		err = policy.CheckProgress(&progress.progress, progress.spent, progress.spent, progress.got)
	}
	return n, err
}

// plainProgress is the progress of a plain body in the time spent reading it.
type plainProgress struct {
	progress Progress
	spent    time.Duration
	got      int64
}

// sizedBody is a body without a length, of an object whose size is known. It yields
// exactly that many bytes or an error. It returns the last bytes only after it
// has seen the end.
type sizedBody struct {
	io.ReadCloser
	left int64 // bytes of the object still to come
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
