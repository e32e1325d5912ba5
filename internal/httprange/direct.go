package httprange

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/ranges"
)

// Transport is an http.RoundTripper for bulk GETs. The calling goroutine writes the
// request and reads the answer. (net/http passes both through two goroutines for
// each connection. For a small object that costs as much as its bytes.) Requests
// other than plain GET and HEAD over HTTP/1.1, and requests through a proxy, go to
// net/http. A Transport is safe for concurrent use.
type Transport struct {
	// std serves the other requests, and holds the dialer, the TLS configuration
	// and the proxy. It does not change after the first request.
	std *http.Transport

	mu    sync.Mutex // guards the fields below; a leaf lock, no I/O under it
	hosts map[string]*idleConns
	sweep *time.Timer // closes connections that were idle for idleTimeout
	armed bool        // sweep is running
	tls   *tls.Config
}

// idleConns are the unused connections of one scheme and host.
type idleConns struct {
	direct bool // without a proxy, so that Transport serves the host itself
	stack  []*conn
}

const (
	// maxHead bounds the header of an answer, including interim answers, in bytes.
	// S3's headers have up to 8 KiB.
	maxHead = 1 << 20
	// maxInterim bounds the 1xx answers before the final one, as in net/http.
	maxInterim = 5
)

// NewDirect returns a Transport that uses the dialer, TLS configuration and proxy
// of std, and std itself for requests that it doesn't serve. std must not be
// changed afterwards.
func NewDirect(std *http.Transport) *Transport {
	return &Transport{std: std, hosts: make(map[string]*idleConns)}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	key, ok := t.serves(req)
	if !ok {
		return t.std.RoundTrip(req)
	}
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if c := t.takeUsable(key); c != nil {
		resp, err := c.roundTrip(req)
		if err == nil || c.heard || ctx.Err() != nil {
			return resp, err
		}
		// The server has closed the idle connection without an answer. It may have
		// closed other ones as well, so the request gets a new connection.
	}
	c, err := t.dial(ctx, key, req)
	if err != nil {
		return nil, err
	}
	return c.roundTrip(req)
}

