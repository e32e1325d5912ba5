package doh

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

const (
	// maxBody is the longest request body that is taken: one byte more than the
	// longest that CoreDNS accepts, so that it can refuse it.
	maxBody = 1<<16 + 1

	// bodyWindow is how many bytes of bodies a client may send before it has to
	// wait for this side to have read them.
	bodyWindow = 1 << 18

	// maxBodies bounds the bytes of all unfinished request bodies of a
	// connection. No client of DNS comes near.
	maxBodies = 1 << 20

	// creditAt is how many bytes of bodies are taken before the client may send
	// as many more.
	creditAt = 1 << 15

	// maxHeaderList bounds the header fields of a request, as RFC 9113 counts
	// them; maxHeaderBlock their encoded form. A GET of the longest query fits.
	maxHeaderList  = 1 << 17
	maxHeaderBlock = 1 << 17

	// maxStalled bounds the bytes of replies that wait for the client to open a
	// window.
	maxStalled = 1 << 20

	// defaultStreams is the number of requests of a connection at a time if the
	// server sets none.
	defaultStreams = 250
)

// Handler serves the requests of a session.
type Handler interface {
	// Answer appends the reply to query, a DNS message, to buf. It must not
	// wait. If ok is false, the request goes to ServeHTTP. maxAge is for how
	// many seconds HTTP caches may keep the reply. hint belongs to the
	// connection; ipv4 tells the family of its client.
	Answer(hint *uint32, query, buf []byte, ipv4 bool) (reply []byte, maxAge uint32, ok bool)
	// ServeHTTP serves a request whose body is in memory.
	http.Handler
}

// Options of a session.
type Options struct {
	// Handler returns the handler of the next request: the server may be
	// replaced while a connection is open.
	Handler func() Handler
	// Send sends bytes to the client and does not wait for it. It is called
	// from goroutines of ServeHTTP.
	Send func([]byte) error
	// Hold and Done surround each request that ServeHTTP serves; Busy reports
	// that no more should be started now.
	Hold, Done func()
	Busy       func() bool
	// Full is the length of the output from which on Feed returns, to have it
	// sent.
	Full int

	MaxStreams    int // requests at a time; 0 means 250
	Local, Remote net.Addr
	IPv4          bool // of Remote
	TLS           *tls.ConnectionState
}

// Session is one connection. Feed must be called by one goroutine at a time.
type Session struct {
	mu sync.Mutex // guards m; held while frames are served, which does not block
	m  machine
}

// machine is the state of a connection. It knows neither locks nor sockets.
//
// Invariants between frames:
//
//	streams has the streams that wait for a body, for ServeHTTP, or for a window
//	bodies is the sum of len(body) over streams
//	stalled is the sum of len(pending) over streams, and <= maxStalled
type machine struct {
	opts     Options
	finished func(*stream, *responseWriter) // called when ServeHTTP has returned
	hint     uint32                         // see Handler.Answer

	greeted bool // the preface has come
	ended   bool
	decoder *hpack.Decoder
	head    head               // of the latest HEADERS
	block   []byte             // header block of a request whose CONTINUATION is to come
	blockOf frame              // its HEADERS without the payload; stream 0 if there is none
	buf     [maxQuery + 3]byte // query of a GET

	last     uint32 // highest stream of the client
	streams  map[uint32]*stream
	window   int64 // how much may be sent on the connection
	initial  int64 // how much may be sent on a new stream
	stalled  int
	bodies   int
	received int // bytes of bodies since the client was last given credit
	date     [len(http.TimeFormat)]byte
	dateAt   int64 // the second of date, in Unix time
}

// stream is a request that could not be answered within the frame that
// completed it.
type stream struct {
	id      uint32
	window  int64 // how much may be sent
	head    head
	body    []byte
	served  bool               // ServeHTTP has the request
	cancel  context.CancelFunc // of the request in ServeHTTP
	pending []byte             // the rest of a reply, which waits for a window
}

// replies are buffers for replies before they are framed.
var replies = sync.Pool{New: func() any { b := make([]byte, 0, math.MaxUint16); return &b }}

