//go:build amd64 || arm64

package fastpath

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patient are limits that no test reaches.
var patient = StreamLimits{Read: time.Minute, Idle: time.Minute, Write: time.Minute}

// streamEcho replies with the message and a mark. Messages that begin with
// "hold" are held and go to a channel, those that begin with "no" get no reply.
type streamEcho struct {
	mark string
	held chan held
}

type held struct {
	conn *Conn
	text string
}

func (e *streamEcho) ServeStream(c *Conn, b *Burst) (served int) {
	for ; served < b.Len() && !b.Full() && !c.Busy(); served++ {
		p := b.Message(served)
		switch {
		case bytes.HasPrefix(p, []byte("hold")):
			c.Hold()
			e.held <- held{c, string(p)}
		case bytes.HasPrefix(p, []byte("big")):
			b.Reply(len(append(b.Buffer(), make([]byte, MaxMessage)...)))
		case bytes.HasPrefix(p, []byte("peer")):
			b.Reply(len(fmt.Appendf(b.Buffer(), "%v %v %v", c.Peer(), c.RemoteAddr(), c.LocalAddr())))
		case !bytes.HasPrefix(p, []byte("no")):
			reply := append(b.Buffer(), p...)
			if len(p)+len(e.mark) <= MaxMessage {
				reply = append(reply, e.mark...)
			}
			b.Reply(len(reply))
		}
	}
	return served
}

func streams(t *testing.T, addr string, opts StreamOptions, h StreamHandler) *Streams {
	t.Helper()
	if opts.Limits == (StreamLimits{}) {
		opts.Limits = patient
	}
	opts.Listeners = max(opts.Listeners, 1)
	if opts.TLS != nil {
		overTLS(t, addr)
	}
	g, err := ListenStreams(addr, opts, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-g.closed: // by the test
		default:
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
		if g.Conns() != 0 || g.held.Load() != 0 {
			t.Errorf("%d connections and %d bytes are left", g.Conns(), g.held.Load())
		}
	})
	return g
}

// local starts streams at a loopback address.
func local(t *testing.T, opts StreamOptions, h StreamHandler) (*Streams, string) {
	t.Helper()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	return streams(t, addr, opts, h), addr
}

// client is a connection to streams, over TLS if they speak it.
type client struct {
	*net.TCPConn
	over net.Conn // the connection with TLS, if any
	t    *testing.T
	in   *bufio.Reader
}

// Write writes to the connection, in a record of its own over TLS.
func (c *client) Write(p []byte) (int, error) { return c.over.Write(p) }

// Read reads from the connection.
func (c *client) Read(p []byte) (int, error) { return c.over.Read(p) }

// CloseWrite closes the client's side.
func (c *client) CloseWrite() error {
	if over, ok := c.over.(*tls.Conn); ok {
		return over.CloseWrite()
	}
	return c.TCPConn.CloseWrite()
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	return dialFrom(t, "", addr)
}

// dialFrom connects from the address from, or from any if it is empty.
func dialFrom(t *testing.T, from, addr string) *client {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(inTime))
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		t.Fatalf("%T", c)
	}
	over := net.Conn(tcp)
	if config := clientTLS(addr); config != nil {
		over = tls.Client(tcp, config)
	}
	return &client{tcp, over, t, bufio.NewReader(over)}
}

func (c *client) send(messages ...string) {
	c.t.Helper()
	if _, err := c.Write(frames(messages...)); err != nil {
		c.t.Fatal(err)
	}
}

// sendAside sends messages that are too long for the kernel's buffers, from
// another goroutine.
func (c *client) sendAside(messages ...string) {
	go func() {
		if _, err := c.Write(frames(messages...)); err != nil {
			c.t.Error(err)
		}
	}()
}

// want reads messages and compares them.
func (c *client) want(messages ...string) {
	c.t.Helper()
	for _, want := range messages {
		if got, err := c.next(); err != nil || got != want {
			c.t.Fatalf("%.50q %v, want %.50q", got, err, want)
		}
	}
}

func (c *client) next() (string, error) {
	var length [2]byte
	if _, err := io.ReadFull(c.in, length[:]); err != nil {
		return "", err
	}
	p := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c.in, p)
	return string(p), err
}

