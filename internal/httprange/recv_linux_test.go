//go:build !386 && !s390x

package httprange

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"
)

// pair returns a TCP connection over loopback: its receiver and both ends.
func pair(t *testing.T) (*receiver, *net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	r := newReceiver(a)
	if r == nil {
		t.Fatal("no receiver for a TCP connection")
	}
	return r, a.(*net.TCPConn), b.(*net.TCPConn)
}

// All bytes arrive, in pieces of any size and with any expected length, and the
// reader never waits for more bytes than were sent.
func TestReceiverDeliversAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r, _, peer := pair(t)
	for round := range 20 {
		body := make([]byte, rnd.IntN(3<<20)+1)
		for i := 0; i < len(body); i += 1 + rnd.IntN(64) {
			body[i] = byte(rnd.Uint32())
		}
		piece := rnd.IntN(200_000)
		go func() {
			for b := body; len(b) > 0; {
				piece = (piece*7 + 13) % 200_000
				n := min(len(b), 1+piece)
				if _, err := peer.Write(b[:n]); err != nil {
					return
				}
				b = b[n:]
			}
		}()
		r.left = int64(len(body))
		if round%3 == 0 {
			r.left = 0 // as in a chunked body
		}
		got := make([]byte, len(body))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// The end of the stream and a reset wake a reader that waits for more bytes. The
// bytes before the end are delivered.
func TestReceiverEnds(t *testing.T) {
	r, _, peer := pair(t)
	r.left, r.low = 1<<20, lowMost
	done := make(chan error, 1)
	var got []byte
	go func() {
		var err error
		got, err = io.ReadAll(r)
		done <- err
	}()
	if _, err := peer.Write([]byte("some")); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	if err := <-done; err != nil || string(got) != "some" {
		t.Fatalf("got %q, %v", got, err)
	}

	r, _, peer = pair(t)
	r.left, r.low = 1<<20, lowMost
	go func() { _, err := r.Read(make([]byte, 9)); done <- err }()
	_ = peer.SetLinger(0)
	peer.Close()
	if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a reset gives %v", err)
	}

	r, conn, _ := pair(t)
	go func() { _, err := r.Read(make([]byte, 9)); done <- err }()
	conn.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closing gives %v", err)
	}
}

// The mark doubles while waits are short, halves when they are long, and never
// exceeds the rest of the body.
func TestReceiverMark(t *testing.T) {
	r, conn, _ := pair(t)
	fd := func(f func(fd int)) {
		raw, err := conn.SyscallConn()
		if err == nil {
			err = raw.Control(func(p uintptr) { f(int(p)) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mark := func() (n int) {
		fd(func(fd int) { n, _ = syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVLOWAT) })
		return n
	}
	r.left = 10 << 20
	for range 20 {
		fd(r.wait)
		r.woken()
	}
	if r.low != lowMost || mark() != lowMost {
		t.Errorf("after short waits the mark is %d, the socket's %d, want %d", r.low, mark(), lowMost)
	}
	r.left = 1000
	fd(r.wait)
	if mark() != 1000 {
		t.Errorf("1000 bytes are left, the socket waits for %d", mark())
	}
	r.since = time.Now().Add(-time.Second)
	r.woken()
	if r.low != lowMost/2 {
		t.Errorf("after a long wait the mark is %d", r.low)
	}
	r.left = 0
	fd(r.wait)
	if mark() != 1 {
		t.Errorf("for a head the socket waits for %d bytes", mark())
	}
}