// NewSession returns a session, and the bytes to send first.
func NewSession(opts Options) (s *Session, greeting []byte) {
	if opts.MaxStreams <= 0 {
		opts.MaxStreams = defaultStreams
	}
	s = &Session{m: machine{opts: opts, streams: map[uint32]*stream{}, window: initialWindow, initial: initialWindow}}
	m := &s.m
	m.finished = s.finish
	m.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) { m.head.take(f) })
	m.decoder.SetMaxStringLength(maxHeaderBlock)
	greeting = appendFrameHeader(nil, frameSettings, 0, 0, 3*6)
	greeting = appendSetting(greeting, settingMaxStreams, uint32(opts.MaxStreams))
	greeting = appendSetting(greeting, settingInitialWindow, maxBody)
	greeting = appendSetting(greeting, settingMaxHeaderListSize, maxHeaderList)
	return s, appendWindowUpdate(greeting, 0, bodyWindow-initialWindow)
}

// Feed serves the frames that are whole in in, which begins where the latest
// call ended, and appends the bytes to send to out. It returns how much of in
// it took. more says that it stopped because out is full or too many requests
// are in ServeHTTP, not for want of input. After an error the connection must
// be closed once out is sent.
func (s *Session) Feed(in, out []byte) (used int, _ []byte, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.feed(in, out)
}

// feed is Session.Feed.
func (m *machine) feed(in, out []byte) (used int, _ []byte, more bool, err error) {
	if !m.greeted {
		n := min(len(in), len(preface))
		if string(in[:n]) != preface[:n] {
			return 0, out, false, connError{codeProtocol, "the client does not begin with the preface of HTTP/2"}
		}
		if n < len(preface) {
			return 0, out, false, nil
		}
		m.greeted, used = true, n
	}
	for !m.ended {
		if len(out) >= m.opts.Full || m.opts.Busy() {
			return used, out, true, nil
		}
		f, n, err := parseFrame(in[used:])
		if err == nil && n > 0 {
			used += n
			out, err = m.frame(&f, out)
		}
		if err != nil {
			return used, m.fail(err, out), false, err
		}
		if n == 0 {
			break
		}
	}
	return used, out, false, nil
}

// fail appends the announcement that the connection ends because of err.
func (m *machine) fail(err error, out []byte) []byte {
	c := codeInternal
	if e, ok := err.(connError); ok { //nolint:errorlint // frame returns it bare
		c = e.code
	}
	m.ended = true
	return appendGoAway(out, m.last, c)
}

// GoAway appends the announcement that no further requests are served.
// Requests that are in ServeHTTP still get their replies.
func (s *Session) GoAway(out []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m.ended {
		return out
	}
	s.m.ended = true
	return appendGoAway(out, s.m.last, codeNone)
}

// Close cancels the requests that are in ServeHTTP: the connection is closed.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m.ended = true
	for id, st := range s.m.streams {
		s.m.forget(id, st)
	}
}

// forget removes a stream and cancels its request.
func (m *machine) forget(id uint32, st *stream) {
	if st.cancel != nil {
		st.cancel()
	}
	m.stalled -= len(st.pending)
	m.bodies -= len(st.body)
	delete(m.streams, id)
}