// ends waits for the end of the connection.
func (c *client) ends() {
	c.t.Helper()
	if p, err := c.next(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("%.50q %v, want the end", p, err)
	}
}

// until waits until done returns true.
func until(t *testing.T, what string, done func() bool) {
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

func TestStreamsServeEveryAddress(t *testing.T) { overTCPAndTLS(t, testStreamsServeEveryAddress) }

func testStreamsServeEveryAddress(t *testing.T, config *tls.Config) {
	t.Parallel()
	for _, tt := range []struct {
		listen string
		ask    []string
	}{
		{"127.0.0.1", []string{"127.0.0.1"}},
		{"::1", []string{"::1"}},
		{"", []string{"127.0.0.1", "127.3.2.1", "::1"}},
		{"0.0.0.0", []string{"127.0.0.2"}},
		{"::", []string{"::1", "127.0.0.7"}},
	} {
		port := freePort(t)
		streams(t, net.JoinHostPort(tt.listen, port), StreamOptions{TLS: config, Listeners: 2, Unsteered: true}, &streamEcho{mark: "!"})
		for _, host := range tt.ask {
			c := dial(t, net.JoinHostPort(host, port))
			c.send("hello", "", "peer")
			c.want("hello!", "!")
			got, err := c.next()
			f := strings.Fields(got)
			if err != nil || len(f) != 3 || f[0] != c.LocalAddr().String() || f[1] != f[0] || f[2] != c.RemoteAddr().String() {
				t.Errorf("%s: %q, want %v %v", host, got, c.LocalAddr(), c.RemoteAddr())
			}
		}
	}
}

// Messages are answered in whatever pieces they come, and in any number.
func TestMessagesInPieces(t *testing.T) { overTCPAndTLS(t, testMessagesInPieces) }

func testMessagesInPieces(t *testing.T, config *tls.Config) {
	t.Parallel()
	_, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, &streamEcho{})
	c := dial(t, addr)
	for _, p := range frames("in pieces", "", "of one byte") {
		if _, err := c.Write([]byte{p}); err != nil {
			t.Fatal(err)
		}
	}
	c.want("in pieces", "", "of one byte")
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprint("message ", i))
	}
	c.sendAside(many...)
	c.want(many...)
	long := strings.Repeat("long", MaxMessage/4+1)[:MaxMessage]
	c.sendAside(long, "short", long, long)
	c.want(long, "short", long, long)
}

// With steering the server's own listener gets no connections before Close, and
// all of them afterwards. None is reset.
func TestConnectionsAreSteered(t *testing.T) { overTCPAndTLS(t, testConnectionsAreSteered) }

func testConnectionsAreSteered(t *testing.T, config *tls.Config) {
	t.Parallel()
	lc := net.ListenConfig{Control: reusePort}
	own, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0") // an MPTCP socket, as CoreDNS's is
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	addr := own.Addr().String()
	g := streams(t, addr, StreamOptions{TLS: config, Listeners: 3}, &streamEcho{mark: "fast"})
	if ok, err := g.Steered(); !ok {
		t.Fatal(err)
	}
	for range 50 {
		c := dial(t, addr)
		c.send("")
		c.want("fast")
	}
	until(t, "50 connections", func() bool { return g.Conns() == 50 })
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		dial(t, addr)
		c, err := own.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestSwapOfStreams(t *testing.T) { overTCPAndTLS(t, testSwapOfStreams) }

func testSwapOfStreams(t *testing.T, config *tls.Config) {
	t.Parallel()
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, &streamEcho{mark: "1"})
	c := dial(t, addr)
	c.send("a")
	c.want("a1")
	g.Swap(&streamEcho{mark: "2"}, patient)
	c.send("b")
	c.want("b2")
}

// Answers are sent in the order in which they become ready, also to a client
// that has closed its side. Then the connection ends.
func TestHeldAnswers(t *testing.T) { overTCPAndTLS(t, testHeldAnswers) }

