package fastpath

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// frames puts the length of each message before it.
func frames(messages ...string) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

// model splits a whole stream in the simplest way.
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

// pieces feeds a stream to a burst as it may come from a socket: in pieces
// whose lengths cuts says, served by as many messages at a time as cuts says.
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
			// What is not served is what is left, at any time.
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

// FuzzFraming: however a stream is cut up, its messages come out whole, in
// order, and nothing else does.
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

// The longest messages, one behind the other, with the length of the second
// cut in two.
func TestLongestMessages(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), MaxMessage))
	stream := frames(long, "", long, "short")
	got, rest := pieces(t, stream, []byte{0, 0, 200})
	if len(got) != 4 || got[0] != long || got[1] != "" || got[2] != long || got[3] != "short" || len(rest) != 0 {
		t.Errorf("%d messages, %d bytes left", len(got), len(rest))
	}
}

// A burst has room for the longest reply as long as it is not full, and does
// not move.
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
