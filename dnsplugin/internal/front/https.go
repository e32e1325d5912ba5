package front

import (
	"cmp"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/doh"
	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The fast path over HTTPS (DoH) has listeners like the ones for TLS, whose
// connections speak HTTP/2 by package doh and send cached answers. All other
// requests go to CoreDNS's own handler, so that it alone decides about other
// methods, paths and broken messages. Clients of HTTP/1.1 are served by net/http
// with the same handler.

// secure is the additional state of a listener that speaks TLS.
type secure struct {
	config *tls.Config
	https  *httpsServer // nil for DoT
}

// httpsServer serves the requests to a Server. It implements doh.Handler and
// fastpath.ProtocolHandler.
type httpsServer struct {
	*Server                        // set when its listener opens
	handler *dnsserver.ServerHTTPS // of all requests but hits
	hits    prometheus.Counter     // CoreDNS's count of replies with status 200
	http1   *http1Server           // of the listener
	streams int                    // of a connection at a time
	conns   int                    // of the listener; 0 means no bound of its own
}

// openHTTPSServer opens the fast path of s, if a cache of ours has a part in
// it.
func (r *Registry) openHTTPSServer(s *dnsserver.ServerHTTPS) {
	zones, _ := ZonesOf(s.Server)
	home := r.homeOf(zones)
	if home == nil {
		return
	}
	config, why := secureConfig(zones)
	h := &httpsServer{
		handler: s, hits: vars.HTTPSResponsesCount.WithLabelValues(s.Addr, "200"),
		streams: dnsserver.DefaultHTTPSMaxStreams, conns: dnsserver.DefaultHTTPSMaxConnections,
	}
	for _, configs := range zones {
		for _, c := range configs {
			if c.HTTPRequestValidateFunc != nil && why == "" {
				why = "another plugin looks at each HTTP request"
			}
			if c.MaxHTTPSStreams != nil {
				h.streams = *c.MaxHTTPSStreams
			}
			if c.MaxHTTPSConnections != nil {
				h.conns = *c.MaxHTTPSConnections
			}
		}
	}
	if config != nil {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	if err := home.openListener(s.Server, zones, &secure{config: config, https: h}, why); err != nil {
		home.say("%s: %v; all queries go through the plugin chain", s.Addr, err)
	}
}

// Answer implements doh.Handler.
func (h *httpsServer) Answer(hint *uint32, query, buf []byte, ipv4 bool) (reply []byte, maxAge uint32, ok bool) {
	if reply, ok = h.AnswerQuery(hint, query, buf, ipv4); !ok {
		return nil, 0, false
	}
	h.hits.Inc()
	return reply, wire.Lifetime(reply, h.Now().Unix()), true
}

// ServeHTTP implements http.Handler.
func (h *httpsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.handler.ServeHTTP(w, r) }

// Open implements fastpath.ProtocolHandler.
func (h *httpsServer) Open(c *fastpath.Conn, alpn string) (fastpath.Protocol, []byte) {
	if alpn != "h2" {
		return nil, nil
	}
	s, greeting := doh.NewSession(doh.Options{
		Handler: func() doh.Handler {
			if current, ok := c.Handler().(doh.Handler); ok {
				return current // of the latest instance
			}
			return h
		},
		Send: c.SendBytes, Hold: c.Hold, Done: c.Done, Busy: c.Busy, Full: fastpath.FullAt,
		MaxStreams: h.streams, Local: c.LocalAddr(), Remote: c.RemoteAddr(), IPv4: c.Peer().Addr().Is4(), TLS: c.ConnectionState(),
	})
	return s, greeting
}

// Pass implements fastpath.ProtocolHandler.
func (h *httpsServer) Pass(c net.Conn) { h.http1.pass(c) }

// http1Server serves the connections of a listener whose clients do not speak
// HTTP/2. It implements net.Listener for net/http.
type http1Server struct {
	server  *http.Server
	current atomic.Pointer[httpsServer]
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once // closes closed
	running sync.WaitGroup
	addr    net.Addr
}

// newHTTP1Server starts the server of a listener at the address of h.
func newHTTP1Server(h *httpsServer) *http1Server {
	s := &http1Server{conns: make(chan net.Conn), closed: make(chan struct{}), addr: h.Local}
	s.current.Store(h)
	limits := h.Limits()
	s.server = &http.Server{
		Handler:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.current.Load().ServeHTTP(w, r) }),
		ReadTimeout: limits.Read, WriteTimeout: limits.Write, IdleTimeout: limits.Idle,
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(debugWriter{h.Server}, nil), slog.LevelInfo),
	}
	s.running.Go(func() {
		if err := s.server.Serve(s); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			h.debugf("HTTP/1.1: %v", err)
		}
	})
	return s
}

// debugWriter logs the messages of net/http at the debug level.
type debugWriter struct{ f *Server }

// Write implements io.Writer.
func (w debugWriter) Write(p []byte) (int, error) {
	w.f.debugf("%s", p)
	return len(p), nil
}

func (s *http1Server) pass(c net.Conn) {
	select {
	case s.conns <- c:
	case <-s.closed:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (s *http1Server) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *http1Server) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener.
func (s *http1Server) Addr() net.Addr { return s.addr }

// end closes the server. The connections are closed by then.
func (s *http1Server) end() error {
	return cmp.Or(s.server.Close(), s.Close())
}
