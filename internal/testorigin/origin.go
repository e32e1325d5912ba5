package testorigin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/testport"
)

// Origin is a running origin. All methods are safe for concurrent use.
type Origin struct {
	opts   Options
	dir    string
	ownDir bool
	ln     net.Listener
	ln2    net.Listener // second host, the target of redirects
	host2  string
	ownNet bool             // the listeners are sockets of the kernel
	ports  []*testport.Port // kept after Close, because clients may still know them
	srv    *http.Server
	srv2   *http.Server

	store    store
	registry registry
	count    counters
	faults   atomic.Pointer[faultSet]
	quirks   atomic.Pointer[Quirks]
	serial   atomic.Uint64 // numbers requests, versions, uploads and scratch files
	arrivals atomic.Uint64 // numbers requests for the latency distribution

	closing chan struct{}
	once    sync.Once
	wg      sync.WaitGroup // accept loops, connections and handlers
	conns   sync.Map       // net.Conn -> struct{}: connections whose end wg still waits for
}

// Start starts an origin. The caller must call Close.
func Start(opts Options) (*Origin, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	o := &Origin{opts: opts.withDefaults(), closing: make(chan struct{}), ownNet: opts.Listen == nil}
	o.faults.Store(newFaultSet(opts.Seed, opts.Faults))
	o.quirks.Store(&o.opts.Quirks)
	o.store.init()
	o.registry.init()
	if err := o.listen(); err != nil {
		return nil, err
	}
	if err := o.makeDir(); err != nil {
		_ = o.ln.Close()
		_ = o.ln2.Close()
		return nil, err
	}
	o.srv = o.server(o.serveMain)
	o.srv2 = o.server(o.serveRedirected)
	o.wg.Go(func() { _ = o.srv.Serve(o.capped(o.ln)) })
	o.wg.Go(func() { _ = o.srv2.Serve(o.capped(o.ln2)) })
	return o, nil
}

// listenAt listens. A port that the kernel chooses stays reserved after Close,
// because clients may still send requests to it, which must not reach the
// server of another test.
func (o *Origin) listenAt(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && port == "0" && o.ownNet && net.ParseIP(host) != nil {
		p, err := testport.Reserve(host)
		if err != nil {
			return nil, err
		}
		o.ports = append(o.ports, p)
		addr = p.Addr()
	}
	return o.opts.Listen(context.Background(), "tcp", addr)
}

func (o *Origin) listen() error {
	var err error
	if o.ln, err = o.listenAt(o.opts.Addr); err != nil {
		return fmt.Errorf("testorigin: listen on %s: %w", o.opts.Addr, err)
	}
	ip := o.ln.Addr().(*net.TCPAddr).IP
	if o.ln2, err = o.listenAt(net.JoinHostPort(ip.String(), "0")); err != nil {
		_ = o.ln.Close()
		return fmt.Errorf("testorigin: listen for redirects on %s: %w", ip, err)
	}
	name := o.opts.Registry.RedirectHost
	if name == "" {
		name = ip.String()
		if ip.IsLoopback() {
			name = "localhost"
		}
	}
	_, port, _ := net.SplitHostPort(o.ln2.Addr().String())
	o.host2 = net.JoinHostPort(name, port)
	return nil
}

func (o *Origin) makeDir() (err error) {
	o.dir = o.opts.Dir
	if o.dir == "" {
		o.ownDir = true
		o.dir, err = os.MkdirTemp("", "penstock-origin-")
		return err
	}
	return os.MkdirAll(o.dir, 0o700)
}

func (o *Origin) capped(ln net.Listener) net.Listener {
	if o.opts.ConnRate > 0 {
		return capListener{ln, o.opts.ConnRate}
	}
	return ln
}

func (o *Origin) server(h http.HandlerFunc) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o.wg.Add(1)
			defer o.wg.Done()
			h(w, r)
		}),
		ConnState: o.connState,
		// A client that sends no header must not delay Close; 30 s is longer
		// than any test's pause between requests.
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(o.opts.Log.Handler(), slog.LevelDebug), // nil would mean the global logger
	}
}

