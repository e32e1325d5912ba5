package front

import (
	"crypto/tls"
	"errors"
	"net"
	"runtime"

	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The fast path over TCP decides about a query in the same way as over UDP. This
// file holds the differences: a worker is borrowed by a connection, a reply may
// be as long as a message, and queries in the chain are answered over the
// connection in the order in which they finish.

// openStreams opens as many listeners for TCP or TLS as l has workers, or takes
// over the open ones. If that fails, TCPMissing of the server holds the reason.
func (l *Listener) openStreams() {
	f := l.Server
	workers, proto := l.opts.Workers, "TCP"
	if l.Group != nil {
		workers = l.Group.Workers()
	}
	if f.secure != nil {
		if proto = "TLS"; f.secure.https != nil {
			proto = "HTTPS"
		}
	}
	f.PrepareStreams(workers)
	if !f.Direct() {
		f.TCPMissing = ErrAllDecline.Error()
	}
	log := clog.NewWithPlugin(f.Home.Name)
	opts := fastpath.StreamOptions{Listeners: workers, Report: f.report(proto), Limits: f.Limits()}
	handler := l.streamHandler(&opts)
	switch {
	case l.Streams != nil:
		l.Streams.SwapTLS(opts.TLS)
		l.Streams.Swap(handler, opts.Limits)
	case f.Direct():
		var err error
		l.Streams, err = fastpath.ListenStreams(socketAddr(f.Addr), opts, handler)
		if err != nil {
			_ = l.closeStreams()
			l.Streams, f.TCPMissing = nil, err.Error()
			log.Warningf("Fast path at %s: not over %s: %v", f.Addr, proto, err)
			return
		}
		log.Infof("Fast path at %s: over %s, %d listeners", f.Addr, proto, workers)
		if steered, err := l.Streams.Steered(); !steered {
			log.Warningf("Fast path at %s: connections are not steered to it (%v), so other sockets of the address get their share", f.Addr, err)
		}
	}
	f.TCP = l.Streams
}

// streamHandler returns the handler of the connections of l, and sets the options
// that it needs in opts.
func (l *Listener) streamHandler(opts *fastpath.StreamOptions) fastpath.StreamHandler {
	f := l.Server
	if f.secure == nil {
		return f
	}
	opts.TLS = f.secure.config
	h := f.secure.https
	if h == nil {
		return f
	}
	opts.Most = h.conns
	if l.http1 == nil {
		l.http1 = newHTTP1Server(h)
	}
	l.http1.current.Store(h)
	h.http1 = l.http1
	return h
}

// closeStreams ends the connections when their queries are answered.
func (l *Listener) closeStreams() error {
	var err error
	if l.Streams != nil {
		err = l.Streams.Close()
	}
	if l.http1 != nil {
		err = errors.Join(err, l.http1.end())
	}
	return err
}

// Limits returns the limits of CoreDNS's server, which the plugin timeouts may
// have set.
func (f *Server) Limits() fastpath.StreamLimits {
	s := f.Server
	return fastpath.StreamLimits{Read: s.ReadTimeout, Idle: s.IdleTimeout, Write: s.WriteTimeout, Messages: s.MaxTCPQueries}
}

// PrepareStreams makes the workers that connections borrow: one for each
// processor of Go's scheduler, because no more of them run at a time.
func (f *Server) PrepareStreams(workers int) {
	f.Streams = nil
	for range max(workers, runtime.GOMAXPROCS(0)) + 1 {
		f.Streams = append(f.Streams, f.NewWorker(true))
	}
}

// Borrow returns an idle worker, locked. hint belongs to a connection: it keeps
// the worker that it had, and with it the cache of a core, while that is idle.
func (f *Server) Borrow(hint *uint32) *Worker {
	n := uint32(len(f.Streams) - 1) // the last one is for queries that waited
	for range n {
		w := f.Streams[*hint%n]
		if w.Mu.TryLock() {
			return w
		}
		*hint++
	}
	w := f.Streams[*hint%n]
	w.Mu.Lock()
	return w
}

// ServeStream implements fastpath.StreamHandler.
func (f *Server) ServeStream(c *fastpath.Conn, b *fastpath.Burst) (served int) {
	w := f.Borrow(&c.Hint)
	defer w.Mu.Unlock()
	now := f.Now()
	all := w.asked[:min(b.Len(), Chunk)]
	for i := range all {
		f.parse(&all[i], b.Message(i), w.Keys[i][:0])
	}
	w.prefetch(all)
	ipv4 := c.Peer().Addr().Is4()
	for ; served < len(all) && !b.Full() && !c.Busy(); served++ {
		a, pkt := &all[served], b.Message(served)
		reply, why := f.reply(w, a, pkt, b.Buffer(), now)
		if why == meters.Refresh {
			if f.offerStream(w, a, pkt, c, ipv4) {
				continue
			}
			reply, why = f.replyAtOnce(w, a, pkt, b.Buffer(), now)
		}
		if why != meters.Understood {
			w.CountDecline(why)
			f.declineStream(a, why, pkt, c, ipv4)
			continue
		}
		b.Reply(len(reply))
		if a.Zone.Counted {
			w.CountQuery(&a.Zone.Zone, &a.Q, len(pkt), ipv4)
		}
	}
	w.CountDuration(f.Now().Sub(now))
	return served
}

// offerStream is offer for a message of connection c.
func (f *Server) offerStream(w *Worker, a *Query, pkt []byte, c *fastpath.Conn, ipv4 bool) bool {
	j := f.newJob(a, meters.Refresh, pkt)
	j.conn, j.ipv4 = c, ipv4
	c.Hold()
	if !f.Backlog.offer(j) {
		c.Done()
		return false
	}
	w.CountDecline(meters.Refresh)
	return true
}

// declineStream hands a message to the chain.
func (f *Server) declineStream(a *Query, why meters.Reason, pkt []byte, c *fastpath.Conn, ipv4 bool) {
	if len(pkt) < wire.HeaderLen {
		return // CoreDNS ignores it as well
	}
	c.Hold()
	j := f.newJob(a, why, pkt)
	j.conn, j.ipv4 = c, ipv4
	j.transfer = why == meters.Reason(wire.MetaType) && (a.Q.Type == dns.TypeAXFR || a.Q.Type == dns.TypeIXFR)
	f.Backlog.Submit(j)
}

// StreamWriter sends the answer of the chain over the connection of the query. It
// implements dns.ResponseWriter.
type StreamWriter struct {
	server *Server
	job    *Job // has a conn
	tsig   error
}

// LocalAddr implements dns.ResponseWriter.
func (w *StreamWriter) LocalAddr() net.Addr { return w.job.conn.LocalAddr() }

// RemoteAddr implements dns.ResponseWriter.
func (w *StreamWriter) RemoteAddr() net.Addr { return w.job.conn.RemoteAddr() }

// WriteMsg implements dns.ResponseWriter.
func (w *StreamWriter) WriteMsg(m *dns.Msg) error { return writeMsg(w, m) }

// Write implements dns.ResponseWriter.
func (w *StreamWriter) Write(b []byte) (int, error) {
	if w.job.transfer {
		if err := w.job.conn.SendAll(b); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	err := w.job.conn.Send(b)
	w.server.Backlog.replied(w.job)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// ConnectionState implements dns.ConnectionStater. It is nil over plain TCP.
func (w *StreamWriter) ConnectionState() *tls.ConnectionState { return w.job.conn.ConnectionState() }

// Close implements dns.ResponseWriter. It ends the connection for all queries.
func (w *StreamWriter) Close() error { return w.job.conn.Close() }

// TsigStatus implements dns.ResponseWriter.
func (w *StreamWriter) TsigStatus() error { return w.tsig }

// TsigTimersOnly implements dns.ResponseWriter.
func (w *StreamWriter) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter. It does nothing, because the connection
// is still needed for other queries.
func (w *StreamWriter) Hijack() {}
