package doh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// serveHTTP passes a request to ServeHTTP, in a goroutine of its own.
func (m *machine) serveHTTP(st *stream, h Handler, body []byte) {
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), http.LocalAddrContextKey, m.opts.Local))
	st.cancel, st.served = cancel, true
	m.opts.Hold()
	go func() {
		defer m.opts.Done()
		defer cancel()
		w := &responseWriter{header: http.Header{}}
		r, err := m.opts.newRequest(ctx, &st.head, body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else {
			w.serve(h, r)
		}
		m.finished(st, w)
	}()
}

// newRequest makes the request that net/http would make.
func (o *Options) newRequest(ctx context.Context, h *head, body []byte) (*http.Request, error) {
	u, err := url.ParseRequestURI(h.path)
	if err != nil {
		return nil, fmt.Errorf("doh: path: %w", err)
	}
	r := &http.Request{
		Method: h.method, URL: u, RequestURI: h.path, Host: h.authority,
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: h.header(),
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		RemoteAddr: o.Remote.String(), TLS: o.TLS,
	}
	if r.Host == "" {
		r.Host = r.Header.Get("Host")
	}
	return r.WithContext(ctx), nil
}

// finish sends the reply of ServeHTTP.
func (s *Session) finish(st *stream, w *responseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.m
	if m.streams[st.id] != st {
		return // the client has cancelled the request
	}
	delete(m.streams, st.id)
	if w.panicked {
		_ = m.opts.Send(appendReset(nil, st.id, codeInternal))
		return
	}
	body := w.body.Bytes()
	if st.head.method == http.MethodHead {
		body = nil
	}
	w.header.Del("Content-Length")
	w.header.Del("Date")
	out, err := m.respond(nil, st.id, st.window, max(w.status, http.StatusOK), body, func(out []byte) []byte { return appendHeader(out, w.header) })
	if err != nil {
		out = m.fail(err, out)
	}
	_ = m.opts.Send(out) // the connection knows when it has ended
}

// responseWriter keeps a reply until it is complete: the longest is a DNS
// message. It implements http.ResponseWriter.
type responseWriter struct {
	header   http.Header
	status   int
	body     bytes.Buffer
	panicked bool
}

// serve calls h. A panic ends the stream, as in net/http, and not the process.
func (w *responseWriter) serve(h http.Handler, r *http.Request) {
	defer func() {
		if recover() != nil {
			w.panicked = true
		}
	}()
	h.ServeHTTP(w, r)
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