// frame serves one frame.
func (m *machine) frame(f *frame, out []byte) ([]byte, error) {
	if m.blockOf.stream != 0 && (f.kind != frameContinuation || f.stream != m.blockOf.stream) {
		return out, connError{codeProtocol, "a header block is interrupted"}
	}
	switch f.kind {
	case frameData:
		return m.data(f, out)
	case frameHeaders:
		return m.headers(f, out)
	case frameContinuation:
		return m.continuation(f, out)
	case frameSettings:
		return m.settings(f, out)
	case frameWindowUpdate:
		return m.windowUpdate(f, out)
	case framePing:
		switch {
		case f.stream != 0:
			return out, connError{codeProtocol, "PING on a stream"}
		case len(f.payload) != 8:
			return out, connError{codeFrameSize, "PING of another length than 8"}
		case !f.has(flagAck):
			out = append(appendFrameHeader(out, framePing, flagAck, 0, 8), f.payload...)
		}
	case frameResetStream:
		switch {
		case f.stream == 0 || f.stream > m.last:
			return out, connError{codeProtocol, "RST_STREAM for a stream that is not open"}
		case len(f.payload) != 4:
			return out, connError{codeFrameSize, "RST_STREAM of another length than 4"}
		}
		if st := m.streams[f.stream]; st != nil {
			m.forget(f.stream, st)
		}
	case framePriority:
		switch {
		case f.stream == 0:
			return out, connError{codeProtocol, "PRIORITY without a stream"}
		case len(f.payload) != 5:
			return out, connError{codeFrameSize, "PRIORITY of another length than 5"}
		}
	case framePushPromise:
		return out, connError{codeProtocol, "PUSH_PROMISE of a client"}
	}
	return out, nil // GOAWAY, and unknown types
}

// headers takes a HEADERS frame.
func (m *machine) headers(f *frame, out []byte) ([]byte, error) {
	if f.stream%2 == 0 {
		return out, connError{codeProtocol, "HEADERS on a stream that is not a client's"}
	}
	block, err := f.unpad()
	if err != nil {
		return out, err
	}
	if !f.has(flagEndHeaders) {
		m.blockOf = frame{kind: f.kind, flags: f.flags, stream: f.stream}
		m.block = append(m.block[:0], block...)
		return out, nil
	}
	return m.request(f, block, out)
}

// continuation takes a CONTINUATION frame.
func (m *machine) continuation(f *frame, out []byte) ([]byte, error) {
	if m.blockOf.stream == 0 {
		return out, connError{codeProtocol, "CONTINUATION without HEADERS"}
	}
	if len(m.block)+len(f.payload) > maxHeaderBlock || len(f.payload) == 0 && !f.has(flagEndHeaders) {
		return out, connError{codeEnhanceCalm, "a header block is too long"}
	}
	m.block = append(m.block, f.payload...)
	if !f.has(flagEndHeaders) {
		return out, nil
	}
	begin, block := m.blockOf, m.block
	m.blockOf, m.block = frame{}, nil
	return m.request(&begin, block, out)
}

// request takes a whole header block.
func (m *machine) request(f *frame, block, out []byte) ([]byte, error) {
	m.head.reset()
	if _, err := m.decoder.Write(block); err != nil {
		return out, connError{codeCompression, err.Error()}
	}
	if err := m.decoder.Close(); err != nil {
		return out, connError{codeCompression, err.Error()}
	}
	if st := m.streams[f.stream]; st != nil {
		return m.trailers(f, st, out)
	}
	if f.stream <= m.last {
		return out, connError{codeStreamClosed, "HEADERS on a closed stream"}
	}
	m.last = f.stream
	switch {
	case m.head.size > maxHeaderList:
		return m.respond(out, f.stream, m.initial, http.StatusRequestHeaderFieldsTooLarge, nil, nil)
	case !m.head.wellFormed():
		return appendReset(out, f.stream, codeProtocol), nil
	case len(m.streams) >= m.opts.MaxStreams:
		return appendReset(out, f.stream, codeRefused), nil
	case f.has(flagEndStream):
		return m.complete(f.stream, nil, &m.head, nil, out)
	}
	st := &stream{id: f.stream, window: m.initial, head: m.head}
	m.head.fields = nil // the stream has them
	m.streams[f.stream] = st
	return out, nil
}

// trailers ends the body of st; its fields are ignored.
func (m *machine) trailers(f *frame, st *stream, out []byte) ([]byte, error) {
	switch {
	case st.served:
		return out, connError{codeStreamClosed, "HEADERS behind the end of a request"}
	case !f.has(flagEndStream):
		m.forget(f.stream, st)
		return appendReset(out, f.stream, codeProtocol), nil
	}
	return m.complete(f.stream, st, &st.head, st.body, out)
}

