package wire

import (
	"bytes"
	"encoding/json"
	"net"
	"testing"
	"time"
)

// FuzzHeader: a header that Parse accepts encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	var b [HeaderLen]byte
	(&Header{Type: Block, Object: 7, Length: 1 << 20, Offset: 3 << 20, Sum: 5}).Put(b[:])
	f.Add(b[:])
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := Parse(in)
		if err != nil {
			return
		}
		if h.Length > h.Type.limit() {
			t.Fatalf("%+v is over its limit", h)
		}
		h.Put(b[:])
		if !bytes.Equal(b[:], in[:HeaderLen]) {
			t.Fatalf("%x encodes to %x", in[:HeaderLen], b)
		}
	})
}

// script is a net.Conn that reads from memory.
type script struct {
	net.Conn
	r bytes.Reader
}

func (s *script) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *script) Write(p []byte) (int, error) { return len(p), nil }
func (s *script) SetDeadline(time.Time) error { return nil }

func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzStream reads arbitrary bytes as frames, as each state of a peer does:
// it must end in an error or EOF without a panic or a large allocation.
func FuzzStream(f *testing.F) {
	frame := func(t Type, p []byte) []byte {
		b := make([]byte, HeaderLen)
		(&Header{Type: t, Length: uint32(len(p)), Sum: Sum(p)}).Put(b)
		return append(b, p...)
	}
	f.Add(frame(End, Trailer{Size: 1}.Append(nil)))
	f.Add(frame(Progress, State{Have: 1}.Append(nil)))
	f.Add(frame(Error, []byte(`{"code":"x","message":"y"}`)))
	req, _ := json.Marshal(hello{Nonce: make([]byte, nonceLen), Request: []byte(`{}`)})
	f.Add(frame(Hello, req))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &script{}
		s.r.Reset(in)
		if _, _, err := Accept(NewConn(s), "token", time.Second); err == nil {
			t.Fatal("a peer without the token was accepted")
		}
		s.r.Reset(in)
		if err := Open(NewConn(s), "token", Request{}, time.Second); err == nil {
			t.Fatal("an acceptor without the token was believed")
		}
		s.r.Reset(in)
		c := NewConn(s)
		for {
			h, err := c.ReadHeader()
			if err != nil {
				return
			}
			p, err := c.ReadSmall(h)
			if err != nil {
				return
			}
			switch h.Type {
			case End:
				if tr, err := ParseTrailer(p); err == nil && !bytes.Equal(tr.Append(nil), p) {
					t.Fatalf("trailer %x changes in a round trip", p)
				}
			case Sums:
				sums, err := ParseSums(p)
				var again []byte
				for i := range sums {
					again = sums[i].Append(again)
				}
				if err == nil && !bytes.Equal(again, p) {
					t.Fatalf("sums %x change in a round trip", p)
				}
			case Progress:
				if st, err := ParseState(p); err == nil && !bytes.Equal(st.Append(nil), p) {
					t.Fatalf("state %x changes in a round trip", p)
				}
			}
		}
	})
}
