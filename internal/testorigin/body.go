package testorigin

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// answer sends status and the bytes [off, off+n) of c with the request's faults
// in bodies. It sets Content-Length, and the caller sets all other headers. A
// HEAD request gets the headers only.
func (rq *request) answer(status int, c *content, off, n int64) {
	h := rq.w.Header()
	promised := n
	if f := rq.fx.find(ActWrongLength); f != nil && n > 0 {
		n -= f.size(n)
		promised = n
	}
	h.Set("Content-Length", strconv.FormatInt(promised, 10))
	rq.header(status)
	if rq.r.Method == http.MethodHead || n == 0 {
		return
	}
	rq.sendBody(c, off, n)
}

// sendBody sends [off, off+n) of c, stopping at each position where a fault acts.
func (rq *request) sendBody(c *content, off, n int64) {
	type event struct {
		at int64
		f  *firing
	}
	var events []event
	rate := int64(0)
	for i := range rq.fx {
		f := &rq.fx[i]
		switch {
		case f.Action == ActSlow:
			rate = f.Rate
		case f.inBody():
			events = append(events, event{f.position(n), f})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var pos int64
	for _, e := range events {
		if e.at > pos {
			if !rq.sendSpan(c, off+pos, e.at-pos, rate) {
				return
			}
			pos = e.at
		}
		switch e.f.Action {
		case ActStall:
			_ = http.NewResponseController(rq.w).Flush()
			rq.pause(e.f.pause())
		case ActTruncate:
			return // net/http then flushes and closes the connection, because bytes are missing
		case ActReset:
			_ = http.NewResponseController(rq.w).Flush()
			reset(rq.w, rq.r)
			return
		case ActFlip:
			m := min(e.f.size(n), n-pos)
			if !rq.sendFlipped(c, off+pos, m) {
				return
			}
			pos += m
		}
	}
	if pos < n {
		rq.sendSpan(c, off+pos, n-pos, rate)
	}
}

// slowSteps is the number of slices a second of a slow body.
const slowSteps = 50

// sendSpan copies a span to the client and counts it. It reports whether the
// client took all of it.
func (rq *request) sendSpan(c *content, off, n, rate int64) bool {
	if rate <= 0 {
		return rq.send(c, off, n)
	}
	step := max(1, rate/slowSteps)
	for n > 0 {
		m := min(step, n)
		if !rq.send(c, off, m) || http.NewResponseController(rq.w).Flush() != nil {
			return false
		}
		off, n = off+m, n-m
		rq.pause(time.Duration(float64(m) / float64(rate) * float64(time.Second)))
	}
	return true
}

func (rq *request) send(c *content, off, n int64) bool {
	object := !rq.document && rq.status < 300
	if object {
		rq.o.count.sending(rq.op, rq.ckey, off, n)
	} else if rq.status < 300 {
		rq.o.count.document(rq.op, rq.ckey, n)
	}
	m, err := c.copyTo(rq.w, off, n)
	if object {
		rq.o.count.taken(rq.op, rq.ckey, off, n, m)
	}
	rq.sent += m
	if err != nil {
		rq.o.opts.Log.Debug("body ended early", "op", rq.op, "key", rq.ckey, "sent", rq.sent, "err", err)
	}
	return err == nil
}

func (rq *request) sendFlipped(c *content, off, n int64) bool {
	bad := c.scrambled()
	defer bad.release()
	return rq.send(bad, off, n)
}

// uploadPosition resolves the position of a fault in an upload of n bytes, or
// -1 if the client did not send the length.
func (f *firing) uploadPosition(n int64) int64 {
	if n < 0 {
		return max(0, f.At)
	}
	return f.position(n)
}

// bodyReader is the body of a request. It counts bytes and injects the faults
// inside an upload.
type bodyReader struct {
	rq     *request
	src    io.Reader
	n      int64 // bytes read so far
	faults []*firing
}

func (b *bodyReader) Read(p []byte) (int, error) {
	limit := int64(len(p))
	for i := 0; i < len(b.faults); i++ {
		f := b.faults[i]
		if f.Action == ActSlow {
			limit = min(limit, max(1, f.Rate/slowSteps))
			continue
		}
		at := f.uploadPosition(b.rq.r.ContentLength)
		if at > b.n {
			limit = min(limit, at-b.n)
			continue
		}
		if f.Action != ActFlip {
			b.faults = slices.Delete(b.faults, i, i+1)
			i--
		}
		switch f.Action {
		case ActStall:
			b.rq.pause(f.pause())
		case ActTruncate:
			panic(http.ErrAbortHandler)
		case ActReset:
			reset(b.rq.w, b.rq.r)
			panic(http.ErrAbortHandler)
		}
	}
	n, err := b.src.Read(p[:limit])
	for i := 0; i < len(b.faults); i++ {
		switch f := b.faults[i]; f.Action {
		case ActFlip:
			at := f.uploadPosition(b.rq.r.ContentLength)
			if at <= b.n && n > 0 {
				p[0] ^= 0xff
				b.faults = slices.Delete(b.faults, i, i+1)
				i--
			}
		case ActSlow:
			b.rq.pause(time.Duration(float64(n) / float64(f.Rate) * float64(time.Second)))
		}
	}
	b.n += int64(n)
	b.rq.o.count.received(b.rq.op, b.rq.ckey, int64(n))
	return n, err
}
