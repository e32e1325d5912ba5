//go:build amd64 || arm64

package fastpath

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// serverTLS is the configuration of the servers of these tests.
var serverTLS = sync.OnceValues(func() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"fastpath.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
})

// tlsPorts are the ports whose streams speak TLS.
var tlsPorts sync.Map

func overTLS(t *testing.T, addr string) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	tlsPorts.Store(port, true)
	t.Cleanup(func() { tlsPorts.Delete(port) })
}

// clientTLS returns what a client of addr needs for TLS, or nil if the streams
// there are plain.
func clientTLS(addr string) *tls.Config {
	_, port, err := net.SplitHostPort(addr)
	if _, secure := tlsPorts.Load(port); err != nil || !secure {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // a server of this test
}

// overTCPAndTLS runs a test with plain streams (config is nil) and over TLS.
func overTCPAndTLS(t *testing.T, test func(t *testing.T, config *tls.Config)) {
	t.Helper()
	config, err := serverTLS()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("TCP", func(t *testing.T) { test(t, nil) })
	t.Run("TLS", func(t *testing.T) { test(t, config) })
}

func localTLS(t *testing.T, limits StreamLimits, h StreamHandler) (*Streams, string) {
	t.Helper()
	config, err := serverTLS()
	if err != nil {
		t.Fatal(err)
	}
	return local(t, StreamOptions{Unsteered: true, TLS: config, Limits: limits}, h)
}

// Both versions work, and the handler can see which one it is.
func TestTLSVersions(t *testing.T) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	_, addr := localTLS(t, patient, e)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		config := clientTLS(addr)
		config.MinVersion, config.MaxVersion = version, version
		c := tls.Client(raw, config)
		_ = c.SetDeadline(time.Now().Add(inTime))
		if _, err := c.Write(frames("hold")); err != nil {
			t.Fatal(err)
		}
		h := <-e.held
		if state := h.conn.ConnectionState(); state == nil || state.Version != version || !state.HandshakeComplete {
			t.Errorf("%x: %+v", version, state)
		}
		h.conn.Done()
	}
	_, addr = local(t, StreamOptions{Unsteered: true}, e)
	c := dial(t, addr)
	c.send("hold")
	h := <-e.held
	if state := h.conn.ConnectionState(); state != nil {
		t.Errorf("plain: %+v", state)
	}
	h.conn.Done()
}

// Connections that open after SwapTLS get the new certificate, open ones stay.
func TestSwapTLS(t *testing.T) {
	t.Parallel()
	g, addr := localTLS(t, patient, &streamEcho{})
	before := dial(t, addr)
	before.send("a")
	before.want("a")
	config := g.config.Load().Clone()
	config.MaxVersion = tls.VersionTLS12
	g.SwapTLS(config)
	after := dial(t, addr)
	after.send("b")
	after.want("b")
	before.send("c")
	before.want("c")
	old, ok := before.over.(*tls.Conn)
	swapped, ok2 := after.over.(*tls.Conn)
	if !ok || !ok2 || old.ConnectionState().Version != tls.VersionTLS13 || swapped.ConnectionState().Version != tls.VersionTLS12 {
		t.Error("versions")
	}
}

// A client that sends its messages together with the end of its handshake does
// not wait for an answer: no further input comes that could wake the server.
func TestMessagesRightBehindTheHandshake(t *testing.T) {
	t.Parallel()
	_, addr := localTLS(t, patient, &streamEcho{})
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(inTime))
	g := &gatheringConn{Conn: raw}
	config := clientTLS(addr)
	config.MinVersion = tls.VersionTLS13
	c := tls.Client(g, config)
	g.handshake = true
	if err := c.Handshake(); err != nil { // its end stays in g
		t.Fatal(err)
	}
	if _, err := c.Write(frames("one", "two")); err != nil {
		t.Fatal(err)
	}
	g.handshake = false
	if _, err := raw.Write(g.held); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(frames("one", "two")))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != string(frames("one", "two")) {
		t.Fatalf("%q %v", got, err)
	}
}

// gatheringConn keeps all writes of a handshake but the first.
type gatheringConn struct {
	net.Conn
	handshake bool
	writes    int
	held      []byte
}

func (g *gatheringConn) Write(p []byte) (int, error) {
	if g.writes++; g.handshake && g.writes > 1 {
		g.held = append(g.held, p...)
		return len(p), nil
	}
	return g.Conn.Write(p)
}

// The end of the connection is announced in TLS, so that a client can tell it
// from a cut by an attacker.
func TestEndOfTLSIsAnnounced(t *testing.T) {
	t.Parallel()
	limits := patient
	limits.Messages = 1
	_, addr := localTLS(t, limits, &streamEcho{})
	c := dial(t, addr)
	c.send("last")
	c.want("last")
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

// The connection of a client that does not complete the handshake, or sends
// something else, is closed.
func TestInputThatIsNotTLS(t *testing.T) {
	t.Parallel()
	limits := patient
	limits.Read = 50 * time.Millisecond
	g, addr := localTLS(t, limits, &streamEcho{})
	for _, p := range []string{"", "\x16\x03\x01", "\x16\x03\x01\xff\xff", "GET / HTTP/1.1\r\n\r\n", string(frames("plain")), strings.Repeat("\x17", 70_000)} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(inTime))
		_, _ = c.Write([]byte(p)) // the server may have closed it already
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: %v", p, err)
		}
		c.Close()
	}
	until(t, "their end", func() bool { return g.Conns() == 0 })
}

