package dnsplugin

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// clientWriter is the writer of a client. It keeps the messages.
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

// source is the next plugin of a test. It counts queries and answers by a function.
type source struct {
	mu     sync.Mutex // guards all below; a query takes answer when it is counted
	asked  []*dns.Msg
	ctx    context.Context //nolint:containedctx // of the latest question, for tests to look into
	answer func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error)
}

func (s *source) Name() string { return "source" }

func (s *source) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Copy())
	s.ctx = ctx
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx, w, r)
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *source) lastCtx() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

// says makes the source answer with records, SOA and NS in the authority
// section and all else in the answer section; edit may change the response.
func says(edit func(*dns.Msg), records ...string) *source {
	s := &source{}
	s.say(edit, records...)
	return s
}

func (s *source) say(edit func(*dns.Msg), records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg)
		m.SetReply(r)
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			switch rr.Header().Rrtype {
			case dns.TypeSOA, dns.TypeNS:
				m.Ns = append(m.Ns, rr)
			default:
				m.Answer = append(m.Answer, rr)
			}
		}
		if edit != nil {
			edit(m)
		}
		return dns.RcodeSuccess, w.WriteMsg(m)
	}
}

// dies makes the source fail without a response.
func (s *source) dies() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
		return dns.RcodeServerFailure, errors.New("no upstream")
	}
}

// cacheOf returns a Cache in front of next with metrics of its own.
func cacheOf(t testing.TB, cfg Config, next plugin.Handler) *Cache {
	t.Helper()
	c, err := newCache("penstock", cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Next = next
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func question(name string, qtype uint16, edit ...func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	for _, e := range edit {
		e(m)
	}
	return m
}

// ask sends r through c and returns the answer, nil if there is none.
func ask(t testing.TB, c plugin.Handler, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := &clientWriter{}
	if _, err := c.ServeDNS(context.Background(), w, r); err != nil {
		t.Logf("%s: %v", r.Question[0].Name, err)
	}
	return w.last()
}

// ttls returns the TTLs of all records but OPT.
func ttls(m *dns.Msg) (out []uint32) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				out = append(out, rr.Header().Ttl)
			}
		}
	}
	return out
}

// inTime is how long a test waits for an event. Only a failing test waits for so
// long, so it allows for a loaded machine.
const inTime = time.Minute

// until waits until other goroutines have made done true.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(inTime); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
}