// connState counts connections in the wait group, because net/http's own Close
// does not wait for their goroutines.
func (o *Origin) connState(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		o.conns.Store(c, struct{}{})
		o.wg.Add(1)
	case http.StateClosed, http.StateHijacked:
		if _, ok := o.conns.LoadAndDelete(c); ok {
			o.wg.Done()
		}
	case http.StateActive, http.StateIdle:
	}
}

// Close ends all requests and connections, waits for their goroutines, and
// removes all uploaded bodies, and the scratch folder if Start made it. A
// second call does nothing.
func (o *Origin) Close() error {
	var errs []error
	o.once.Do(func() {
		close(o.closing)
		errs = append(errs, o.srv.Close(), o.srv2.Close())
		o.wg.Wait()
		o.store.drop()
		o.registry.drop()
		if o.ownDir {
			errs = append(errs, os.RemoveAll(o.dir))
		}
	})
	return errors.Join(errs...)
}

// Host returns host:port.
func (o *Origin) Host() string { return o.ln.Addr().String() }

// URL returns http://host:port, which is the S3 endpoint (path style) and the
// base of the registry.
func (o *Origin) URL() string { return "http://" + o.Host() }

// RedirectHost returns the host:port that redirected blob GETs go to.
func (o *Origin) RedirectHost() string { return o.host2 }

// ObjectURL returns the URL of an object, without a signature.
func (o *Origin) ObjectURL(bucket, key string) string {
	u := url.URL{Scheme: "http", Host: o.Host(), Path: "/" + bucket + "/" + key}
	u.RawPath = "/" + bucket + "/" + awsEscape(key, true)
	return u.String()
}

// Presign returns a presigned URL of an object for method, which expires after
// ttl. If ttl is negative, it has expired already.
func (o *Origin) Presign(method, bucket, key string, ttl time.Duration) string {
	u, err := url.Parse(o.ObjectURL(bucket, key))
	if err != nil { // not reachable: ObjectURL escapes everything
		return ""
	}
	return o.presign(method, u, ttl)
}

// wait waits for d, or without end if d is negative. It returns an error when
// the client goes away or the origin closes.
func (o *Origin) wait(ctx context.Context, d time.Duration) error {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-o.closing:
		return http.ErrServerClosed
	}
}

// request is one request on its way through the origin.
type request struct {
	o     *Origin
	w     http.ResponseWriter
	r     *http.Request
	q     url.Values
	op    string
	ckey  string // counter key
	fx    effects
	id    identity
	body  *bodyReader // the request's body, with its faults
	start time.Time

	quirks *Quirks
	second bool // the request was sent to the second host

	// S3
	bucket, key string
	// Registry
	isRegistry bool // answers in the registry's format; the second host does not
	repo, ref  string

	document bool // the body is not a span of an object
	status   int
	sent     int64
}

// serveMain serves both protocols: /v2/ and /token are the registry, all else
// is S3.
func (o *Origin) serveMain(w http.ResponseWriter, r *http.Request) {
	rq := o.newRequest(w, r)
	handler := rq.classify()
	o.run(rq, handler)
}

func (o *Origin) newRequest(w http.ResponseWriter, r *http.Request) *request {
	return &request{o: o, w: w, r: r, q: r.URL.Query(), start: time.Now(), quirks: o.quirks.Load()}
}

// classify names the operation and the key of the request and returns its handler.
func (rq *request) classify() func(*request) {
	p := rq.r.URL.Path
	if p == "/v2" || strings.HasPrefix(p, "/v2/") || p == "/token" {
		return rq.classifyRegistry()
	}
	rq.quirks.hop(rq.r)
	return rq.classifyS3()
}