// A record that was changed on the way ends the connection; nothing of it is
// served.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	e := &streamEcho{held: make(chan held, 1)}
	_, addr := localTLS(t, patient, e)
	c := dial(t, addr)
	c.send("whole")
	c.want("whole")
	record := append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...)
	if _, err := c.TCPConn.Write(record); err != nil {
		t.Fatal(err)
	}
	if _, err := c.next(); err == nil {
		t.Error("the connection continues")
	}
	if len(e.held) != 0 {
		t.Error("it was served")
	}
}

// Records may come in pieces, and messages in several records.
func TestRecordsInPieces(t *testing.T) {
	t.Parallel()
	_, addr := localTLS(t, patient, &streamEcho{})
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(inTime))
	c := tls.Client(piecemeal{raw}, clientTLS(addr))
	want := frames("one", strings.Repeat("long", 5000), "")
	for _, p := range [][]byte{want[:1], want[1:4], want[4:]} {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// piecemeal writes seven bytes at a time.
type piecemeal struct{ net.Conn }

func (p piecemeal) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := p.Conn.Write(b[n:min(n+7, len(b))])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// The limits hold over TLS: for a client that only shakes hands, and between
// messages.
func TestTLSIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	limits := patient
	limits.Idle = 20 * time.Millisecond
	_, addr := localTLS(t, limits, &streamEcho{})
	c := dial(t, addr)
	c.send("one")
	c.want("one")
	c.ends()
	limits = patient
	limits.Read = 300 * time.Millisecond
	_, addr = localTLS(t, limits, &streamEcho{})
	c = dial(t, addr)
	if over, ok := c.over.(*tls.Conn); ok {
		_ = over.Handshake() // fails where a busy machine takes longer than the limit
	}
	c.ends()
}

// protocolHandler serves connections in capitals, or passes them on.
type protocolHandler struct {
	streamEcho
	passed chan net.Conn
	ended  chan struct{}
}

func (h *protocolHandler) Open(c *Conn, alpn string) (Protocol, []byte) {
	if alpn == "" {
		return nil, nil
	}
	return &capitals{c: c, h: h}, []byte(alpn + "\n")
}

func (h *protocolHandler) Pass(c net.Conn) { h.passed <- c }

// capitals is a protocol of lines, which are answered in capitals.
type capitals struct {
	c *Conn
	h *protocolHandler
}

func (p *capitals) Feed(in, out []byte) (used int, _ []byte, more bool, err error) {
	for {
		line, _, whole := strings.Cut(string(in[used:]), "\n")
		switch {
		case !whole:
			return used, out, false, nil
		case len(out) >= FullAt:
			return used, out, true, nil
		case line == "end":
			return used, append(out, "error\n"...), false, errors.New("the end")
		}
		used += len(line) + 1
		out = append(append(out, strings.ToUpper(line)...), '\n')
	}
}

func (p *capitals) GoAway(out []byte) []byte { return append(out, "bye\n"...) }
func (p *capitals) Close()                   { p.h.ended <- struct{}{} }

// dialALPN connects as a client of a protocol.
func dialALPN(t *testing.T, addr string, protocols ...string) *client {
	t.Helper()
	c := dial(t, addr)
	config := clientTLS(addr)
	config.NextProtos = protocols
	c.over = tls.Client(c.TCPConn, config)
	c.in.Reset(c.over)
	return c
}

// A handler may serve connections in a protocol of its own: input in any
// pieces, a long output, the end by either side, and an error.
func TestProtocols(t *testing.T) {
	t.Parallel()
	config, err := serverTLS()
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.NextProtos = []string{"caps"}
	h := &protocolHandler{passed: make(chan net.Conn, 1), ended: make(chan struct{}, 9)}
	g, addr := local(t, StreamOptions{Unsteered: true, TLS: config, Most: 3}, h)
	line := func(c *client, want string) {
		t.Helper()
		if got, err := c.in.ReadString('\n'); err != nil || got != want+"\n" {
			t.Fatalf("%.40q %v, want %.40q", got, err, want)
		}
	}
	c := dialALPN(t, addr, "caps")
	long := strings.Repeat("x", 20_000)
	go func() {
		for _, p := range []string{"a", "bc\nd", "\n", long + "\n" + long + "\n" + long + "\n"} {
			if _, err := c.Write([]byte(p)); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, want := range []string{"caps", "ABC", "D", strings.ToUpper(long), strings.ToUpper(long), strings.ToUpper(long)} {
		line(c, want)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	line(c, "bye")
	<-h.ended
	c = dialALPN(t, addr, "caps")
	if _, err := c.Write([]byte("end\nx\n")); err != nil {
		t.Fatal(err)
	}
	line(c, "caps")
	line(c, "error")
	<-h.ended
	// A connection that is passed on blocks, and counts until it is closed.
	c = dialALPN(t, addr)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	passed := <-h.passed
	buf := make([]byte, 5)
	if _, err := io.ReadFull(passed, buf); err != nil || string(buf) != "hello" {
		t.Errorf("%q %v", buf, err)
	}
	if err := passed.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Error(err)
	}
	if _, err := passed.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	until(t, "the end of the others", func() bool { return g.Conns() == 1 })
	passed.Close()
	c.ends()
	until(t, "the end", func() bool { return g.Conns() == 0 })
	// The bound of the options holds.
	for range 5 {
		_, _ = dialALPN(t, addr, "caps").Write([]byte("one\n")) // it may be closed already
	}
	until(t, "evictions", func() bool { n := g.Take(); return n.Evicted+n.Refused > 0 })
	if n := g.Conns(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

// crypto/tls allocates a reader for each read that needs input: at most three
// here, and as many for the client.
func TestTLSAllocatesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector buffers are thrown away at random")
	}
	_, addr := localTLS(t, patient, &streamEcho{})
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
	}); n > 4 {
		t.Errorf("%v allocations per burst of eight, with the client's", n)
	}
}