// data takes a DATA frame.
func (m *machine) data(f *frame, out []byte) ([]byte, error) {
	if f.stream == 0 || f.stream > m.last {
		return out, connError{codeProtocol, "DATA on a stream that is not open"}
	}
	body, err := f.unpad()
	if err != nil {
		return out, err
	}
	if m.received += len(f.payload); m.received > bodyWindow {
		return out, connError{codeFlowControl, "more bytes of bodies than the window has"}
	}
	if m.received >= creditAt {
		out = appendWindowUpdate(out, 0, m.received)
		m.received = 0
	}
	st := m.streams[f.stream]
	switch {
	case st == nil:
		return appendReset(out, f.stream, codeStreamClosed), nil
	case st.served:
		return out, nil // the end of a body that is longer than any query
	case len(st.body)+len(body) > maxBody:
		m.forget(f.stream, st)
		return appendReset(out, f.stream, codeFlowControl), nil
	case f.has(flagEndStream) && len(st.body) == 0:
		return m.complete(f.stream, st, &st.head, body, out)
	}
	st.body = append(st.body, body...)
	m.bodies += len(body)
	switch {
	case f.has(flagEndStream), len(st.body) == maxBody: // a server would read no further
		return m.complete(f.stream, st, &st.head, st.body, out)
	case m.bodies > maxBodies:
		m.forget(f.stream, st)
		return appendReset(out, f.stream, codeEnhanceCalm), nil
	}
	return out, nil
}

// complete serves a request whose body has come. st is nil if it had none.
func (m *machine) complete(id uint32, st *stream, h *head, body, out []byte) ([]byte, error) {
	window := m.initial
	if st != nil {
		window = st.window
	}
	if h.length >= 0 && h.length != int64(len(body)) && len(body) < maxBody {
		if st != nil {
			m.forget(id, st)
		}
		return appendReset(out, id, codeProtocol), nil
	}
	handler := m.opts.Handler()
	if query, ok := h.query(body, m.buf[:]); ok {
		reply, _ := replies.Get().(*[]byte)
		defer replies.Put(reply)
		if text, maxAge, ok := handler.Answer(&m.hint, query, (*reply)[:0], m.opts.IPv4); ok {
			if st != nil {
				m.forget(id, st)
				if st.head.fields != nil && m.head.fields == nil {
					m.head.fields = st.head.fields[:0]
				}
			}
			return m.respond(out, id, window, http.StatusOK, text, func(out []byte) []byte {
				out = appendIndexed(out, indexContentType, mediaType)
				return appendNumber(out, indexCacheControl, "max-age=", int(maxAge))
			})
		}
	}
	if st == nil {
		st = &stream{id: id, window: window, head: *h}
		h.fields = nil
		m.streams[id] = st
	}
	m.bodies -= len(st.body)
	st.body = nil
	m.serveHTTP(st, handler, bytes.Clone(body))
	return out, nil
}

// respond appends a reply to stream id. What the client's windows have no room
// for is sent when it opens them.
func (m *machine) respond(out []byte, id uint32, window int64, status int, body []byte, fields func([]byte) []byte) ([]byte, error) {
	at := len(out)
	out = appendFrameHeader(out, frameHeaders, flagEndHeaders, id, 0)
	out = appendStatus(out, status)
	if fields != nil {
		out = fields(out)
	}
	out = appendNumber(out, indexContentLength, "", len(body))
	out = m.appendDate(out)
	length := len(out) - at - frameHeaderLen
	if length > maxFrameLen {
		return appendReset(out[:at], id, codeInternal), nil
	}
	out[at], out[at+1], out[at+2] = byte(length>>16), byte(length>>8), byte(length)
	if len(body) == 0 {
		out[at+4] |= flagEndStream
		return out, nil
	}
	out, rest := m.appendBody(out, id, &window, body)
	if len(rest) == 0 {
		return out, nil
	}
	if m.stalled += len(rest); m.stalled > maxStalled {
		m.stalled -= len(rest)
		return out, connError{codeEnhanceCalm, "too many replies wait for a window"}
	}
	m.streams[id] = &stream{id: id, window: window, served: true, pending: bytes.Clone(rest)}
	return out, nil
}

