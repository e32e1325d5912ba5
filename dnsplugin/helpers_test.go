package dnsplugin

import (
	"net"
	"sync"

	"github.com/miekg/dns"
)

// clientWriter is the writer of a client; it keeps what is written.
type clientWriter struct {
	mu   sync.Mutex // guards msgs
	msgs []*dns.Msg
	tcp  bool
}

func (w *clientWriter) WriteMsg(m *dns.Msg) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.msgs = append(w.msgs, m)
	return nil
}

// last returns the latest answer, nil if there is none.
func (w *clientWriter) last() *dns.Msg {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.msgs) == 0 {
		return nil
	}
	return w.msgs[len(w.msgs)-1]
}

func (w *clientWriter) RemoteAddr() net.Addr {
	if w.tcp {
		return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 40000}
	}
	return &net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 40000}
}
func (w *clientWriter) LocalAddr() net.Addr         { return &net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 53} }
func (w *clientWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *clientWriter) Close() error                { return nil }
func (w *clientWriter) TsigStatus() error           { return nil }
func (w *clientWriter) TsigTimersOnly(bool)         {}
func (w *clientWriter) Hijack()                     {}