func testHeldAnswers(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 2)}
	_, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	c := dial(t, addr)
	c.send("hold 1", "hold 2", "at once")
	c.want("at once")
	first, second := <-e.held, <-e.held
	if err := second.conn.Send([]byte(second.text)); err != nil {
		t.Fatal(err)
	}
	second.conn.Done()
	c.want("hold 2")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := first.conn.Send([]byte(first.text)); err != nil {
		t.Fatal(err)
	}
	first.conn.Done()
	c.want("hold 1")
	c.ends()
	until(t, "the end", func() bool { return errors.Is(first.conn.Send(nil), net.ErrClosed) })
	if err := first.conn.Send(make([]byte, MaxMessage+1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("too long: %v", err)
	}
}

// A client with MaxPending pending answers is not read from until some have
// been sent. All of its messages are served in the end.
func TestPendingAnswersSlowTheClientDown(t *testing.T) {
	overTCPAndTLS(t, testPendingAnswersSlowTheClientDown)
}

func testPendingAnswersSlowTheClientDown(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 2000)}
	_, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	c := dial(t, addr)
	const all = 1000
	var messages []string
	for i := range all {
		messages = append(messages, fmt.Sprint("hold ", i))
	}
	c.send(messages...)
	for i := range all {
		h := <-e.held
		if h.text != messages[i] {
			t.Fatalf("%q", h.text)
		}
		if i == 0 {
			until(t, "the bound", h.conn.Busy)
		}
		if n := h.conn.pending.Load(); n > MaxPending {
			t.Fatalf("%d answers are pending", n)
		}
		if err := h.conn.Send([]byte(h.text)); err != nil {
			t.Fatal(err)
		}
		h.conn.Done()
	}
	c.want(messages...)
}

// The limits hold for the first message, for the next ones, and for a message
// that comes in pieces, but not while an answer is pending.
func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	const short = 20 * time.Millisecond
	e := &streamEcho{held: make(chan held, 1)}
	_, addr := local(t, StreamOptions{Unsteered: true, Limits: StreamLimits{Read: short, Idle: time.Hour, Write: time.Hour}}, e)
	dial(t, addr).ends()
	dribbler := dial(t, addr)
	if _, err := dribbler.Write([]byte{0, 5, 'h'}); err != nil {
		t.Fatal(err)
	}
	dribbler.ends()

	_, addr = local(t, StreamOptions{Unsteered: true, Limits: StreamLimits{Read: time.Hour, Idle: short, Write: time.Hour}}, e)
	c := dial(t, addr)
	c.send("one", "hold")
	c.want("one")
	h := <-e.held
	// When the later deadline of this connection has expired, its own has too.
	other := dial(t, addr)
	other.send("two")
	other.want("two")
	other.ends()
	if err := h.conn.Send([]byte("here")); err != nil {
		t.Fatal(err)
	}
	h.conn.Done()
	c.want("here")
	c.ends()
}

// The server may limit the messages of a connection.
func TestMessagesOfAConnectionAreLimited(t *testing.T) {
	overTCPAndTLS(t, testMessagesOfAConnectionAreLimited)
}

func testMessagesOfAConnectionAreLimited(t *testing.T, config *tls.Config) {
	t.Parallel()
	limits := patient
	limits.Messages = 40
	_, addr := local(t, StreamOptions{TLS: config, Unsteered: true, Limits: limits}, &streamEcho{})
	c := dial(t, addr)
	for i := range 40 {
		c.send(fmt.Sprint(i))
		c.want(fmt.Sprint(i))
	}
	c.ends()
}

// A client that does not read is not read from, does not delay other clients,
// and is closed after the write timeout.
func TestSlowClientIsClosed(t *testing.T) { overTCPAndTLS(t, testSlowClientIsClosed) }

func testSlowClientIsClosed(t *testing.T, config *tls.Config) {
	t.Parallel()
	limits := patient
	limits.Write = 100 * time.Millisecond
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true, Limits: limits}, &streamEcho{})
	lazy := dial(t, addr)
	sent := make(chan error, 1)
	go func() {
		message := frames(strings.Repeat("x", MaxMessage))
		for {
			if _, err := lazy.Write(message); err != nil {
				sent <- err
				return
			}
		}
	}()
	// On a busy machine it may be closed already.
	until(t, "the client to fall behind", func() bool { return g.held.Load() > 0 || len(sent) > 0 })
	other := dial(t, addr)
	other.send("hello")
	other.want("hello")
	if err := <-sent; errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	until(t, "the end of the lazy one", func() bool { return g.Conns() == 1 })
	if n := g.Take(); n != (StreamCounts{Slow: 1}) || g.Take() != (StreamCounts{}) {
		t.Errorf("%+v", n)
	}
}