// serves reports whether t serves a request itself, and the key of its
// connections.
func (t *Transport) serves(req *http.Request) (key string, ok bool) {
	u := req.URL
	if req.Method != http.MethodGet && req.Method != http.MethodHead || u == nil || u.Host == "" ||
		req.Body != nil && req.Body != http.NoBody || len(req.Trailer) > 0 || len(req.Header["Upgrade"]) > 0 {
		return "", false
	}
	switch u.Scheme {
	case "http":
		key = u.Host
	case "https":
		key = "https://" + u.Host
	default:
		return "", false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[key]
	if h == nil {
		h = &idleConns{direct: ascii(u.Host)}
		if t.std.Proxy != nil {
			via, err := t.std.Proxy(req)
			h.direct = h.direct && via == nil && err == nil // net/http returns the error
		}
		t.hosts[key] = h
	}
	return key, h.direct
}

// ascii reports whether a host name is ASCII. net/http encodes other names (RFC
// 3490).
func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// takeUsable returns the most recently used connection that is still usable, or nil.
func (t *Transport) takeUsable(key string) *conn {
	for {
		c := t.take(key)
		if c == nil || c.idle.usable() {
			return c
		}
		c.close()
	}
}

// dropIdle closes the idle connections of a host. It is called after a reused
// connection was silent until the engine ended its attempt. The cause (a firewall,
// a restarted load balancer) has probably cut off the others as well.
func (t *Transport) dropIdle(key string) {
	t.mu.Lock()
	var old []*conn
	if h := t.hosts[key]; h != nil {
		old, h.stack = h.stack, nil
	}
	t.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// take returns the most recently used connection, for which the server's
// congestion window is the largest, or nil.
func (t *Transport) take(key string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[key]
	n := len(h.stack)
	if n == 0 {
		return nil
	}
	c := h.stack[n-1]
	h.stack[n-1], h.stack = nil, h.stack[:n-1]
	return c
}

// put keeps a connection for a later request.
func (t *Transport) put(c *conn) {
	t.mu.Lock()
	h := t.hosts[c.key]
	if h == nil || len(h.stack) >= idlePerHost || t.std.DisableKeepAlives {
		t.mu.Unlock()
		c.close()
		return
	}
	c.since = time.Now()
	h.stack = append(h.stack, c)
	if !t.armed {
		t.armed = true
		if t.sweep == nil {
			t.sweep = time.AfterFunc(idleTimeout, t.expire)
		} else {
			t.sweep.Reset(idleTimeout)
		}
	}
	t.mu.Unlock()
}

// expire closes connections that were idle for idleTimeout. The timer calls it.
func (t *Transport) expire() {
	t.mu.Lock()
	now := time.Now()
	var old []*conn
	oldest := now
	for _, h := range t.hosts {
		n := 0 // the stack is ordered by time
		for n < len(h.stack) && now.Sub(h.stack[n].since) >= idleTimeout {
			n++
		}
		old = append(old, h.stack[:n]...)
		left := copy(h.stack, h.stack[n:])
		clear(h.stack[left:])
		if h.stack = h.stack[:left]; left > 0 && h.stack[0].since.Before(oldest) {
			oldest = h.stack[0].since
		}
	}
	if t.armed = oldest.Before(now); t.armed {
		t.sweep.Reset(idleTimeout - now.Sub(oldest))
	}
	t.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	t.std.CloseIdleConnections()
	t.mu.Lock()
	var old []*conn
	for _, h := range t.hosts {
		old = append(old, h.stack...)
		h.stack = nil
	}
	if t.sweep != nil {
		t.sweep.Stop()
	}
	t.armed = false
	t.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// dial makes a connection for req, with TLS if its scheme asks for it.
func (t *Transport) dial(ctx context.Context, key string, req *http.Request) (*conn, error) {
	name, port := req.URL.Hostname(), req.URL.Port()
	secure := req.URL.Scheme == "https"
	switch {
	case port != "":
	case secure:
		port = "443"
	default:
		port = "80"
	}
	dial := t.std.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	nc, err := dial(ctx, "tcp", net.JoinHostPort(name, port))
	if err != nil {
		return nil, err
	}
	if secure {
		if nc, err = t.handshake(ctx, nc, name); err != nil {
			return nil, err
		}
	}
	c := &conn{t: t, key: key, nc: nc, from: nc, idle: newIdleCheck(nc)}
	if c.recv = newReceiver(nc); c.recv != nil {
		c.from = c.recv
	}
	c.in = bufio.NewReaderSize(c, socketBuffer)
	c.out = bufio.NewWriterSize(nc, socketBuffer)
	c.abort = c.close
	return c, nil
}

// handshake does the TLS handshake on nc, and closes nc after an error.
func (t *Transport) handshake(ctx context.Context, nc net.Conn, name string) (net.Conn, error) {
	t.mu.Lock()
	if t.tls == nil {
		if t.tls = t.std.TLSClientConfig.Clone(); t.tls == nil {
			t.tls = &tls.Config{}
		}
		t.tls.NextProtos = nil // without ALPN the server speaks HTTP/1.1
		if t.tls.ClientSessionCache == nil {
			t.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
	}
	cfg := t.tls
	t.mu.Unlock()
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = name
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tlsTimeout, errHandshake)
	defer cancel()
	tc := tls.Client(nc, cfg)
	err := tc.HandshakeContext(ctx)
	if err == nil {
		return tc, nil
	}
	_ = nc.Close() // the handshake's error is returned
	var not tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &not) && string(not.RecordHeader[:]) == "HTTP/":
		return nil, http.ErrSchemeMismatch
	}
	return nil, err
}

var errHandshake = fmt.Errorf("TLS handshake took longer than %v", tlsTimeout)

// conn is a connection, which one request uses at a time.
type conn struct {
	t      *Transport
	key    string
	nc     net.Conn
	recv   *receiver // nil if the kind of connection has none
	from   io.Reader // recv, or nc
	in     *bufio.Reader
	out    *bufio.Writer
	head   int64     // bytes of a header that may still be read
	heard  bool      // a byte of the answer has been received
	failed error     // error of the last read
	since  time.Time // when it last became idle; zero before its first reuse
	idle   *idleCheck
	once   sync.Once
	abort  func() // the method value close, made once
}

func (c *conn) close() { c.once.Do(func() { _ = c.nc.Close() }) } // no caller can act on an error of Close

var errHead = fmt.Errorf("the answer's header is longer than %d bytes", maxHead)

// Read implements io.Reader for c.in, and bounds the header.
func (c *conn) Read(p []byte) (int, error) {
	if c.head <= 0 {
		return 0, errHead
	}
	if int64(len(p)) > c.head {
		p = p[:c.head]
	}
	n, err := c.from.Read(p)
	c.head -= int64(n)
	c.heard = c.heard || n > 0
	c.failed = err
	return n, err
}

// roundTrip sends req and reads the header of its answer. The end of the body makes
// the connection idle again. After an error the connection is closed.
func (c *conn) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if c.t.std.DisableKeepAlives && !req.Close {
		one := *req
		one.Close = true // sends Connection: close
		req = &one
	}
	c.head, c.heard = maxHead, false
	c.expect(0)
	b := &directBody{c: c, ctx: ctx, reuse: !req.Close}
	if ctx.Done() != nil {
		b.unhook = context.AfterFunc(ctx, c.abort)
	}
	resp, err := c.exchange(req)
	if err != nil {
		return nil, b.end(err)
	}
	c.head = math.MaxInt64
	c.expect(resp.ContentLength - int64(c.in.Buffered()))
	b.rc, b.reuse = resp.Body, b.reuse && !resp.Close
	if resp.Body == http.NoBody {
		_ = b.end(io.EOF)
		return resp, nil
	}
	resp.Body = b
	return resp, nil
}

