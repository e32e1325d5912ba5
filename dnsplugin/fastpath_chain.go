package dnsplugin

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// viaChain lets the server's plugin chain answer j, as if the packet had come
// to the server's own socket: what miekg/dns does between a socket and its
// handler happens here in the same order.
func (f *fastServer) viaChain(j *job) {
	req, verdict := admit(j.packet)
	switch verdict {
	case dns.MsgIgnore:
	case dns.MsgAccept:
		ctx := f.ctx
		switch {
		case j.atOnce:
			ctx = f.atOnceCtx
		case j.again:
			ctx = f.againCtx
		}
		f.server.ServeDNS(ctx, f.writerFor(j, req), req)
	case dns.MsgReject, dns.MsgRejectNotImplemented:
		w := f.writerFor(j, req)
		if err := w.WriteMsg(req); err != nil {
			f.debugf("reply to %s: %v", w.RemoteAddr(), err)
		}
	}
}

// writerFor returns what the chain writes its answer to j to, which is req.
func (f *fastServer) writerFor(j *job, req *dns.Msg) dns.ResponseWriter {
	var tsig error
	if req.IsTsig() != nil {
		tsig = dns.ErrSecret // we are not here if the server has any
	}
	if j.conn != nil {
		return &streamWriter{server: f, job: j, tsig: tsig}
	}
	return &chainWriter{server: f, job: j, origin: &j.origin, local: f.local, tsig: tsig}
}

// admit unpacks a packet. If it is to be rejected, m is the reply to it.
func admit(packet []byte) (m *dns.Msg, verdict dns.MsgAcceptAction) {
	if len(packet) < wire.HeaderLen {
		return nil, dns.MsgIgnore
	}
	word := func(at int) uint16 { return binary.BigEndian.Uint16(packet[at:]) }
	header := dns.Header{Id: word(0), Bits: word(2), Qdcount: word(4), Ancount: word(6), Nscount: word(8), Arcount: word(10)}
	m = new(dns.Msg)
	// The header alone, for a reply to what can't be read further.
	if err := m.Unpack(packet[:wire.HeaderLen]); err != nil {
		return nil, dns.MsgIgnore
	}
	verdict = dns.DefaultMsgAcceptFunc(header)
	if verdict == dns.MsgAccept && m.Unpack(packet) != nil {
		verdict = dns.MsgReject
	}
	if verdict != dns.MsgReject && verdict != dns.MsgRejectNotImplemented {
		return m, verdict
	}
	opcode := m.Opcode
	m.SetRcodeFormatError(m)
	m.Zero = false
	if verdict == dns.MsgRejectNotImplemented {
		m.Opcode, m.Rcode = opcode, dns.RcodeNotImplemented
	}
	m.Answer, m.Ns, m.Extra = nil, nil, nil
	return m, verdict
}

// chainWriter sends what the chain answers through the socket that the query
// came to. It implements dns.ResponseWriter.
type chainWriter struct {
	server *fastServer
	job    *job // nil for a query that has no place in the backlog
	origin *fastpath.Origin
	local  net.Addr
	remote *net.UDPAddr // made when somebody asks for it
	tsig   error
}

// LocalAddr implements dns.ResponseWriter.
func (w *chainWriter) LocalAddr() net.Addr { return w.local }

// RemoteAddr implements dns.ResponseWriter.
func (w *chainWriter) RemoteAddr() net.Addr {
	if w.remote == nil {
		w.remote = net.UDPAddrFromAddrPort(w.origin.Peer())
	}
	return w.remote
}

// WriteMsg implements dns.ResponseWriter.
func (w *chainWriter) WriteMsg(m *dns.Msg) error { return writeMsg(w, m) }

// writeMsg packs m and writes it to w.
func writeMsg(w io.Writer, m *dns.Msg) error {
	b, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Write implements dns.ResponseWriter.
func (w *chainWriter) Write(b []byte) (int, error) {
	err := w.origin.Send(b)
	if w.job != nil {
		w.server.backlog.answered(w.job)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements dns.ResponseWriter. There is no connection.
func (w *chainWriter) Close() error { return nil }

// TsigStatus implements dns.ResponseWriter.
func (w *chainWriter) TsigStatus() error { return w.tsig }

// TsigTimersOnly implements dns.ResponseWriter.
func (w *chainWriter) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter.
func (w *chainWriter) Hijack() {}