// run applies the faults that come before the handler, then the handler.
func (o *Origin) run(rq *request, handler func(*request)) {
	r := rq.r
	rq.fx = o.faults.Load().eval(rq.op, rq.ckey, r.Header.Get("Range"))
	rq.body = &bodyReader{rq: rq, src: r.Body}
	o.count.begin(rq.op, rq.ckey, len(rq.fx) > 0)
	o.tap(rq, false)
	defer func() {
		o.tap(rq, true)
		o.opts.Log.Debug("request", "op", rq.op, "key", rq.ckey, "range", r.Header.Get("Range"), "status", rq.status,
			"bytes", rq.sent, "faults", rq.fx.names(), "took", time.Since(rq.start))
	}()
	if rq.before() {
		return
	}
	handler(rq)
}

// before applies latency and the faults that come before an answer. It reports
// whether the request has ended.
func (rq *request) before() bool {
	o := rq.o
	if d := o.opts.FirstByteLatency.draw(o.opts.Seed, o.arrivals.Add(1)); d > 0 {
		rq.pause(d)
	}
	upload := rq.isUpload()
	for i := range rq.fx {
		f := &rq.fx[i]
		switch {
		case f.Action == ActSwap:
			rq.swap(f)
		case f.Action == ActStall && f.At == 0:
			rq.pause(f.pause())
		case f.Action == ActReset && f.At == 0:
			reset(rq.w, rq.r)
			return true
		case upload && f.inBody():
			rq.body.faults = append(rq.body.faults, f)
		}
	}
	if f := rq.fx.find(ActStatus); f != nil {
		rq.failWith(f)
		return true
	}
	if f := rq.fx.find(ActPage); f != nil {
		rq.page(f)
		return true
	}
	if f := rq.fx.find(ActExpire); f != nil && rq.op != opGetBlob {
		rq.expire()
		return true
	}
	return false
}

// pause waits for d, or without end if d is negative. If the client goes away
// in the meantime, it ends the request.
func (rq *request) pause(d time.Duration) {
	if err := rq.o.wait(rq.r.Context(), d); err != nil {
		panic(http.ErrAbortHandler) // net/http closes the connection without an answer
	}
}

// pause returns how long a stall lasts; negative means without end.
func (f *firing) pause() time.Duration {
	if f.For == 0 {
		return -1
	}
	return f.For
}

// inBody reports whether the fault acts inside a body.
func (f *firing) inBody() bool {
	switch f.Action {
	case ActStall, ActReset:
		return f.At != 0
	case ActTruncate, ActFlip, ActSlow:
		return true
	}
	return false
}

func (rq *request) isUpload() bool {
	return slices.Contains([]string{opPutObject, opUploadPart, opPatchUpload, opPutUpload, opPutManifest}, rq.op)
}

// header sends the status line and the headers set so far, after the faults on
// headers.
func (rq *request) header(status int) {
	h := rq.w.Header()
	rq.applyHeaderQuirks()
	for i := range rq.fx {
		switch f := &rq.fx[i]; f.Action {
		case ActHeader:
			_, value, _ := strings.Cut(f.Header, ":")
			if value = strings.TrimSpace(value); value == "" {
				h[headerName(f.Header)] = nil // nil instead of absent, so that net/http adds no default
			} else {
				h.Set(headerName(f.Header), value)
			}
		case ActClose:
			h.Set("Connection", "close")
		}
	}
	rq.status = status
	rq.o.count.header(rq.op, rq.ckey, status)
	rq.w.WriteHeader(status)
}

// write sends a small body in memory.
func (rq *request) write(status int, contentType string, body []byte) {
	h := rq.w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	rq.document = true
	if rq.fx.find(ActEmpty) != nil {
		body = nil
	}
	rq.answer(status, memContent(body), 0, int64(len(body)))
}

func (o *Origin) tap(rq *request, done bool) {
	if o.opts.Tap == nil {
		return
	}
	o.opts.Tap(Event{
		Op: rq.op, Key: rq.ckey, Method: rq.r.Method, Range: rq.r.Header.Get("Range"), Remote: rq.r.RemoteAddr,
		Header: rq.r.Header, Done: done, Status: rq.status, Bytes: rq.sent, Faults: rq.fx.names(),
	})
}