// appendBody appends DATA frames as far as the windows reach.
func (m *machine) appendBody(out []byte, id uint32, window *int64, body []byte) (_, rest []byte) {
	for len(body) > 0 {
		n := int(min(int64(len(body)), maxFrameLen, m.window, *window))
		if n <= 0 {
			return out, body
		}
		flags := byte(0)
		if n == len(body) {
			flags = flagEndStream
		}
		out = append(appendFrameHeader(out, frameData, flags, id, n), body[:n]...)
		m.window -= int64(n)
		*window -= int64(n)
		body = body[n:]
	}
	return out, nil
}

// appendDate appends the field date, which is made once a second.
func (m *machine) appendDate(out []byte) []byte {
	now := time.Now()
	if now.Unix() != m.dateAt {
		m.dateAt = now.Unix()
		now.UTC().AppendFormat(m.date[:0], http.TimeFormat)
	}
	out = appendInt(appendInt(out, 0, 4, indexDate), 0, 7, len(m.date))
	return append(out, m.date[:]...)
}

// settings takes a SETTINGS frame.
func (m *machine) settings(f *frame, out []byte) ([]byte, error) {
	switch {
	case f.stream != 0:
		return out, connError{codeProtocol, "SETTINGS on a stream"}
	case f.has(flagAck) && len(f.payload) == 0:
		return out, nil
	case f.has(flagAck) || len(f.payload)%6 != 0:
		return out, connError{codeFrameSize, "SETTINGS of a wrong length"}
	}
	for p := f.payload; len(p) > 0; p = p[6:] {
		value := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingEnablePush:
			if value > 1 {
				return out, connError{codeProtocol, "SETTINGS_ENABLE_PUSH is neither 0 nor 1"}
			}
		case settingMaxFrameSize:
			if value < maxFrameLen || value > 1<<24-1 {
				return out, connError{codeProtocol, "SETTINGS_MAX_FRAME_SIZE is out of range"}
			}
		case settingInitialWindow:
			if value > maxWindow {
				return out, connError{codeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE is out of range"}
			}
			more := int64(value) - m.initial
			m.initial = int64(value)
			for _, st := range m.streams {
				if st.window += more; st.window > maxWindow {
					return out, connError{codeFlowControl, "a window is too large"}
				}
			}
		}
	}
	out = appendFrameHeader(out, frameSettings, flagAck, 0, 0)
	return m.resume(out), nil
}

// windowUpdate takes a WINDOW_UPDATE frame.
func (m *machine) windowUpdate(f *frame, out []byte) ([]byte, error) {
	if len(f.payload) != 4 {
		return out, connError{codeFrameSize, "WINDOW_UPDATE of another length than 4"}
	}
	more := int64(binary.BigEndian.Uint32(f.payload) &^ (1 << 31))
	if f.stream == 0 {
		if more == 0 {
			return out, connError{codeProtocol, "WINDOW_UPDATE of 0"}
		}
		if m.window += more; m.window > maxWindow {
			return out, connError{codeFlowControl, "a window is too large"}
		}
		return m.resume(out), nil
	}
	if f.stream > m.last {
		return out, connError{codeProtocol, "WINDOW_UPDATE for a stream that is not open"}
	}
	st := m.streams[f.stream]
	if st == nil {
		return out, nil
	}
	if st.window += more; more == 0 || st.window > maxWindow {
		m.forget(f.stream, st)
		return appendReset(out, f.stream, codeFlowControl), nil
	}
	return m.resumeStream(st, out), nil
}

// resume sends what waits for a window, as far as the windows reach.
func (m *machine) resume(out []byte) []byte {
	if m.stalled == 0 {
		return out
	}
	for _, st := range m.streams {
		out = m.resumeStream(st, out)
	}
	return out
}

func (m *machine) resumeStream(st *stream, out []byte) []byte {
	if len(st.pending) == 0 {
		return out
	}
	out, rest := m.appendBody(out, st.id, &st.window, st.pending)
	m.stalled -= len(st.pending) - len(rest)
	if st.pending = rest; len(rest) == 0 {
		delete(m.streams, st.id)
	}
	return out
}
