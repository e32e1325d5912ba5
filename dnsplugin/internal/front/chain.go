package front

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// viaChain lets the server's plugin chain answer j as if the packet had arrived at
// the server's own socket. It repeats the steps of miekg/dns between a socket and
// its handler.
func (f *Server) viaChain(j *Job) {
	req, verdict := Admit(j.Packet)
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
		f.Server.ServeDNS(ctx, f.writerFor(j, req), req)
	case dns.MsgReject, dns.MsgRejectNotImplemented:
		w := f.writerFor(j, req)
		if err := w.WriteMsg(req); err != nil {
			f.debugf("reply to %s: %v", w.RemoteAddr(), err)
		}
	}
}

// writerFor returns the writer for the answer to j, whose message is req.
func (f *Server) writerFor(j *Job, req *dns.Msg) dns.ResponseWriter {
	var tsig error
	if req.IsTsig() != nil {
		tsig = dns.ErrSecret // a server with secrets has no fast path
	}
	if j.conn != nil {
		return &StreamWriter{server: f, job: j, tsig: tsig}
	}
	return &ChainWriter{server: f, job: j, origin: &j.origin, Local: f.Local, tsig: tsig}
}

// Admit unpacks a packet. If the verdict is to reject it, m is the reply.
func Admit(packet []byte) (m *dns.Msg, verdict dns.MsgAcceptAction) {
	if len(packet) < wire.HeaderLen {
		return nil, dns.MsgIgnore
	}
	word := func(at int) uint16 { return binary.BigEndian.Uint16(packet[at:]) }
	header := dns.Header{Id: word(0), Bits: word(2), Qdcount: word(4), Ancount: word(6), Nscount: word(8), Arcount: word(10)}
	m = new(dns.Msg)
	// First the header alone, for a reply to a packet that is broken after it.
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

// ChainWriter sends the answer of the chain through the socket that received the
// query. It implements dns.ResponseWriter.
type ChainWriter struct {
	server *Server
	job    *Job // nil for a query that has no place in the backlog
	origin *fastpath.Origin
	Local  net.Addr
	remote *net.UDPAddr // made by RemoteAddr
	tsig   error
}

// LocalAddr implements dns.ResponseWriter.
func (w *ChainWriter) LocalAddr() net.Addr { return w.Local }

// RemoteAddr implements dns.ResponseWriter.
func (w *ChainWriter) RemoteAddr() net.Addr {
	if w.remote == nil {
		w.remote = net.UDPAddrFromAddrPort(w.origin.Peer())
	}
	return w.remote
}

// WriteMsg implements dns.ResponseWriter.
func (w *ChainWriter) WriteMsg(m *dns.Msg) error { return writeMsg(w, m) }

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
func (w *ChainWriter) Write(b []byte) (int, error) {
	err := w.origin.Send(b)
	if w.job != nil {
		w.server.Backlog.replied(w.job)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements dns.ResponseWriter. There is no connection.
func (w *ChainWriter) Close() error { return nil }

// TsigStatus implements dns.ResponseWriter.
func (w *ChainWriter) TsigStatus() error { return w.tsig }

// TsigTimersOnly implements dns.ResponseWriter.
func (w *ChainWriter) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter.
func (w *ChainWriter) Hijack() {}