// If a client requests long replies in few bytes and does not read them, the
// server keeps at most one write of them.
func TestRepliesAreNotMadeInAdvance(t *testing.T) { overTCPAndTLS(t, testRepliesAreNotMadeInAdvance) }

func testRepliesAreNotMadeInAdvance(t *testing.T, config *tls.Config) {
	t.Parallel()
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, &streamEcho{})
	c := dial(t, addr)
	const all = 1000 // 64 MB
	var messages []string
	for range all {
		messages = append(messages, "big")
	}
	c.send(messages...)
	until(t, "the client to fall behind", func() bool { return g.held.Load() > 0 })
	for range all {
		if n := g.held.Load(); n > FullAt+maxFrame+all*5 {
			t.Fatalf("%d bytes are kept", n)
		}
		if p, err := c.next(); err != nil || len(p) != MaxMessage {
			t.Fatal(len(p), err)
		}
	}
}

// The bytes that are kept for slow clients are bounded.
func TestKeptBytesAreBounded(t *testing.T) { overTCPAndTLS(t, testKeptBytesAreBounded) }

func testKeptBytesAreBounded(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	g.held.Store(maxHeld)
	defer g.held.Add(-maxHeld)
	// The start of a long message would exceed the bound.
	c := dial(t, addr)
	if _, err := c.Write(append([]byte{0xff, 0xff}, make([]byte, 2*small)...)); err != nil {
		t.Fatal(err)
	}
	c.ends()
	// So would replies to a client that does not read them.
	c = dial(t, addr)
	c.send("hold")
	h := <-e.held
	var err error
	for err == nil {
		err = h.conn.Send(make([]byte, MaxMessage))
	}
	if h.conn.Done(); !errors.Is(err, ErrSlow) {
		t.Error(err)
	}
	// A client that reads is served.
	c = dial(t, addr)
	c.send("hello")
	c.want("hello")
	if n := g.Take(); n.Slow != 2 {
		t.Errorf("%+v", n)
	}
}

// SendAll returns when the kernel has accepted all bytes.
func TestSendAllWaitsForTheClient(t *testing.T) { overTCPAndTLS(t, testSendAllWaitsForTheClient) }

func testSendAllWaitsForTheClient(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	c := dial(t, addr)
	c.send("hold")
	h := <-e.held
	const all = 1000 // 64 MB, more than the kernel buffers
	sent := make(chan error, 1)
	p := bytes.Repeat([]byte("x"), MaxMessage)
	go func() {
		for range all {
			if err := h.conn.SendAll(p); err != nil {
				sent <- err
				return
			}
			if n := g.held.Load(); n != 0 {
				sent <- fmt.Errorf("%d bytes are left", n)
				return
			}
		}
		h.conn.Done()
		sent <- nil
	}()
	until(t, "the client to fall behind", func() bool { return g.held.Load() > 0 })
	for range all {
		c.want(string(p))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// One client cannot keep others out. When all places are taken, its connections
// are closed, idle ones first. Its own further ones are refused.
func TestConnectionsAreBounded(t *testing.T) { overTCPAndTLS(t, testConnectionsAreBounded) }

func testConnectionsAreBounded(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 3)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	g.mu.Lock()
	g.places.most = 3
	g.mu.Unlock()
	var hog []*client
	for range 3 {
		c := dial(t, addr)
		c.send("a")
		c.want("a")
		hog = append(hog, c)
	}
	hog[0].send("hold")
	first := <-e.held
	other := dialFrom(t, "127.0.0.2", addr)
	other.send("b")
	other.want("b")
	hog[1].ends() // it was idle for the longest time
	if n := g.Take(); n != (StreamCounts{Evicted: 1}) {
		t.Errorf("%+v", n)
	}
	hog[2].send("hold")
	second := <-e.held
	dial(t, addr).ends()
	if n := g.Take(); n != (StreamCounts{Refused: 1}) {
		t.Errorf("%+v", n)
	}
	for i, h := range []held{first, second} {
		if err := h.conn.Send([]byte("at last")); err != nil {
			t.Error(err)
		}
		h.conn.Done()
		hog[2*i].want("at last")
	}
	other.send("c")
	other.want("c")
	hog[0].Close()
	until(t, "room", func() bool { return g.Conns() == 2 })
	c := dial(t, addr)
	c.send("b")
	c.want("b")
}

// Close waits for pending answers, and closes idle connections.
func TestCloseWaitsForPendingAnswers(t *testing.T) { overTCPAndTLS(t, testCloseWaitsForPendingAnswers) }

func testCloseWaitsForPendingAnswers(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	idle := dial(t, addr)
	c := dial(t, addr)
	c.send("hold")
	h := <-e.held
	closed := make(chan error)
	go func() { closed <- g.Close() }()
	idle.ends()
	if err := h.conn.Send([]byte("at last")); err != nil {
		t.Fatal(err)
	}
	h.conn.Done()
	c.want("at last")
	c.ends()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the address is still served")
	}
}