// expect sets the number of bytes that the body still has. A number below 1 means
// that it is unknown.
func (c *conn) expect(n int64) {
	if c.recv != nil {
		c.recv.left = max(n, 0)
	}
}

// exchange sends req and reads answers until a final one.
func (c *conn) exchange(req *http.Request) (*http.Response, error) {
	if err := req.Write(c.out); err != nil {
		return nil, err
	}
	if err := c.out.Flush(); err != nil {
		return nil, err
	}
	for range maxInterim + 1 {
		resp, err := http.ReadResponse(c.in, req)
		switch {
		case err != nil && errors.Is(c.failed, io.EOF): // the parser's own error would mislead
			return nil, fmt.Errorf("the server closed the connection before it answered: %w", io.ErrUnexpectedEOF)
		case err != nil && c.failed != nil:
			return nil, c.failed
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the server switched protocols without a request")
		case resp.StatusCode/100 != 1:
			return resp, nil
		}
	}
	return nil, fmt.Errorf("more than %d interim answers", maxInterim)
}

// directBody is an answer's body. One goroutine may read it; another one may call
// Close.
type directBody struct {
	rc     io.Reader
	c      *conn
	ctx    context.Context //nolint:containedctx // the request's; it bounds the body too
	unhook func() bool     // stops watching ctx; nil if ctx has no end
	reuse  bool

	mu  sync.Mutex
	err error // if not nil, the connection is released and Read returns err
}

// Read implements io.Reader. It returns io.EOF with the last byte, and the
// connection is free for another request.
func (b *directBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.rc.Read(p)
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// end releases the connection and returns the error of the body: io.EOF after a
// complete body, and the context's cause if the context has ended it.
func (b *directBody) end(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	alive := b.unhook == nil || b.unhook()
	if !alive {
		err = context.Cause(b.ctx)
		if err == ranges.ErrStalled && !b.c.heard && !b.c.since.IsZero() { //nolint:errorlint // the engine's own, bare
			b.c.t.dropIdle(b.c.key)
		}
	}
	b.err = err
	if alive && err == io.EOF && b.reuse && b.c.in.Buffered() == 0 { //nolint:errorlint // the body's own end is bare
		b.c.t.put(b.c)
	} else {
		b.c.close()
	}
	return err
}

// Close implements io.Closer. It closes the connection unless the body was read to
// its end.
func (b *directBody) Close() error {
	_ = b.end(http.ErrBodyReadAfterClose)
	return nil
}
