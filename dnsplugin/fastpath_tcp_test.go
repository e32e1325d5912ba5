//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// streamClient is a client over one TCP connection.
type streamClient struct {
	*net.TCPConn
	t  testing.TB
	in *bufio.Reader
}

func (s *testServer) dial() *streamClient {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &streamClient{c.(*net.TCPConn), s.t, bufio.NewReader(c)}
}

// frame puts the length of each message before it.
func frame(messages ...[]byte) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

func (c *streamClient) send(messages ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(frame(messages...)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next message, nil at the end of the connection.
func (c *streamClient) next() []byte {
	c.t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(c.in, length[:]); err != nil {
		return nil
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c.in, m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// ask sends r and returns the reply.
func (c *streamClient) ask(r *dns.Msg) *dns.Msg {
	c.t.Helper()
	c.send(wireOf(c.t, r))
	return messageOf(c.t, c.next())
}

func wireOf(t testing.TB, r *dns.Msg) []byte {
	t.Helper()
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageOf(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return m
}

func TestStreamAnswersFromTheCache(t *testing.T) {
	src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
	s := start(t, fmt.Sprintf(simple, "", ""), map[string]*source{"A": src})
	c := s.dial()
	for range 3 {
		m := c.ask(question("www.example.org.", dns.TypeA))
		if len(m.Answer) != 1 {
			t.Fatalf("%v", m)
		}
	}
	p := wireOf(t, question("www.example.org.", dns.TypeA))
	var all [][]byte
	for range 5000 {
		all = append(all, p)
	}
	go c.send(all...)
	for range 5000 {
		if c.next() == nil {
			t.Fatal("end")
		}
	}
}