// Messages that the kernel has when Close begins are answered.
func TestCloseReadsQueuedMessages(t *testing.T) { overTCPAndTLS(t, testCloseReadsQueuedMessages) }

func testCloseReadsQueuedMessages(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	c := dial(t, addr)
	c.send("hold") // and the reader waits in the handler
	until(t, "the connection", func() bool { return g.Conns() == 1 })
	h := held{}
	closed := make(chan error)
	g.each(func(c *Conn) { h.conn = c })
	until(t, "the reader", func() bool { return h.conn.pending.Load() == 1 })
	c.send("late", "later")
	go func() { closed <- g.Close() }()
	until(t, "the end to begin", func() bool {
		h.conn.mu.Lock()
		defer h.conn.mu.Unlock()
		return h.conn.stopping
	})
	<-e.held
	c.want("late", "later")
	h.conn.Done()
	c.ends()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Messages over connections that have not been accepted yet are answered too.
func TestDrainAcceptsCompletedConnections(t *testing.T) {
	t.Parallel()
	g, _ := local(t, StreamOptions{Unsteered: true}, &streamEcho{})
	l, err := listenStream(net.JoinHostPort("127.0.0.1", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	var clients []*client
	for range 5 {
		c := dial(t, l.Addr().String())
		c.send("hello")
		clients = append(clients, c)
	}
	g.drain(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.want("hello")
	}
}

// Connections of clients that vanish are removed.
func TestClientsThatVanish(t *testing.T) { overTCPAndTLS(t, testClientsThatVanish) }

func testClientsThatVanish(t *testing.T, config *tls.Config) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	g, addr := local(t, StreamOptions{TLS: config, Unsteered: true}, e)
	for _, p := range [][]byte{nil, {0}, {0, 9, 'x'}, frames("whole"), frames("hold")} {
		c := dial(t, addr)
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if string(p) == string(frames("hold")) {
			h := <-e.held
			defer h.conn.Done()
			defer func() { _ = h.conn.Send([]byte("to nobody")) }()
		}
		_ = c.SetLinger(0) // a reset
		c.Close()
	}
	until(t, "their end", func() bool { return g.Conns() <= 1 })
}

func TestListenStreamsErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, listeners := range map[string]int{taken.Addr().String(): 1, "192.0.2.1:5353": 1, "127.0.0.1:5353": 0, "nonsense": 1} {
		if g, err := ListenStreams(addr, StreamOptions{Listeners: listeners}, &streamEcho{}); err == nil {
			t.Errorf("%s: no error", addr)
			_ = g.Close()
		}
	}
}

func TestStreamsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector buffers are thrown away at random")
	}
	_, addr := local(t, StreamOptions{Unsteered: true}, &streamEcho{})
	c := dial(t, addr)
	burst := frames("one", "two", "three", "four", "five", "six", "seven", "eight")
	buf := make([]byte, len(burst))
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(burst); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per burst", n)
	}
}
