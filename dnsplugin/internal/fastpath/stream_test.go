package fastpath

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// frames returns messages, each after its length.
func frames(messages ...string) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

// model splits a whole stream in a simple way.
func model(stream []byte) (messages []string, rest []byte) {
	for len(stream) >= 2 {
		n := int(stream[0])<<8 | int(stream[1])
		if len(stream) < 2+n {
			break
		}
		messages = append(messages, string(stream[2:2+n]))
		stream = stream[2+n:]
	}
	return messages, stream
}

// pieces feeds a stream to a burst as it may come from a socket. cuts has the
// lengths of the pieces and the numbers of messages that are served at a time.
func pieces(t *testing.T, stream, cuts []byte) (messages []string, rest []byte) {
	t.Helper()
	b := &Burst{in: make([]byte, maxFrame), out: make([]byte, 0, FullAt+maxFrame)}
	var kept []byte
	next := func() int {
		if len(cuts) == 0 {
			return maxFrame
		}
		n := int(cuts[0])
		cuts = cuts[1:]
		return n
	}
	for len(stream) > 0 {
		room := b.start(kept)
		if len(room) == 0 {
			t.Fatal("a burst without room has no whole message")
		}
		n := copy(room, stream[:min(len(stream), 1+next())])
		stream = stream[n:]
		b.filled += n
		for {
			if b.n == 0 {
				b.split(1 + next())
			}
			if b.n == 0 {
				break
			}
			n := min(b.Len(), 1+next())
			for i := range n {
				messages = append(messages, string(b.Message(i)))
			}
			b.served(n)
			// The rest is the input that has not been served.
			if len(b.rest()) != b.filled-b.at+len(frames(asStrings(b.msgs[:b.n])...)) {
				t.Fatalf("rest of %d bytes", len(b.rest()))
			}
		}
		kept = append(kept[:0], b.rest()...)
	}
	return messages, kept
}

func asStrings(all [][]byte) (out []string) {
	for _, b := range all {
		out = append(out, string(b))
	}
	return out
}

// FuzzFraming checks that a burst returns the messages of a stream whole and in
// order, in whatever pieces the stream comes.
func FuzzFraming(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		got, rest := pieces(t, stream, cuts)
		want, left := model(stream)
		if len(got) != len(want) || !bytes.Equal(rest, left) {
			t.Fatalf("%d messages and %d bytes, want %d and %d", len(got), len(rest), len(want), len(left))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("message %d: %x, want %x", i, got[i], want[i])
			}
		}
	})
}

// The longest messages, one after the other, with the length of the second one
// in two pieces.
func TestLongestMessages(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), MaxMessage))
	stream := frames(long, "", long, "short")
	got, rest := pieces(t, stream, []byte{0, 0, 200})
	if len(got) != 4 || got[0] != long || got[1] != "" || got[2] != long || got[3] != "short" || len(rest) != 0 {
		t.Errorf("%d messages, %d bytes left", len(got), len(rest))
	}
}

// A burst that is not full has room for the longest reply, and is not
// reallocated.
func TestRepliesFitUntilABurstIsFull(t *testing.T) {
	t.Parallel()
	b := &Burst{in: make([]byte, maxFrame), out: make([]byte, 0, FullAt+maxFrame)}
	b.start(nil)
	var want []string
	for _, n := range []int{0, 1, 100, FullAt - 110, MaxMessage} {
		if b.Full() {
			t.Fatalf("full after %d replies", len(want))
		}
		buf := b.Buffer()
		if len(buf) != 0 || cap(buf) != MaxMessage {
			t.Fatalf("%d bytes, room for %d", len(buf), cap(buf))
		}
		for i := range n {
			buf = append(buf, byte(i))
		}
		b.Reply(len(buf))
		want = append(want, string(buf))
	}
	if got, rest := model(b.out); !b.Full() || len(rest) > 0 || len(got) != len(want) || got[2] != want[2] || got[4] != want[4] {
		t.Errorf("%d replies, full: %v", len(got), b.Full())
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	l := StreamLimits{Read: 3 * time.Second, Idle: 10 * time.Second}
	for _, tt := range []struct {
		clock clock
		after time.Duration
	}{
		{clock{first: true, active: begin}, 3 * time.Second},
		{clock{active: begin}, 10 * time.Second},
	} {
		if got := tt.clock.end(l).Sub(begin); got != tt.after {
			t.Errorf("%+v: ends after %v", tt.clock, got)
		}
	}
}
