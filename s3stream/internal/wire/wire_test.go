package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Type:   Type(rapid.IntRange(1, int(typeCount)-1).Draw(t, "type")),
			Flags:  rapid.Uint8().Draw(t, "flags"),
			Object: rapid.Uint32().Draw(t, "object"),
			Offset: rapid.Int64Range(0, 1<<62).Draw(t, "offset"),
			Sum:    rapid.Uint32().Draw(t, "sum"),
		}
		h.Length = rapid.Uint32Range(0, h.Type.limit()).Draw(t, "length")
		var b [HeaderLen]byte
		h.Put(b[:])
		got, err := Parse(b[:])
		if err != nil || got != h {
			t.Fatalf("Parse(Put(%+v)) = %+v, %v", h, got, err)
		}
		// Any single flipped bit is noticed.
		bit := rapid.IntRange(0, HeaderLen*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := Parse(b[:]); err == nil {
			t.Fatalf("bit %d flipped and accepted", bit)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	valid := func(edit func(*Header)) []byte {
		h := Header{Type: Block, Length: 10}
		edit(&h)
		b := make([]byte, HeaderLen)
		h.Put(b)
		return b
	}
	resum := func(b []byte) []byte {
		s := Sum(b[:28])
		b[28], b[29], b[30], b[31] = byte(s>>24), byte(s>>16), byte(s>>8), byte(s)
		return b
	}
	http := append([]byte("HTTP/1.1 400 Bad Request\r\n"), make([]byte, 10)...)
	newer := valid(func(*Header) {})
	newer[3] = Version + 1
	reserved := valid(func(*Header) {})
	reserved[7] = 1
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"short":       {make([]byte, 31), ErrHeader},
		"http":        {http, ErrMagic},
		"newer":       {resum(newer), ErrVersion},
		"reserved":    {resum(reserved), ErrHeader},
		"type 0":      {valid(func(h *Header) { h.Type = 0 }), ErrHeader},
		"type high":   {valid(func(h *Header) { h.Type = typeCount }), ErrHeader},
		"huge block":  {valid(func(h *Header) { h.Length = MaxPayload + 1 }), ErrHeader},
		"fat ping":    {valid(func(h *Header) { h.Type = Ping }), ErrHeader},
		"long hello":  {valid(func(h *Header) { h.Type, h.Length = Hello, MaxHandshake+1 }), ErrHeader},
		"long error":  {valid(func(h *Header) { h.Type, h.Length = Error, MaxFailure+1 }), ErrHeader},
		"neg. offset": {valid(func(h *Header) { h.Offset = -1 }), ErrHeader},
	} {
		if _, err := Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestNumbersRoundTrip(t *testing.T) {
	tr := Trailer{Size: 1 << 40, Sum: 0xdeadbeef, Algorithm: 2, Full: 1 << 63}
	if got, err := ParseTrailer(tr.Append(nil)); err != nil || got != tr {
		t.Errorf("trailer: %+v, %v", got, err)
	}
	s := State{Have: 9, Low: 7, Children: 3, Waiting: true}
	if got, err := ParseState(s.Append(nil)); err != nil || got != s {
		t.Errorf("state: %+v, %v", got, err)
	}
	if _, err := ParseState(State{Have: 1, Low: 2}.Append(nil)); err == nil {
		t.Error("a state whose children are ahead of it was accepted")
	}
}

// pipe returns both framed ends of a loopback TCP connection.
func pipe(t *testing.T) (a, b *Conn) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	x, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return NewConn(x), NewConn(y)
}

func TestHandshake(t *testing.T) {
	want := Request{Role: Child, Name: "w3", Node: 3, Job: "j", From: 42}
	for _, c := range []struct{ ours, theirs string }{{"s", "s"}, {"", ""}, {"s", "t"}, {"", "t"}} {
		a, b := pipe(t)
		got := make(chan error, 1)
		go func() {
			req, welcome, err := Accept(b, c.theirs, 10*time.Second)
			if err == nil && req != want {
				t.Errorf("request %+v, want %+v", req, want)
			}
			if err == nil {
				err = welcome()
			}
			got <- err
		}()
		err, acceptErr := Open(a, c.ours, want, 10*time.Second), <-got
		if c.ours == c.theirs {
			if err != nil || acceptErr != nil {
				t.Errorf("same token: %v, %v", err, acceptErr)
			}
			continue
		}
		for _, err := range []error{err, acceptErr} {
			if f := (*Failure)(nil); !errors.As(err, &f) || f.Code != CodeToken {
				t.Errorf("tokens %q and %q: %v, want a token failure", c.ours, c.theirs, err)
			}
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	a, b := pipe(t)
	x, y := []byte("first block"), bytes.Repeat([]byte("second"), 20_000)
	frames := []Frame{
		{Header{Type: Block, Object: 1, Length: uint32(len(x)), Sum: Sum(x)}, x},
		{Header{Type: Ping}, nil},
		{Header{Type: Block, Object: 1, Offset: 11, Length: uint32(len(y)), Sum: Sum(y) ^ 1}, y},
	}
	errc := make(chan error, 1)
	go func() {
		err := a.Write(frames...)
		a.Close()
		errc <- err
	}()
	for i, f := range frames {
		h, err := b.ReadHeader()
		if err != nil || h != f.Header {
			t.Fatalf("frame %d: %+v, %v", i, h, err)
		}
		p := make([]byte, h.Length)
		err = b.ReadPayload(h, p)
		if corrupt := i == 2; errors.Is(err, ErrCorrupt) != corrupt || !bytes.Equal(p, f.Payload) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if _, err := b.ReadHeader(); err != io.EOF {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
	if err := <-errc; err != nil {
		t.Error(err)
	}
}

// discard is a net.Conn that takes everything.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestWriteDoesNotAllocate(t *testing.T) {
	c := NewConn(discard{})
	p := make([]byte, 1<<20)
	frames := []Frame{{Header{Type: Block, Length: 1 << 20}, p}, {Header{Type: Block, Length: 1 << 20}, p}}
	if n := testing.AllocsPerRun(100, func() { _ = c.Write(frames...) }); n > 0 {
		t.Errorf("%v allocations per write, want 0", n)
	}
}
