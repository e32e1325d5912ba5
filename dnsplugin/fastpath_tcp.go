package dnsplugin

import (
	"crypto/tls"
	"net"
	"runtime"

	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The fast path over TCP. What decides about a query is the same as over UDP;
// here is what differs: who serves has a connection instead of a socket, an
// answer may be as long as a message, and what goes through the chain is
// answered over the connection in the order in which it gets done.

// openStreams makes the fast path of l one for TCP too, or for TLS, with as
// many listeners as it has workers, or takes over those that are there. If that
// fails, tcpMissing of the server says why.
func (l *listener) openStreams() {
	f := l.server
	workers, proto := l.opts.Workers, "TLS"
	if l.group != nil {
		workers, proto = l.group.Workers(), "TCP"
	}
	f.prepareStreams(workers)
	if !f.direct() {
		f.tcpMissing = errAllDecline.Error()
	}
	log := clog.NewWithPlugin(f.home.Name)
	switch {
	case l.streams != nil:
		l.streams.SwapTLS(f.config)
		l.streams.Swap(f, f.limits())
	case f.direct():
		var err error
		l.streams, err = fastpath.ListenStreams(socketAddr(f.addr),
			fastpath.StreamOptions{Listeners: workers, Report: f.report(proto), Limits: f.limits(), TLS: f.config}, f)
		if err != nil {
			l.streams, f.tcpMissing = nil, err.Error()
			log.Warningf("Fast path at %s: not over %s: %v", f.addr, proto, err)
			return
		}
		log.Infof("Fast path at %s: over %s too", f.addr, proto)
		if steered, err := l.streams.Steered(); !steered {
			log.Warningf("Fast path at %s: connections are not steered to it (%v), so other sockets of the address get their share", f.addr, err)
		}
	}
	f.tcp = l.streams
}

// closeStreams ends the connections when what has come over them is answered.
func (l *listener) closeStreams() error {
	if l.streams == nil {
		return nil
	}
	return l.streams.Close()
}

// limits are those of CoreDNS's server, which the plugin timeouts may have set.
func (f *fastServer) limits() fastpath.StreamLimits {
	s := f.server
	return fastpath.StreamLimits{Read: s.ReadTimeout, Idle: s.IdleTimeout, Write: s.WriteTimeout, Messages: s.MaxTCPQueries}
}

// prepareStreams makes the state of those who serve connections: one for each
// processor of Go's scheduler, as no more of them run at a time.
func (f *fastServer) prepareStreams(workers int) {
	f.streams = nil
	for range max(workers, runtime.GOMAXPROCS(0)) + 1 {
		f.streams = append(f.streams, f.newWorker(true))
	}
}

// borrow returns an idle worker, locked. hint belongs to a connection: it keeps
// the worker that it had, and with it the cache of a core, while that is idle.
func (f *fastServer) borrow(hint *uint32) *fastWorker {
	n := uint32(len(f.streams) - 1) // the last one is for the waiters
	for range n {
		w := f.streams[*hint%n]
		if w.Mu.TryLock() {
			return w
		}
		*hint++
	}
	w := f.streams[*hint%n]
	w.Mu.Lock()
	return w
}

// ServeStream implements fastpath.StreamHandler.
func (f *fastServer) ServeStream(c *fastpath.Conn, b *fastpath.Burst) (served int) {
	w := f.borrow(&c.Hint)
	defer w.Mu.Unlock()
	now := f.now()
	all := w.asked[:min(b.Len(), chunk)]
	for i := range all {
		f.understand(&all[i], b.Message(i), w.keys[i][:0])
	}
	w.hasten(all)
	ipv4 := c.Peer().Addr().Is4()
	for ; served < len(all) && !b.Full() && !c.Busy(); served++ {
		a, pkt := &all[served], b.Message(served)
		reply, why := f.find(w, a, pkt, b.Buffer(), now)
		if why == meters.Refresh {
			if f.offerStream(w, a, pkt, c, ipv4) {
				continue
			}
			reply, why = f.findAtOnce(w, a, pkt, b.Buffer(), now)
		}
		if why != meters.Understood {
			w.CountDecline(why)
			f.declineStream(a, why, pkt, c, ipv4)
			continue
		}
		b.Reply(len(reply))
		if a.zone.Counted {
			w.CountQuery(&a.zone.Zone, &a.q, len(pkt), ipv4)
		}
	}
	w.CountDuration(f.now().Sub(now))
	return served
}

// offerStream is offer for a message of c.
func (f *fastServer) offerStream(w *fastWorker, a *asked, pkt []byte, c *fastpath.Conn, ipv4 bool) bool {
	j := f.newJob(a, meters.Refresh, pkt)
	j.conn, j.ipv4 = c, ipv4
	c.Hold()
	if !f.backlog.offer(j) {
		c.Done()
		return false
	}
	w.CountDecline(meters.Refresh)
	return true
}

// declineStream hands a message to the chain.
func (f *fastServer) declineStream(a *asked, why meters.Reason, pkt []byte, c *fastpath.Conn, ipv4 bool) {
	if len(pkt) < wire.HeaderLen {
		return // CoreDNS ignores it too
	}
	c.Hold()
	j := f.newJob(a, why, pkt)
	j.conn, j.ipv4 = c, ipv4
	j.transfer = why == meters.Reason(wire.MetaType) && (a.q.Type == dns.TypeAXFR || a.q.Type == dns.TypeIXFR)
	f.backlog.submit(j)
}

// streamWriter sends what the chain answers over the connection of the query.
// It implements dns.ResponseWriter.
type streamWriter struct {
	server *fastServer
	job    *job // has a conn
	tsig   error
}

// LocalAddr implements dns.ResponseWriter.
func (w *streamWriter) LocalAddr() net.Addr { return w.job.conn.LocalAddr() }

// RemoteAddr implements dns.ResponseWriter.
func (w *streamWriter) RemoteAddr() net.Addr { return w.job.conn.RemoteAddr() }

// WriteMsg implements dns.ResponseWriter.
func (w *streamWriter) WriteMsg(m *dns.Msg) error { return writeMsg(w, m) }

// Write implements dns.ResponseWriter.
func (w *streamWriter) Write(b []byte) (int, error) {
	if w.job.transfer {
		if err := w.job.conn.SendAll(b); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	err := w.job.conn.Send(b)
	w.server.backlog.answered(w.job)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// ConnectionState implements dns.ConnectionStater. It is nil over plain TCP.
func (w *streamWriter) ConnectionState() *tls.ConnectionState { return w.job.conn.ConnectionState() }

// Close implements dns.ResponseWriter: it ends the connection for all its queries.
func (w *streamWriter) Close() error { return w.job.conn.Close() }

// TsigStatus implements dns.ResponseWriter.
func (w *streamWriter) TsigStatus() error { return w.tsig }

// TsigTimersOnly implements dns.ResponseWriter.
func (w *streamWriter) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter. The connection stays ours: other
// queries are answered over it.
func (w *streamWriter) Hijack() {}
